"""Elites on the screen and in the run folder."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from ..proxies.whole_file import replace_file
from ..search.elites import Elite, pareto
from .table import plain_table

_TITLE = (
    "Hall of fame: speedup over tuned AdamW on fresh seeds (corrected 95% interval)\n"
    "*: none is better and cheaper; sure: every interval lies above 1"
)


def elite_rows(elites: Sequence[Elite]) -> list[dict[str, str]]:
    """A row per elite: text for the table and for the file alike."""
    front = pareto(elites)
    rows = []
    for number, e in enumerate(elites, 1):
        row = {
            "#": f"{number}{'*' if e in front else ''}",
            "row": str(e.child),
            "state": str(e.cost.state),
            "ops": f"{e.cost.operations:g}",
            "lines": str(e.cost.statements),
            "search": f"{e.fitness:.3f}",
            "unseen seeds": str(e.seen),
        }
        row |= {Path(name).name: str(interval) for name, interval in e.held_out.items()}
        rows.append(row | {"sure": "yes" if e.beats_adamw else "no"})
    return rows


def elite_table(elites: Sequence[Elite]) -> Table:
    """The hall of fame: fitness is AdamW-equivalent steps over own steps, 1 is tuned AdamW."""
    rows = elite_rows(elites)
    return plain_table(_TITLE, rows[0] if rows else (), [[*row.values()] for row in rows], no_wrap=True)


def write_elites(folder: Path, elites: Sequence[Elite]) -> None:
    """hall_of_fame.csv and best/<rank>.opt, each replaced whole."""
    text = io.StringIO()
    rows = elite_rows(elites)
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["#"])
    writer.writeheader()
    writer.writerows(rows)
    replace_file(folder / "hall_of_fame.csv", text.getvalue())
    (folder / "best").mkdir(exist_ok=True)
    for number, (elite, row) in enumerate(zip(elites, rows, strict=True), 1):
        note = "".join(f"# {'place' if name == '#' else name}: {value}\n" for name, value in row.items() if value)
        replace_file(folder / "best" / f"{number}.opt", note + _without_doc(elite.program))
    for old in (folder / "best").glob("*.opt"):
        if not old.stem.isdecimal() or int(old.stem) > len(elites):
            old.unlink()


def _without_doc(text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))
