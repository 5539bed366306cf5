"""Elites on the screen and in the run folder."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from rich.table import Table

from ..proxies.whole_file import replace_file
from ..search.elites import Elite, pareto
from ..search.programs import ROWS_IN_ALL
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
        row |= {label: str(e.held_out[name]) for name, label in _labels(list(e.held_out)).items()}
        rows.append(row | {"sure": "yes" if e.beats_adamw else "no"})
    return rows


def elite_table(elites: Sequence[Elite]) -> Table:
    """The hall of fame: fitness is AdamW-equivalent steps over own steps, 1 is tuned AdamW."""
    rows = elite_rows(elites)
    return plain_table(_TITLE, rows[0] if rows else (), [[*row.values()] for row in rows], whole=True)


def _labels(tasks: Sequence[str]) -> dict[str, str]:
    """Tasks by what their columns are called: a file's without its folders, but for those that tell it from another's.

    >>> _labels(["bytes", "/a/b/mine.py:T", "/a/c/mine.py:T"])
    {'bytes': 'bytes', '/a/b/mine.py:T': 'b/mine.py:T', '/a/c/mine.py:T': 'c/mine.py:T'}
    """

    def end(task: str, parts: int) -> str:
        return str(Path(*Path(task).parts[-parts:]))

    def alone(task: str, parts: int) -> bool:
        return [end(other, parts) for other in tasks].count(end(task, parts)) == 1

    return {task: end(task, next(n for n in count(1) if n > len(Path(task).parts) or alone(task, n))) for task in tasks}


def write_elites(folder: Path, elites: Sequence[Elite], in_all: int) -> None:
    """hall_of_fame.csv and best/<rank>.opt, each replaced whole; of a run that had so many rows."""
    text = io.StringIO()
    rows = elite_rows(elites)
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["#"])
    writer.writeheader()
    writer.writerows(rows)
    replace_file(folder / "hall_of_fame.csv", text.getvalue())
    (folder / "best").mkdir(exist_ok=True)
    for number, (elite, row) in enumerate(zip(elites, rows, strict=True), 1):
        note = "".join(f"# {'place' if name == '#' else name}: {value}\n" for name, value in row.items() if value)
        note += f"# {ROWS_IN_ALL}: {in_all}\n"
        replace_file(folder / "best" / f"{number}.opt", note + _without_doc(elite.program))
    for old in (folder / "best").glob("*.opt"):
        if not old.stem.isdecimal() or int(old.stem) > len(elites):
            old.unlink()


def _without_doc(text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))
