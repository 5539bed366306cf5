"""Works of any kind on an executor, brought to their ends: one whose worker dies is tried again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, Protocol

from .executors import ExecutorError, worker_died

TRIES = 3  # of a work whose worker died


class WorkerLost(ExecutorError):
    """A work whose worker died again and again."""


class Submits(Protocol):
    """What takes works: an executor, or what stands before one."""

    def submit(self, job: Any) -> Future[Any]:
        """Starts a work, or queues it."""
        ...

    def cancel(self, future: Future[Any]) -> None:
        """Gives a work up."""
        ...


def completed(executor: Submits, works: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """(place, what the work gave) of each work as it ends; when an error ends the iteration, the rest are given up.

    Raises:
        WorkerLost: In one line, where a work's worker died `TRIES` times; and whatever a work raises.

    >>> from .executors import Inline
    >>> sorted(completed(Inline(lambda work: work + 1), [10, 20]))
    [(0, 11), (1, 21)]
    """
    running = {executor.submit(work): (place, 1) for place, work in enumerate(works)}
    try:
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in sorted(done, key=lambda f: running[f]):
                place, tries = running.pop(future)
                error = future.exception()
                if error is None:
                    yield place, future.result().scores
                elif worker_died(error) and tries < TRIES:
                    running[executor.submit(works[place])] = place, tries + 1
                elif worker_died(error):
                    raise WorkerLost(f"a worker died {TRIES} times over one work, of too little memory perhaps; "
                                     "try fewer workers") from error  # fmt: skip
                else:
                    raise error
    finally:
        for future in running:
            executor.cancel(future)
