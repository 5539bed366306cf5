"""Brings every job to an end on an executor, whatever its programs do to workers.

A batch whose worker died or hung is tried once more, then split until the guilty program is alone, tried three times
and named; a split batch keeps every program in its place.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace

from ..proxies import TaskError, UnknownTask, is_out_of_memory
from .curve import LOWEST, NoCurve
from .executors import Executor, ExecutorError, Report, worker_died
from .fitness import Job, Score
from .memory import PopulationTooLarge

log = logging.getLogger(__name__)

SET_ASIDE = "set aside"
NOBODYS = (NoCurve, TaskError, UnknownTask, ExecutorError)  # errors that no program is guilty of
_ALONE = 3  # tries of a program that is alone: a lost node or two must not look like its fault
_ALL = 4  # programs of a batch from which on it is odd that all should fail


@dataclass
class _Part:
    """A job, or a part of it after a fault, and how many tries it has."""

    ticket: int
    job: Job
    places: tuple[int, ...]
    tries: int = 2


@dataclass(frozen=True)
class Done:
    """A finished job: a score per program, the workers' reports, and faults by program."""

    ticket: int
    scores: list[Score]
    reports: list[Report]
    faults: list[str]


class Dispatcher:
    """Keeps jobs running on an executor and brings every one to an end, whatever its programs do to workers."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.running: dict[Future[Report], _Part] = {}
        self.dropped: list[Future[Report]] = []
        self.open: dict[int, Done] = {}
        self.missing: dict[int, int] = {}
        self.tickets = 0

    def submit(self, job: Job) -> int:
        """Starts a job without empty places; its ticket comes back with `finished`."""
        while self.dropped:
            self.executor.cancel(self.dropped.pop())
        ticket = self.tickets
        self.tickets += 1
        lowest = tuple((LOWEST,) * len(job.trial.seeds) for _ in job.trial.tasks)  # until, or unless, it is scored
        self.open[ticket] = Done(ticket, [Score(p, LOWEST, lowest) for p in job.programs if p], [], [])
        self.missing[ticket] = 1
        self._start(_Part(ticket, job, tuple(range(len(job.programs)))))
        return ticket

    def _start(self, part: _Part) -> None:
        self.running[self.executor.submit(part.job)] = part

    def finished(self, timeout: float | None = None) -> Iterator[Done]:
        """Jobs that came to an end; waits for the first report at most `timeout` seconds."""
        done, _ = wait(self.running, timeout, return_when=FIRST_COMPLETED)
        for future in sorted(done, key=lambda f: self.running[f].ticket):
            part = self.running.pop(future)
            entry = self.open[part.ticket]
            error = future.exception()
            if error is None:
                report = future.result()
                entry.reports.append(report)
                for place in part.places:
                    score = report.scores[place]
                    assert score is not None
                    entry.scores[place] = score
                self.missing[part.ticket] -= 1
            else:
                self._fault(part, entry, error)
            if self.missing[part.ticket] == 0:
                del self.missing[part.ticket]
                yield self.open.pop(part.ticket)

    def abandon(self) -> None:
        """Drops every job in flight; their workers are free for others.

        Workers are freed when there are others: at the end of a search those that are replaced would start in vain.
        """
        self.dropped += self.running
        self.running.clear()
        self.open.clear()
        self.missing.clear()

    def _fault(self, part: _Part, entry: Done, error: BaseException) -> None:
        """Once more; then in halves, and a program that is alone up to three times; then it is set aside.

        What is nobody's fault (a task without a curve, no worker) ends the search.
        """
        if isinstance(error, NOBODYS):
            raise error
        if part.tries > 1:
            entry.faults.append(f"retried: {_describe(error)}")
            log.warning("%s; its job is tried again", _describe(error))
            self._start(replace(part, tries=part.tries - 1))
        elif len(part.places) > 1:
            entry.faults.append(f"split: {_describe(error)}")
            self._halve(part)
        else:
            self._set_aside(part, entry, _describe(error))

    def _halve(self, part: _Part) -> None:
        half = len(part.places) // 2
        self.missing[part.ticket] += 1
        for places in (part.places[:half], part.places[half:]):
            kept = tuple(p if i in places else None for i, p in enumerate(part.job.programs))
            tries = 1 if len(places) > 1 else _ALONE
            self._start(_Part(part.ticket, replace(part.job, programs=kept), places, tries))

    def _set_aside(self, part: _Part, entry: Done, why: str) -> None:
        """The score stays the lowest, with the reason. Where all programs of a batch fail, they are not the reason."""
        (place,) = part.places
        reason = f"{SET_ASIDE}: {why}"
        entry.scores[place] = replace(entry.scores[place], reason=reason)
        entry.faults.append(f"{reason}\n{part.job.programs[place]}")
        log.warning("%s is set aside: %s", getattr(part.job.programs[place], "name", "a program"), why)
        self.missing[part.ticket] -= 1
        if len(entry.scores) >= _ALL and all(score.reason.startswith(SET_ASIDE) for score in entry.scores):
            raise ExecutorError(f"all {len(entry.scores)} programs of a batch failed, the last because {why}: "
                                "that is not theirs to mend")  # fmt: skip


def _describe(error: BaseException) -> str:
    """The fault in a few words."""
    name = type(error).__name__
    if name == "TimeoutError":
        return "its worker hung"
    if worker_died(error):
        return "its worker died"
    if is_out_of_memory(error) or isinstance(error, PopulationTooLarge):
        return "it ran out of memory"
    return f"{name}: {error}".splitlines()[0]
