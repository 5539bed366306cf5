"""Tables on the screen, in one style."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table


def plain_table(
    title: str, columns: Iterable[str] = (), rows: Iterable[Sequence[str]] = (), whole: bool = False
) -> Table:
    """A table without lines, its title at the left; `whole` cuts no word in a cell, however narrow the screen."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    rows = list(rows)
    for place, name in enumerate(columns):
        words = [word for row in rows for word in row[place].split()]
        table.add_column(name, overflow="fold", min_width=max(map(len, words), default=1) if whole else None)
    for row in rows:
        table.add_row(*row)
    return table
