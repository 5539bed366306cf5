"""A funnel as a person runs it: what enters from a run or the catalogue, what goes on, and what is kept."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..dsl.errors import OF_FEW, did_you_mean
from ..evaluator.executors import check_device
from ..evaluator.validation.funnel import STAGES, Candidate, funnel
from ..search.ledger import Child, Ledger
from ..search.milestones import milestones
from ..search.programs import load_any
from .funnel_page import funnel_table, write_funnel
from .progress import clock
from .session import say
from .validation_session import HOME, ValidationError, called, file_name

if TYPE_CHECKING:
    from rich.console import Console


def run_funnel(
    names: Sequence[str], stages: Sequence[str], count: int, workers: int, device: str, console: Console
) -> None:
    """Sends programs through stages and prints their paths; exits with 130 when interrupted.

    Args:
        names: Run folders, of which the fittest rows and those that once were enter; or programs.
        stages: Of `STAGES`, in order.
        count: Of programs from each run.
        workers: Processes; 0: this one.
        device: Where runs train.
        console: Where it is told.

    Raises:
        ValidationError, TaskError, LedgerError: In one line.
    """
    if not stages:
        raise ValidationError(f"--stages names one of {', '.join(STAGES)} at least")
    if unknown := [name for name in stages if name not in STAGES]:
        raise ValidationError(f"unknown stage {unknown[0]!r}; {did_you_mean(unknown[0], STAGES, OF_FEW)}")
    check_device(device)
    chosen = [STAGES[name] for name in stages]
    entering = _entering(names, count)
    if not entering:
        raise ValidationError("no program but its start has come through all stages of the search; search longer")
    HOME.mkdir(parents=True, exist_ok=True)
    say(console, f"{len(entering)} programs enter: {', '.join(c.name for c in entering)}")
    try:
        with clock(console) as ticking:
            found = funnel(entering, chosen, HOME, workers, device, ticking.say, ticking.ran, ticking.expect)
    except KeyboardInterrupt:
        say(console, "interrupted: finished runs are kept; the same command goes on from there")
        sys.exit(130)
    folder = _folder(names)
    write_funnel(found, chosen, folder)
    console.print(funnel_table(found, chosen))
    if found.agreement is not None:
        say(console, f"search fitness against the first stage: Kendall's tau {found.agreement} (90% interval)")
    say(console, f"{folder}/funnel.html, {folder}/funnel.json")


def _folder(names: Sequence[str]) -> Path:
    """Beside the ledger of a run that is alone, else with the validations, by its sources."""
    own = Path(names[0])
    return own if len(names) == 1 and own.is_dir() else HOME / f"funnel-{file_name(*names)}"


def _entering(names: Sequence[str], count: int) -> list[Candidate]:
    """Each once, with its fitness where a run among the names knows that."""
    found: dict[str, Candidate] = {}
    for candidate in (one for name in names for one in _candidates(name, count)):
        if candidate.name not in found or found[candidate.name].fitness is None:
            found[candidate.name] = candidate
    return list(found.values())


def _candidates(name: str, count: int) -> list[Candidate]:
    if not Path(name, "ledger.sqlite").is_file():
        return [Candidate(called(name), str(load_any(name)))]
    with Ledger.reading(Path(name)) as ledger:
        rows = list(ledger.children())
    starts = {row.fitness for row in rows if row.is_start}  # and what trains to the very same losses is no find
    scored = [row for row in rows if row.scored and row.fitness not in starts]
    risen = milestones(scored, (count + 1) // 2)
    fittest = sorted(scored, key=lambda row: (-(row.fitness or 0), row.child))
    chosen: dict[float | None, Child] = {}
    for row in [*risen, *fittest]:
        if len(chosen) < count:
            chosen.setdefault(row.fitness, row)
    rows = sorted(chosen.values(), key=lambda row: row.child)
    return [Candidate(f"{name}:{row.child}", row.best_text, row.fitness, row.child) for row in rows]
