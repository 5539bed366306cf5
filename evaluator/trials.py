"""Trials on a dispatcher: programs trained seed by seed, side by side."""

from __future__ import annotations

from collections.abc import Sequence

from ..dsl import Program
from .curve import curves_digest
from .dispatcher import Dispatcher
from .fitness import Job, Score, Trial, by_seed, joined


def scores(dispatcher: Dispatcher, programs: Sequence[Program], trial: Trial) -> list[Score]:
    """A score per program, in order; the seeds of a trial run side by side where the executor has room."""
    if not programs:
        return []
    tickets = [dispatcher.submit(job) for job in by_seed(Job(tuple(programs), trial, curves_digest(trial.tasks)))]
    found: dict[int, list[Score]] = {}
    while len(found) < len(tickets):
        found.update({done.ticket: done.scores for done in dispatcher.finished()})
    return [joined([found[t][i] for t in tickets]) for i in range(len(programs))]
