"""Worker processes on this machine: a pool whose workers are killed at their timeout, and end with the driver."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, InvalidStateError
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from typing import Any
from weakref import WeakSet

from .executors import Report, Work, report_of
from .fitness import Job, evaluate


class Processes:
    """`workers` processes, each on one torch thread; one that takes longer than `timeout` seconds is killed.

    Each may allocate `memory` bytes, so that a program that wants all memory fails in its worker and leaves the others
    alone. None sets no bound; there is none on systems other than Linux either.
    """

    def __init__(self, workers: int, timeout: float = 600.0, work: Work = evaluate, memory: int | None = None) -> None:
        self.workers, self.timeout, self.work, self.memory = workers, timeout, work, memory
        self.futures: WeakSet[Future[Report]] = WeakSet()
        self.pool = self._new_pool()

    def _new_pool(self) -> Any:
        from pebble import ProcessPool

        _start_tracker()
        return ProcessPool(
            max_workers=self.workers,
            initializer=_start_worker,
            initargs=[os.getpid(), self.memory],
            context=multiprocessing.get_context("spawn"),
        )

    def submit(self, job: Job) -> Future[Report]:
        """Queues the job. A pool breaks when a worker dies that had no job, and then makes way for a new one."""
        with _interrupts_blocked():
            if not self.pool.active:
                self._stop(BrokenProcessPool("a worker died that had no job"))
                self.pool = self._new_pool()
            future: Future[Report] = self.pool.schedule(report_of, args=[self.work, job], timeout=self.timeout)
        self.futures.add(future)
        return future

    def cancel(self, future: Future[Report]) -> None:
        """Gives a job up; its worker is replaced."""
        future.cancel()

    def __str__(self) -> str:
        return f"{self.workers} worker process{'es' if self.workers > 1 else ''}"

    def close(self) -> None:
        """Kills the workers, running or not; their jobs end with CancelledError."""
        self._stop(CancelledError())

    def _stop(self, error: Exception) -> None:
        """Stops the pool; jobs that it has not begun to look after it would leave open, and who waits for them too."""
        self.pool.stop()
        self.pool.join()
        for future in list(self.futures):
            if not future.done():
                with suppress(InvalidStateError):
                    future.set_exception(error)


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


def _start_worker(parent: int, memory: int | None) -> None:
    """One torch thread and bounded memory; gone when the parent is gone, even by kill -9."""
    from .train import use_one_thread

    _die_with_parent()
    use_one_thread()
    _bound_memory(memory)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _die_with_parent() -> None:
    """On Linux the system sees to it: a worker that is stopped cannot watch."""
    if sys.platform.startswith("linux"):
        import ctypes

        set_parent_death_signal = 1  # of linux/prctl.h
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def _bound_memory(memory: int | None) -> None:
    """Bounds what this process allocates; and should the system still run out, it ends a worker before its driver."""
    if not sys.platform.startswith("linux"):
        return
    import resource

    if memory is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("500")
