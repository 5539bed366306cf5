"""Workers as actors on a Ray cluster: each has one job at a time, and is killed at its timeout.

A future stands for each job, whatever becomes of the actor that has it. Actors start where the cluster has room,
now or when nodes join; one that dies is replaced. One that would compute otherwise than the driver is not used, so that
the executor changes no result.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections import deque
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from .executors import ClusterLost, ExecutorError, Report, Work, default_workers, report_of
from .fitness import Job, evaluate
from .machine import machine, source_digest

log = logging.getLogger(__name__)

_WATCH = 0.5  # seconds between looks at timeouts and at the size of the cluster
_FALSE_STARTS = 10  # actors in a row that end before they are ready
_SILENCE = 10.0  # seconds until a head that does not answer is taken for gone; Ray ends the process after 60
_SAY = 60.0  # seconds without any worker until that is said
_PATIENCE = 1200.0  # and until what waits is given up; a cloud takes minutes for a node


class _Worker:
    """What runs on the cluster."""

    def __init__(self) -> None:
        from .train import use_one_thread

        use_one_thread()

    def facts(self, device: str) -> tuple[dict[str, str], int, str, str]:
        """What results depend on, the process, its host and its node."""
        import ray
        import torch

        if device != "cpu" and not torch.cuda.is_available():
            raise RuntimeError(f"no CUDA device on {socket.gethostname()}")
        node = ray.get_runtime_context().get_node_id()
        return machine(device) | source_digest(), os.getpid(), socket.gethostname(), node

    def run(self, work: Work, job: Job) -> Report:
        """Does a job."""
        return report_of(work, job)


@dataclass(eq=False)
class _Actor:
    """A worker as the driver sees it: starting, idle, at work on a job since a time, or not to be used."""

    handle: Any
    pid: int = 0
    node: str = ""
    ready: bool = False
    refused: bool = False
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
        self.kind = self.ray.remote(max_restarts=0, max_task_retries=0, **options)(_Worker)
        self.device, self.queue = device, _Queue()
        self.facts = machine() | source_digest() if device == "cpu" else None
        self.node = self.ray.get_runtime_context().get_node_id()
        self.false_starts, self.last_ready, self.said = 0, time.monotonic(), 0.0
        self.closed, self.lost = threading.Event(), False
        self.head = self.ray.get_runtime_context().gcs_address
        self._fill()
        self.watcher = threading.Thread(target=self._watch, daemon=True)
        self.watcher.start()
        threading.Thread(target=self._listen, daemon=True).start()

    def submit(self, job: Job) -> Future[Report]:
        """Queues the job."""
        future: Future[Report] = Future()
        with self.queue.lock:
            if self.lost:
                future.set_exception(self._gone())
                return future
            self.queue.jobs.append((job, future))
        self._assign()
        return future

    def cancel(self, future: Future[Report]) -> None:
        """Takes a job out of the queue, or ends the worker that has it; another takes its place."""
        if future.cancel():
            return
        with self.queue.lock:
            busy = [actor for actor in self.queue.actors if actor.future is future]
        for actor in busy:
            self._end(actor, future)

    def __str__(self) -> str:
        return f"{self._wanted()} worker{'s' if self._wanted() != 1 else ''} on Ray"

    def close(self) -> None:
        """Kills the actors, running or not, and leaves the cluster."""
        if self.closed.is_set():
            return
        self.closed.set()
        if self.lost:
            return  # Ray would wait for it
        self.watcher.join()
        with self.queue.lock:
            actors = list(self.queue.actors)
            self.queue.actors.clear()
        for actor in actors:  # without the lock: a kill waits for Ray's thread, which may wait for it in a callback
            self._kill(actor)
        self.ray.shutdown()

    # --- workers --------------------------------------------------------------------------------------------

    def _wanted(self) -> int:
        """How many workers the cluster has room for, unless a number was given."""
        if self.workers is not None:
            return self.workers
        resources = self.ray.cluster_resources()
        return int(resources.get("GPU", 0) / self.gpus) if self.gpus else int(resources.get("CPU", 0))

    def _fill(self) -> None:
        """Asks for the workers that lack; those without room start when there is some.

        A refused one keeps its place, so that the next is started elsewhere; it counts where all places are taken.
        """
        wanted = self._wanted()
        with self.queue.lock:
            count = sum(self.workers is None or not actor.refused for actor in self.queue.actors)
            for _ in range(wanted - count if not self.closed.is_set() else 0):
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
        facts, actor.pid, host, actor.node = done.result()
        self.facts = self.facts or facts
        if facts != self.facts:
            self._refuse(actor, host, facts, self.facts)
            return
        self.false_starts, self.last_ready, actor.ready = 0, time.monotonic(), True
        self._assign()

    def _refuse(self, actor: _Actor, host: str, there: dict[str, str], here: dict[str, str]) -> None:
        """The actor gets nothing to do; said once a node."""
        with self.queue.lock:
            new = not any(other.refused and other.node == actor.node for other in self.queue.actors)
            actor.refused = True
        if new:
            other = "; ".join(f"{n}: {v} there, {here[n]} here" for n, v in there.items() if v != here[n])
            log.warning("the workers of %s are not used, they would compute otherwise: %s", host, other)

    def _drop(self, actor: _Actor) -> None:
        """The actor is gone; the watcher starts another."""
        with self.queue.lock:
            if actor in self.queue.actors:
                self.queue.actors.remove(actor)

    def _kill(self, actor: _Actor) -> None:
        """At once; on this node by the system too, since a process that is stopped hears nothing of Ray's."""
        self.ray.kill(actor.handle)
        if actor.pid and actor.node == self.node:
            with suppress(ProcessLookupError):
                os.kill(actor.pid, signal.SIGKILL)

    # --- jobs -----------------------------------------------------------------------------------------------

    def _assign(self) -> None:
        """Gives waiting jobs to idle workers, in order."""
        with self.queue.lock:
            for actor in self.queue.actors:
                if actor.ready and actor.future is None and (waiting := self._next()):
                    self._begin(actor, *waiting)

    def _next(self) -> tuple[Job, Future[Report]] | None:
        """The first job in the queue that was not cancelled."""
        while self.queue.jobs:
            job, future = self.queue.jobs.popleft()
            if future.set_running_or_notify_cancel():
                return job, future
        return None

    def _begin(self, actor: _Actor, job: Job, future: Future[Report]) -> None:
        actor.future, actor.since = future, time.monotonic()
        try:
            done = actor.handle.run.remote(self.work, job).future()
        except Exception as error:  # the connection is lost
            actor.future = None
            self._drop(actor)
            future.set_exception(error)
            return
        done.add_done_callback(lambda done: self._done(actor, future, done))

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
        with suppress(InvalidStateError):  # the cluster was lost meanwhile
            if error is None:
                future.set_result(done.result())
            else:
                future.set_exception(cause if isinstance(cause, Exception) else error)
        self._assign()

    def _end(self, actor: _Actor, future: Future[Report]) -> None:
        """Kills a worker that still has this job."""
        with self.queue.lock:
            if actor.future is not future:
                return
            actor.future = None
            self._drop(actor)
        with suppress(Exception):  # the connection is lost: its end is the cluster's business
            self._kill(actor)
        future.set_exception(TimeoutError())

    # --- the watcher ----------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Ends what takes too long, and keeps as many workers as there should be."""
        while not self.closed.wait(_WATCH) and not self.lost:
            now, lost = time.monotonic(), ""
            with self.queue.lock:
                late = [(a, a.future) for a in self.queue.actors if a.future and now - a.since > self.timeout]
            for actor, future in late:
                self._end(actor, future)
            try:
                self._fill()
            except Exception as error:
                lost = str(error).splitlines()[0] if str(error) else type(error).__name__
            self._assign()
            self._look_for_workers(now, lost)

    def _listen(self) -> None:
        """Fails all jobs, those at work too, when the head of the cluster has been silent for long.

        In a thread of its own, because calls of Ray wait for the head.
        """
        heard = time.monotonic()
        while not self.closed.wait(_WATCH) and not self.lost:
            if _answers(self.head):
                heard = time.monotonic()
            elif time.monotonic() - heard > _SILENCE:
                self._lose()

    def _lose(self) -> None:
        with self.queue.lock:
            self.lost = True
            busy = [actor.future for actor in self.queue.actors if actor.future]
            self.queue.actors.clear()
            waiting = [future for _, future in iter(self._next, None)]
        for future in (*busy, *waiting):
            future.set_exception(self._gone())

    def _gone(self) -> ClusterLost:
        return ClusterLost(f"the Ray cluster at {self.head} is gone")

    def _look_for_workers(self, now: float, lost: str) -> None:
        """Says when no worker is left, and fails what waits when none comes."""
        with self.queue.lock:
            if not lost and (not self.queue.jobs or any(actor.ready for actor in self.queue.actors)):
                self.last_ready = now
                return
            refused = any(actor.refused for actor in self.queue.actors)
        why = lost or ("they would compute otherwise" if refused else "look at ray status")
        if now - max(self.last_ready, self.said) > _SAY:
            self.said = now
            log.warning("waiting for a worker of the Ray cluster: %s", why)
        if self.false_starts >= _FALSE_STARTS or now - self.last_ready > _PATIENCE:
            self._fail(f"the Ray cluster gives no worker: {why}")

    def _fail(self, why: str) -> None:
        with self.queue.lock:
            waiting = list(iter(self._next, None))
        for _, future in waiting:
            future.set_exception(ExecutorError(why))


def _connected(address: str | None, workers: int | None) -> Any:
    """Ray, connected to a cluster."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would say so on every start
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # and warn of a default that is to change
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
    except ConnectionError as error:
        raise ExecutorError(_nobody(address) if address else f"Ray does not start here: {_first(error)}") from None
    except (ValueError, RuntimeError) as error:  # other versions of Python or Ray there, a name that is none
        place = f"at {address!r}" if address else "here"
        raise ExecutorError(f"Ray does not start {place}: {_first(error)}") from None
    return ray


def _first(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _knock(address: str) -> None:
    """Ray waits for minutes where nobody listens."""
    if ":" in address and not _answers(address):  # "auto" has none, nor what Ray knows by a name
        raise ExecutorError(_nobody(address))


def _answers(address: str) -> bool:
    """Whether someone listens at HOST:PORT."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, ValueError):
        return False
    return True


def _nobody(address: str) -> str:
    return f"no Ray cluster at {address!r}; start one with: ray start --head, or leave out --address"
