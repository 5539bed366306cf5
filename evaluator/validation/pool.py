"""Training runs of one target, side by side in processes of one thread; each that ends is a line of the record."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from ...dsl import ProgramError
from ...proxies import TaskError, blamed
from ...proxies.targets import Target
from ...proxies.targets import target as target_named
from ..completed import WorkerLost, completed
from ..executors import Inline
from ..json_lines import RecordError
from ..processes import Processes
from ..train import Run
from .record import Record, key_of
from .training import Result, Training, train_target

_DAYS = 30 * 86_400.0


@dataclass(frozen=True)
class Work:
    """A run for a worker, which makes the target from its name."""

    name: str
    text: str
    training: Training
    checkpoint: Path
    device: str


class TargetPool:
    """Trains runs on a target and keeps them in a record; close it, or use it in a `with`.

    Args:
        name: Of the target.
        record: Where finished runs are, and go.
        text: A text of the user's own for the target; see `target`.
        workers: Processes; 0: this one.
        device: Where runs train.
        tell: Is told of each run that ends: its steps, and its seconds, 0 for one that the record had.
    """

    def __init__(
        self,
        name: str,
        record: Record,
        text: str = "",
        workers: int = 0,
        device: str = "cpu",
        tell: Callable[[int, float], None] = lambda steps, seconds: None,
    ) -> None:
        self.name, self.text, self.record, self.device, self.tell = name, text, record, device, tell
        self.workers = workers
        self.closed = False
        self._running: dict[Path, Future[Any]] = {}
        self._lock = threading.Lock()  # several threads may ask for runs
        self.target: Target = target_named(name, text)
        self.folder = record.path.with_suffix(".checkpoints")

    @cached_property
    def executor(self) -> Inline | Processes:
        """Made when there is something to train."""
        work: Any = _trained
        return Processes(self.workers, _DAYS, work) if self.workers else Inline(work)

    def results(self, trainings: Sequence[Training]) -> list[Result]:
        """The result of each run, in order; those that the record has are not trained.

        Raises:
            TaskError: In one line, where a target's own code fails, or a worker dies again and again.
            ProgramError: A program that cannot be trained.
        """
        found = {training: self.record.get(self.target, training, self.device) for training in trainings}
        for training, known in found.items():
            if known is not None:
                self.tell(training.steps, 0.0)
        due = [training for training, known in found.items() if known is None]
        if due:
            self.record.claim()
            self._train(due)
        return [self._known(training) for training in trainings]

    def losses(self, wanted: Sequence[tuple[Sequence[Run], int]], steps: int) -> list[list[float]]:
        """Validation losses in nats of (runs, seed), in order: what `tune` asks for."""
        trainings = [[Training(run, seed, steps) for run in runs] for runs, seed in wanted]
        flat = iter(self.results([training for some in trainings for training in some]))
        return [[next(flat).validation for _ in some] for some in trainings]

    def _known(self, training: Training) -> Result:
        known = self.record.get(self.target, training, self.device)
        assert known is not None
        return known

    def _train(self, due: Sequence[Training]) -> None:
        try:
            for place, result in completed(self, [self._work(training) for training in due]):
                self.record.add(self.target, due[place], result, self.device)
                self.tell(due[place].steps, result.seconds)
        except WorkerLost as error:
            raise TaskError(f"{self.name}: {error}") from error
        except (ProgramError, RecordError, OSError, CancelledError):
            raise
        except MemoryError as error:
            raise TaskError(f"{self.name}: memory ran out; try fewer workers or a smaller target") from error
        except Exception as error:
            raise blamed(self.name, error) from error

    def _work(self, training: Training) -> Work:
        self.folder.mkdir(parents=True, exist_ok=True)
        checkpoint = self.folder / f"{key_of(self.target, training, self.device)}.pt"
        return Work(self.name, self.text, training, checkpoint, self.device)

    def submit(self, job: Any) -> Future[Any]:
        """Gives a run to the executor; safe from several threads."""
        with self._lock:
            if self.closed:
                raise CancelledError
            under_way = self._running.get(job.checkpoint)
            if under_way is None or under_way.done():  # two contenders may ask for one run at a time
                self._running[job.checkpoint] = self.executor.submit(job)
            return self._running[job.checkpoint]

    def cancel(self, future: Future[Any]) -> None:
        """Gives a run up."""
        self.executor.cancel(future)

    def close(self) -> None:
        """Stops all workers now; runs that are under way have their checkpoints."""
        with self._lock:
            self.closed = True
            if "executor" in self.__dict__:
                self.executor.close()
        with suppress(OSError):  # there is none, or it holds checkpoints
            for part in self.folder.glob("*.part"):  # of workers that were killed as they wrote
                part.unlink()
            self.folder.rmdir()
        self.record.close()

    def __enter__(self) -> TargetPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _trained(work: Work) -> Result:
    return train_target(target_named(work.name, work.text), work.training, work.checkpoint, work.device)
