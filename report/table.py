"""Tables on the screen, in one style."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table


def plain_table(
    title: str, columns: Iterable[str] = (), rows: Iterable[Sequence[str]] = (), no_wrap: bool = False
) -> Table:
    """A table without lines, its title at the left."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in columns:
        table.add_column(name, no_wrap=no_wrap)
    for row in rows:
        table.add_row(*row)
    return table
