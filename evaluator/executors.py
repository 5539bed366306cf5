"""Where jobs run: in this process, or in worker processes. One small interface that others will join.

Choosing an executor changes no result. A batch whose worker died or hung is retried, then split until the
guilty program is named; a split batch keeps every program in its place.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from .curve import LOWEST
from .fitness import Job, Score, evaluate

Work = Callable[[Job], list[Score | None]]  # None at empty places


class Executor(Protocol):
    """Takes a job and gives a future of (scores, worker, wall seconds)."""

    def submit(self, job: Job) -> Future[Report]:
        """Starts the job, or queues it."""
        ...

    def close(self) -> None:
        """Stops all workers now."""
        ...


@dataclass(frozen=True)
class Report:
    """What a worker gives back."""

    scores: list[Score | None]
    worker: int
    seconds: float
    host: str = ""


def _run(work: Work, job: Job) -> Report:
    start = time.perf_counter()
    scores = work(job)
    return Report(scores, os.getpid(), time.perf_counter() - start, socket.gethostname())


class Inline:
    """Runs each job at once, in this process."""

    def __init__(self, work: Work = evaluate) -> None:
        self.work = work

    def submit(self, job: Job) -> Future[Report]:
        """A finished future. Denormal floats are 0 for the job alone: breeding, in this process too, keeps them."""
        from torch import set_flush_denormal

        from .train import use_one_thread

        future: Future[Report] = Future()
        use_one_thread()
        try:
            future.set_result(_run(self.work, job))
        except Exception as error:
            future.set_exception(error)
        finally:
            set_flush_denormal(False)
        return future

    def close(self) -> None:
        """Nothing to stop."""


class Processes:
    """`workers` processes, each on one torch thread; one that takes longer than `timeout` seconds is killed."""

    def __init__(self, workers: int, timeout: float = 600.0, work: Work = evaluate) -> None:
        self.workers, self.timeout, self.work = workers, timeout, work
        self.pool = self._new_pool()

    def _new_pool(self) -> Any:
        from pebble import ProcessPool

        _start_tracker()
        return ProcessPool(
            max_workers=self.workers,
            initializer=_start_worker,
            initargs=[os.getpid()],
            context=multiprocessing.get_context("spawn"),
        )

    def submit(self, job: Job) -> Future[Report]:
        """Queues the job. A pool breaks when a worker dies that had no job, and then makes way for a new one."""
        with _interrupts_blocked():
            if not self.pool.active:
                self.close()
                self.pool = self._new_pool()
            future: Future[Report] = self.pool.schedule(_run, args=[self.work, job], timeout=self.timeout)
        return future

    def close(self) -> None:
        """Kills the workers, running or not."""
        self.pool.stop()
        self.pool.join()


def _start_tracker() -> None:
    """The process that removes our semaphores after a kill -9, without a warning that it had to."""
    from multiprocessing import resource_tracker

    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, (before, "ignore:resource_tracker")))
    try:
        resource_tracker.ensure_running()
    finally:
        del os.environ["PYTHONWARNINGS"]
        if before is not None:
            os.environ["PYTHONWARNINGS"] = before


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Threads and processes that start meanwhile never see Ctrl-C, not even while they load: it is the driver's."""
    _start_tracker()  # it would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(parent: int) -> None:
    """One torch thread; gone when the parent is gone, even by kill -9."""
    from .train import use_one_thread

    use_one_thread()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def make_executor(workers: int, timeout: float = 600.0) -> Executor:
    """Inline for 0 workers, else processes."""
    return Processes(workers, timeout) if workers else Inline()


@dataclass
class _Part:
    """A job, or a part of it after a fault, and how often it was tried."""

    ticket: int
    job: Job
    places: tuple[int, ...]
    tries: int = 0


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
        self.open: dict[int, Done] = {}
        self.missing: dict[int, int] = {}
        self.tickets = 0

    def submit(self, job: Job) -> int:
        """Starts a job without empty places; its ticket comes back with `finished`."""
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
        """Drops every job in flight; their workers are free for others."""
        for future in self.running:
            future.cancel()
        self.running.clear()
        self.open.clear()
        self.missing.clear()

    def _fault(self, part: _Part, entry: Done, error: BaseException) -> None:
        """Once more; then in halves; then the one program is set aside. Our own complaints (a task without a
        curve) are nobody's fault and end the search.
        """
        if type(error).__module__.startswith("stepsmith"):
            raise error
        if part.tries == 0:
            entry.faults.append(f"retried: {_describe(error)}")
            self._start(replace(part, tries=1))
            return
        if len(part.places) == 1:
            place = part.places[0]
            reason = f"set aside: {_describe(error)}"
            entry.scores[place] = replace(entry.scores[place], reason=reason)
            entry.faults.append(f"{reason}\n{part.job.programs[place]}")
            self.missing[part.ticket] -= 1
            return
        half = len(part.places) // 2
        self.missing[part.ticket] += 1
        for places in (part.places[:half], part.places[half:]):
            kept = tuple(p if i in places else None for i, p in enumerate(part.job.programs))
            self._start(_Part(part.ticket, replace(part.job, programs=kept), places, tries=1))


def _describe(error: BaseException) -> str:
    """The fault in a few words."""
    name = type(error).__name__
    if name == "TimeoutError":
        return "its worker hung"
    if name in ("ProcessExpired", "BrokenProcessPool"):
        return "its worker died"
    return f"{name}: {error}".splitlines()[0]
