"""Workers as actors on a Ray cluster: each has one job at a time, and is killed at its timeout.

A future stands for each job, whatever becomes of the actor that has it. Actors start where the cluster has room,
now or when nodes join; one that dies is replaced. One whose machine would compute otherwise than the driver's is
not used, so that the executor changes no result.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from .executors import ExecutorError, Report, Work, default_workers, report_of
from .fitness import Job, evaluate
from .machine import machine

log = logging.getLogger(__name__)

_WATCH = 0.5  # seconds between looks at timeouts and at the size of the cluster
_FALSE_STARTS = 10  # actors in a row that end before they are ready
_REMAIN = 60.0  # seconds to wait for a first worker, or for one more when all are gone


class _Trainer:
    """What runs on a worker."""

    def __init__(self) -> None:
        from .train import use_one_thread

        use_one_thread()

    def facts(self, device: str) -> tuple[dict[str, str], int, str]:
        """The machine, the process and the host."""
        return machine(device), os.getpid(), socket.gethostname()

    def run(self, work: Work, job: Job) -> Report:
        """Does a job."""
        return report_of(work, job)


@dataclass(eq=False)
class _Actor:
    """A worker as the driver sees it: starting, idle, or at work on a job since a time."""

    handle: Any
    pid: int = 0
    host: str = ""
    ready: bool = False
    future: Future[Report] | None = None
    since: float = 0.0


@dataclass
class _Queue:
    """Jobs that wait for a worker, and the workers; one lock for both."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    jobs: deque[tuple[Job, Future[Report]]] = field(default_factory=deque)
    actors: list[_Actor] = field(default_factory=list)


class RayActors:
    """`workers` actors, or as many as the cluster has room for; `gpus` of a GPU each, or a CPU.

    Args:
        workers: None follows the cluster as nodes join and leave.
        address: Of a running cluster, "auto" for the one on this machine; None starts one for this process.
        timeout: Seconds that a job may take.
        gpus: Share of a GPU that each actor holds.
        work: What is done with a job.
        device: On which jobs train: on a CPU as this process would, on GPUs all as the first of them.

    Raises:
        ExecutorError: Ray is not installed, there is no cluster at the address, or it has no GPU.
    """

    def __init__(
        self,
        workers: int | None = None,
        address: str | None = None,
        timeout: float = 600.0,
        gpus: float = 0.0,
        work: Work = evaluate,
        device: str = "cpu",
    ) -> None:
        self.ray = _connected(address, workers)
        self.workers, self.timeout, self.gpus, self.work = workers, timeout, gpus, work
        if gpus and not self.ray.cluster_resources().get("GPU"):
            self.ray.shutdown()
            raise ExecutorError("the Ray cluster has no GPU; leave out --gpus, or add a node that has one")
        options = {"num_gpus": gpus, "num_cpus": 0} if gpus else {"num_cpus": 1}
        self.kind = self.ray.remote(max_restarts=0, max_task_retries=0, **options)(_Trainer)
        self.device, self.queue = device, _Queue()
        self.facts = machine() if device == "cpu" else None
        self.false_starts, self.last_ready, self.closed = 0, time.monotonic(), threading.Event()
        self.refused: set[str] = set()  # hosts that would compute otherwise
        self._fill()
        self.watcher = threading.Thread(target=self._watch, daemon=True)
        self.watcher.start()

    def submit(self, job: Job) -> Future[Report]:
        """Queues the job."""
        future: Future[Report] = Future()
        with self.queue.lock:
            self.queue.jobs.append((job, future))
        self._assign()
        return future

    def __str__(self) -> str:
        return f"{self._wanted()} workers on Ray"

    def close(self) -> None:
        """Kills the actors, running or not, and leaves the cluster."""
        self.closed.set()
        self.watcher.join()
        with self.queue.lock:
            for actor in self.queue.actors:
                self._kill(actor)
            self.queue.actors.clear()
        self.ray.shutdown()

    # --- workers --------------------------------------------------------------------------------------------

    def _wanted(self) -> int:
        """How many workers the cluster has room for, unless a number was given."""
        if self.workers is not None:
            return self.workers
        resources = self.ray.cluster_resources()
        return int(resources.get("GPU", 0) / self.gpus) if self.gpus else int(resources.get("CPU", 0))

    def _fill(self) -> None:
        """Asks for the workers that lack; those without room start when there is some."""
        wanted = self._wanted()
        with self.queue.lock:
            while len(self.queue.actors) < wanted and not self.closed.is_set():
                actor = _Actor(self.kind.remote())
                self.queue.actors.append(actor)
                started = actor.handle.facts.remote(self.device).future()
                started.add_done_callback(lambda done, actor=actor: self._started(actor, done))

    def _started(self, actor: _Actor, done: Future[Any]) -> None:
        """A worker is ready, or never will be."""
        error = done.exception()
        if error is not None:
            self.false_starts += 1
            log.info("a Ray worker did not start: %s", error)
            self._drop(actor)
            return
        facts, actor.pid, actor.host = done.result()
        self.facts = self.facts or facts
        if facts != self.facts:
            self._refuse(actor.host, facts, self.facts)
            return
        self.false_starts, self.last_ready, actor.ready = 0, time.monotonic(), True
        self._assign()

    def _refuse(self, host: str, there: dict[str, str], here: dict[str, str]) -> None:
        """Says so once. The actor stays, so that its place is not filled by another like it, and has nothing to do."""
        if host not in self.refused:
            self.refused.add(host)
            other = "; ".join(f"{n}: {v} there, {here[n]} here" for n, v in there.items() if v != here[n])
            log.warning("the workers of %s are not used, they would compute otherwise: %s", host, other)

    def _drop(self, actor: _Actor) -> None:
        """The actor is gone; the watcher starts another."""
        with self.queue.lock:
            if actor in self.queue.actors:
                self.queue.actors.remove(actor)

    def _kill(self, actor: _Actor) -> None:
        """At once, and a process that is stopped too, which hears nothing."""
        self.ray.kill(actor.handle)
        if actor.pid and actor.host == socket.gethostname():
            with suppress(ProcessLookupError):
                os.kill(actor.pid, signal.SIGKILL)

    # --- jobs -----------------------------------------------------------------------------------------------

    def _assign(self) -> None:
        """Gives waiting jobs to idle workers, in order."""
        with self.queue.lock:
            for actor in self.queue.actors:
                if not self.queue.jobs:
                    return
                if not actor.ready or actor.future is not None:
                    continue
                job, future = self.queue.jobs.popleft()
                if not future.set_running_or_notify_cancel():
                    continue
                actor.future, actor.since = future, time.monotonic()
                done = actor.handle.run.remote(self.work, job).future()
                done.add_done_callback(lambda done, actor=actor, future=future: self._done(actor, future, done))

    def _done(self, actor: _Actor, future: Future[Report], done: Future[Report]) -> None:
        """A job came to its end, or its worker did."""
        error = done.exception()
        cause = getattr(error, "cause", None)  # what the work raised; Ray wraps it
        with self.queue.lock:
            if actor.future is not future:
                return  # its time was over
            actor.future = None
            if error is not None and not isinstance(cause, Exception):
                self._drop(actor)
        if error is None:
            future.set_result(done.result())
        else:
            future.set_exception(cause if isinstance(cause, Exception) else error)
        self._assign()

    def _watch(self) -> None:
        """Ends what takes too long, and keeps as many workers as there should be."""
        while not self.closed.wait(_WATCH):
            now = time.monotonic()
            with self.queue.lock:
                late = [a for a in self.queue.actors if a.future is not None and now - a.since > self.timeout]
            for actor in late:
                self._end(actor)
            self._fill()
            self._give_up(now)

    def _end(self, actor: _Actor) -> None:
        with self.queue.lock:
            future, actor.future = actor.future, None
            self._drop(actor)
        self._kill(actor)
        if future is not None:
            future.set_exception(TimeoutError())

    def _give_up(self, now: float) -> None:
        """Fails what waits when no worker is left and none comes."""
        with self.queue.lock:
            some = any(actor.ready for actor in self.queue.actors)
            if some:
                self.last_ready = now
            if some or not self.queue.jobs or (self.false_starts < _FALSE_STARTS and now - self.last_ready < _REMAIN):
                return
            lost = [future for _, future in self.queue.jobs if future.set_running_or_notify_cancel()]
            self.queue.jobs.clear()
        why = "they would compute otherwise" if self.refused else "look at ray status"
        for future in lost:
            future.set_exception(ExecutorError(f"the Ray cluster gives no worker: {why}"))


def _connected(address: str | None, workers: int | None) -> Any:
    """Ray, connected to a cluster."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would say so on every start
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise ExecutorError("the executor ray needs Ray: pip install 'stepsmith[ray]'") from None
    if address is not None:
        _knock(address)
    here: dict[str, Any] = {"num_cpus": workers or default_workers(), "include_dashboard": False}
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        # "local", because without an address Ray would join any cluster that runs on this machine.
        ray.init(address=address or "local", **quiet, **({} if address else here))
    except (ConnectionError, ValueError, RuntimeError) as error:
        if address is None:
            raise ExecutorError(f"Ray does not start here: {str(error).splitlines()[0]}") from None
        raise ExecutorError(_nobody(address)) from None
    return ray


def _knock(address: str) -> None:
    """Ray waits for minutes where nobody listens."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon:
        return  # "auto", and what Ray knows by a name
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, ValueError):
        raise ExecutorError(_nobody(address)) from None


def _nobody(address: str) -> str:
    return f"no Ray cluster at {address!r}; start one with: ray start --head, or leave out --address"
