"""Final losses of many runs of one task, in this process or side by side in others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from ..proxies import Task, TaskError, blamed
from ..proxies import task as task_named
from .completed import WorkerLost, completed
from .executors import Inline
from .processes import Processes
from .train import Outcome, Run, train

_PART = 16  # runs of a population: fixed, so that the number of workers changes no sum and no result
_DAY = 86_400.0


@dataclass(frozen=True)
class Part:
    """Runs that train as one population; `task` by its name where another process trains them."""

    task: Task | str
    runs: tuple[Run, ...]
    seed: int
    steps: int


class RunPool:
    """Trains runs of one task, on `workers` processes or, for 0, in this one; close it, or use it in a `with`.

    >>> from ..dsl import Program
    >>> sgd = Run(Program.parse("def sgd(w, g, lr=0.03):\\n  return lr * g"))
    >>> with RunPool(task_named("quadratic")) as pool:
    ...     [[loss]] = pool.losses([([sgd], 0)], steps=20)
    >>> loss < 8
    True
    """

    def __init__(self, task: Task, workers: int = 0) -> None:
        work: Any = _trained  # executors are typed for the jobs of a search, and carry any
        self.task = task
        self.known: Task | str = task.name if workers else task
        self.executor: Inline | Processes = Processes(workers, _DAY, work) if workers else Inline(work)

    def losses(self, wanted: Sequence[tuple[Sequence[Run], int]], steps: int) -> list[list[float]]:
        """Final losses in nats of (runs, seed), in order; a failed run is infinitely bad.

        Raises:
            TaskError: In one line, where the task's own code fails or a worker dies.
        """
        parts = [
            (index, Part(self.known, tuple(runs[i : i + _PART]), seed, steps))
            for index, (runs, seed) in enumerate(wanted)
            for i in range(0, len(runs), _PART)
        ]
        try:
            ends = dict(completed(self.executor, [part for _, part in parts]))
        except WorkerLost as error:
            raise TaskError(f"{self.task.name}: {error}") from error
        except Exception as error:
            raise blamed(self.task.name, error) from error
        found: list[list[float]] = [[] for _ in wanted]
        for place, (index, _) in enumerate(parts):
            found[index] += ends[place]
        return found

    def close(self) -> None:
        """Stops all workers now."""
        self.executor.close()

    def __enter__(self) -> RunPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def losses(outcomes: Sequence[Outcome]) -> list[float]:
    """Final losses in nats; a failed run counts as infinitely bad."""
    return [math.inf if o.failed else o.loss for o in outcomes]


def _trained(part: Part) -> list[float]:
    task = task_named(part.task) if isinstance(part.task, str) else part.task
    return losses(train(task, part.runs, part.seed, part.steps))
