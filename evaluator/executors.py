"""Where jobs run: in this process, in worker processes, or on a Ray cluster. Choosing one changes no result."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from ..dsl.errors import OF_FEW, did_you_mean
from .fitness import Job, Score, evaluate

Work = Callable[[Job], list[Score | None]]  # None at empty places


class Executor(Protocol):
    """Takes a job and gives a future of (scores, worker, wall seconds)."""

    def submit(self, job: Job) -> Future[Report]:
        """Starts the job, or queues it."""
        ...

    def cancel(self, future: Future[Report]) -> None:
        """Gives a job up; a worker that has it is free for others."""
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


def report_of(work: Work, job: Job) -> Report:
    """Does a job, in whatever process this is."""
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
            future.set_result(report_of(self.work, job))
        except Exception as error:
            future.set_exception(error)
        finally:
            set_flush_denormal(False)
        return future

    def cancel(self, future: Future[Report]) -> None:
        """Nothing is left to do."""

    def close(self) -> None:
        """Nothing to stop."""

    def __str__(self) -> str:
        return "in this process"


EXECUTORS = ("inline", "processes", "ray")
_LEAST = 400_000_000  # bytes of a worker: Python with torch takes 250 MB, the default tasks 70 more


class ExecutorError(RuntimeError):
    """An executor that cannot be had, or has lost all its workers, in one line."""


class ClusterLost(ExecutorError):
    """A cluster that does not answer any more. Its library waits for it, also at the end of the process."""


_DEAD = {"ProcessExpired", "BrokenProcessPool", "ActorDiedError", "ActorUnavailableError", "RayActorError"}


def worker_died(error: BaseException) -> bool:
    """Whether an executor's error says that the worker ended under its job; told by name, as Ray may not be there."""
    return type(error).__name__ in _DEAD


def make_executor(
    workers: int | None = None,
    kind: str = "",
    *,
    timeout: float = 600.0,
    address: str | None = None,
    gpus: float = 0.0,
    device: str = "cpu",
) -> Executor:
    """An executor of `EXECUTORS`; by default inline for 0 workers, else processes.

    Args:
        workers: How many; None: what the executor takes for enough.
        kind: Which; "" as above.
        timeout: Seconds after which a job's worker is killed; a job in this process is not.
        address: Of a Ray cluster, such as "auto"; None starts one here.
        gpus: Of a worker on Ray, such as 0.5.
        device: On which jobs train.

    Raises:
        ExecutorError: An unknown kind, options of another, Ray that is not installed or not reached.
    """
    kind = kind or ("inline" if workers == 0 else "processes")
    if kind not in EXECUTORS:
        raise ExecutorError(f"unknown executor {kind!r}; {did_you_mean(kind, EXECUTORS, OF_FEW)}")
    if kind == "ray" and (gpus > 0) != (device != "cpu"):
        raise ExecutorError("workers on GPUs are asked for by --gpus and --device cuda together")
    if kind != "ray" and (address is not None or gpus):
        raise ExecutorError(f"{'an address' if address else 'gpus'} is an option of the executor ray, not of {kind}")
    work = _work_on(device, elsewhere=kind == "ray")
    if kind == "inline" and workers:
        raise ExecutorError(f"the executor inline is this process alone; leave out --workers {workers}")
    if kind == "inline":
        return Inline(work)
    if workers == 0:
        raise ExecutorError(f"the executor {kind} needs a worker; leave out --workers 0")
    if kind == "processes":
        from .processes import Processes

        count = workers or default_workers()
        # CUDA maps more than it takes, so that a bound there would bound nothing that is used.
        return Processes(count, timeout, work, _memory_each(count) if device == "cpu" else None)
    from .ray_actors import RayActors

    return RayActors(workers, address, timeout, gpus, work, device)


def _memory_each(workers: int) -> int:
    """Bytes that each of so many workers may take."""
    from .available import available

    free = available("cpu")
    if free < workers * _LEAST:
        most = max(1, free // _LEAST)
        raise ExecutorError(
            f"{workers} workers have {free / workers / 1e9:.2f} GB of memory each, and one needs "
            f"{_LEAST / 1e9:.1f} GB at least: --workers {most}"
        )
    return free // workers


def _work_on(device: str, elsewhere: bool) -> Work:
    """Evaluation on a device, which this process must have unless the workers are elsewhere."""
    check_device(device, elsewhere)
    return evaluate if device == "cpu" else partial(evaluate, device=device)


def check_device(device: str, elsewhere: bool = False) -> None:
    """Raises ExecutorError, in one line, for a device that is none, or that this process lacks and needs."""
    if device == "cpu":
        return
    import torch

    try:
        kind = torch.device(device).type
    except RuntimeError:
        kind = device
    if kind != "cuda":
        raise ExecutorError(f"unknown device {device!r}; {did_you_mean(device, ('cpu', 'cuda'), OF_FEW)}")
    if not elsewhere and not torch.cuda.is_available():
        raise ExecutorError(
            "this machine has no CUDA device; leave out --device, or search on a Ray cluster that has one"
        )


def default_workers() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
