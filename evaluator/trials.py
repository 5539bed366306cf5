"""Trials on a dispatcher: programs trained seed by seed, side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ..dsl import Program
from .curve import curves_digest
from .dispatcher import Dispatcher
from .fitness import Job, Score, Trial, by_seed, joined

_TELL_EVERY = 30.0  # seconds


def scores(
    dispatcher: Dispatcher,
    programs: Sequence[Program],
    trial: Trial,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Score]:
    """A score per program, in order; the seeds of a trial run side by side where the executor has room.

    `tell` has a line now and then on how far that is.
    """
    if not programs:
        return []
    tickets = [dispatcher.submit(job) for job in by_seed(Job(tuple(programs), trial, curves_digest(trial.tasks)))]
    found: dict[int, list[Score]] = {}
    told = time.monotonic()
    while len(found) < len(tickets):
        found.update({done.ticket: done.scores for done in dispatcher.finished()})
        if len(found) < len(tickets) and time.monotonic() - told > _TELL_EVERY:
            told = time.monotonic()
            tell(f"{len(found)} of {len(tickets)} seeds are trained")
    return [joined([found[t][i] for t in tickets]) for i in range(len(programs))]
