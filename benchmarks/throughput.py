"""How fast a search goes: programs that leave the first hurdle, what a second worker brings, and what updates cost.

Seconds are of the clock, since processes share the work; searches of one seed do the same work whatever runs them. What
else a machine does only adds to them, so that the shortest of several runs are compared. Beside two processes stands
what two cores give at most here: two processes that train without a search, over one.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
from measure import Check, Report, interleave
from population import PopulationLoop

from stepsmith.dsl import Program
from stepsmith.evaluator.dispatcher import Dispatcher
from stepsmith.evaluator.executors import Executor, make_executor
from stepsmith.evaluator.fitness import Job, Trial
from stepsmith.evaluator.trials import scores
from stepsmith.proxies import task
from stepsmith.search.breed import make_child, start_member
from stepsmith.search.config import DEFAULT_STAGES, SearchConfig
from stepsmith.search.population import Fold
from stepsmith.search.programs import load_any
from stepsmith.search.run import create_run, run_search
from stepsmith.search.strategies import STRATEGIES

TITLE = "how fast a search goes on two cores"
REPEATS = 5
FIRST = SearchConfig(stages=DEFAULT_STAGES[:1], held_out=(), steps=100_000)
WHOLE = SearchConfig(steps=60_000)
EXECUTORS = {"1 process": (1, ""), "2 processes": (2, ""), "Ray, 2 actors": (2, "ray")}


def measure() -> Report:
    """All three."""
    report = Report(("what", "executor", "seconds", "programs", "a second"))
    _first_hurdle(report)
    _executors(report)
    _updates(report)
    return report


def _first_hurdle(report: Report) -> None:
    """Programs through the default first stage."""
    seen = []
    with _warm(2, "") as executor:
        for _ in range(REPEATS):
            seconds, programs = _searched(FIRST, executor)
            seen.append(programs / seconds)
            report.rows.append(("first hurdle", "2 processes", seconds, programs, seen[-1]))
    report.notes.append(f"first hurdle: median {np.median(seen):.0f} programs a second, most {max(seen):.0f}")
    report.checks.append(Check("programs leaving the first hurdle a second", float(np.median(seen)), 150.0, True))


def _executors(report: Report) -> None:
    """The default search on each executor, in turns; Ray is left out where it is not installed."""
    times: dict[str, list[float]] = {}
    ceilings: list[float] = []
    for _ in range(REPEATS):
        for name, (workers, kind) in _installed().items():
            with _warm(workers, kind) as executor:
                seconds, programs = _searched(WHOLE, executor)
            times.setdefault(name, []).append(seconds)
            report.rows.append(("default stages", name, seconds, programs, programs / seconds))
        ceilings.append(_ceiling())
    shortest = {name: min(each) for name, each in times.items()}
    one, two = shortest["1 process"], shortest["2 processes"]
    report.notes.append(
        f"two processes that train without a search, over one: {min(ceilings):.2f} to {max(ceilings):.2f}"
    )
    report.checks.append(Check("two processes over one", one / two, 1.8, True))
    if "Ray, 2 actors" in times:
        report.checks.append(Check("seconds of Ray over those of processes", shortest["Ray, 2 actors"] / two, 1.1))


def _ceiling() -> float:
    """How much more two workers train than one, given the same batch again and again."""
    job = Job((load_any("lion"),) * 48, Trial(("bytes_b64",), share=0.125))
    seconds = {}
    for workers in (1, 2):
        with _warm(workers, "") as executor:
            begin = time.perf_counter()
            for future in [executor.submit(job) for _ in range(2 * workers)]:
                future.result()
            seconds[workers] = time.perf_counter() - begin
    return 2 * seconds[1] / seconds[2]


def _installed() -> dict[str, tuple[int, str]]:
    from importlib.util import find_spec

    return {name: given for name, given in EXECUTORS.items() if given[1] != "ray" or find_spec("ray")}


@contextmanager
def _warm(workers: int, kind: str) -> Iterator[Executor]:
    """An executor whose workers have loaded everything."""
    executor = make_executor(workers, kind)
    dispatcher, rule = Dispatcher(executor), load_any("lion")
    for stage in (0, 1):
        jobs = [Job((rule,), WHOLE.trial(stage))] * (4 * workers)
        tickets = {dispatcher.submit(job) for job in jobs}
        while tickets:
            tickets -= {done.ticket for done in dispatcher.finished()}
    try:
        yield executor
    finally:
        executor.close()


def _searched(config: SearchConfig, executor: Executor) -> tuple[float, int]:
    """Seconds of a search from its first child on, and the programs that it trained."""
    with tempfile.TemporaryDirectory() as folder, closing(create_run(Path(folder), config)) as ledger:
        begin = time.perf_counter()
        fold = run_search(ledger, config, Dispatcher(executor))
        seconds = time.perf_counter() - begin
        return seconds, sum(child.steps > 0 for child in ledger.children()) if fold.steps else 0


def _updates(report: Report) -> None:
    """The share of a step that the updates of bred programs take on the byte model."""
    programs = _bred(48)
    for name in ("bytes", "bytes_b64"):
        loop, batches = PopulationLoop(task(name), programs), list(task(name).batches(0, 8))
        interleave({"step": lambda loop=loop, batches=batches: [loop.step(b) for b in batches]}, seconds=5.0)
        gradients, update = (float(np.median(each)) for each in (loop.gradients, loop.update))
        report.notes.append(f"{name}: gradients {gradients * 1e3:.2f} ms, updates {update * 1e3:.2f} ms a step of 48")
        report.checks.append(Check(f"updates of a step on {name}", update / (gradients + update), 0.25))


def _bred(count: int) -> list[Program]:
    """Children of tuned AdamW and of each other, as a search breeds them, that train without failing."""
    config = SearchConfig()
    fold, strategy = (
        Fold(config, [start_member(load_any(name)) for name in config.start]),
        STRATEGIES["evolution"](config),
    )
    found: list[Program] = []
    dispatcher, number = Dispatcher(make_executor(0)), 0
    while len(found) < count:
        number += 1
        bred = make_child(number, 0, fold, strategy, {})
        if bred.child.reason:
            continue
        if not scores(dispatcher, [bred.program], config.trial(0))[0].reason:
            found.append(bred.program)
            fold.islands[0].members.append(start_member(bred.program))
    return found
