"""The population trainer against one model at a time in eager PyTorch; AdamW and its update on both sides.

A step is gradients and update, one thread, on batches drawn beforehand. Drawing is shown beside it: a
population draws one batch for all its programs, so that counting it would only help.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle
from time import process_time

import numpy as np
import torch
from eager import EagerLoop
from measure import Check, Report, best, interleave, middle, ratio

from stepsmith.discovered import load
from stepsmith.dsl import Program
from stepsmith.dsl.to_population import PopulationStep
from stepsmith.proxies import Batch, Task, stack
from stepsmith.proxies import task as task_of

TITLE = "the population trainer against one model at a time in eager PyTorch"
BARS = {"digits": 8.0, "bytes": 2.5}  # times faster a program and step, at the task's own batch
COPIES = {16: (16, 32, 64), 64: (32,), 256: (32,)}  # batch -> sizes of population
_BATCHES = 32


class PopulationLoop:
    """The pieces of `evaluator.train`'s loop, with the time of each."""

    def __init__(self, task: Task, programs: list[Program]) -> None:
        self.model = task.model
        self.params = stack(task.model.init(0), len(programs))
        self.grads = [torch.empty_like(p) for p in self.params]
        self.engine = PopulationStep(programs, self.params)
        self.schedule = np.ones(len(programs))
        self.taken = 0
        self.gradients: list[float] = []
        self.update: list[float] = []

    def step(self, batch: Batch) -> None:
        """One step of every program."""
        self.taken += 1
        begin = process_time()
        self.model.gradients(self.params, batch, out=self.grads)
        between = process_time()
        self.engine.step(self.params, self.grads, self.schedule, self.taken, 0.5)
        self.gradients.append(between - begin)
        self.update.append(process_time() - between)


def measure() -> Report:
    """Both tasks at every size of batch and population."""
    columns = (
        "task", "batch", "P", "eager us", "eager fused us", "gradients us", "update us", "drawing us",
        "x eager", "x fused",
    )  # fmt: skip
    report = Report(columns)
    report.notes.append("us a program and step; the bars are at the task's own batch, on the slowest population")
    for name, bar in BARS.items():
        for size, copies in COPIES.items():
            rows = _compare(replace(task_of(name), batch=size), copies)
            report.rows += rows
            if size == task_of(name).batch:
                for place, baseline in ((-2, "AdamW"), (-1, "fused AdamW")):
                    least = min(row[place] for row in rows)
                    report.checks.append(Check(f"{name}, times faster than eager {baseline}", least, bar, True))
    return report


def _compare(task: Task, copies: tuple[int, ...]) -> list[tuple[str | int | float, ...]]:
    """A row for each size of population."""
    batches = list(task.batches(0, _BATCHES))
    singles = {name: EagerLoop(task.model, task.model.init(0), fused=name == "fused") for name in ("eager", "fused")}
    loops = {size: PopulationLoop(task, [load("adamw")] * size) for size in copies}
    actions = {name: _fed(loop.step, batches) for name, loop in singles.items()}
    actions |= {str(size): _fed(loop.step, batches) for size, loop in loops.items()}
    times = interleave(actions, seconds=2.0 * len(actions))
    drawing = _drawing(task)
    rows = []
    for size, loop in loops.items():
        each = times[str(size)] / size
        rows.append((
            task.name, task.batch, size, best(times["eager"]), best(times["fused"]),
            middle(loop.gradients) / size, middle(loop.update) / size, drawing / size,
            ratio(times["eager"], each), ratio(times["fused"], each),
        ))  # fmt: skip
    return rows


def _fed(step: Callable[[Batch], object], batches: list[Batch]) -> Callable[[], object]:
    """The step on one batch after another."""
    feed: Iterator[Batch] = cycle(batches)
    return lambda: step(next(feed))


def _drawing(task: Task, count: int = 200) -> float:
    """Microseconds to draw a batch."""
    times = interleave({"draw": lambda: list(task.batches(0, count))}, seconds=0.3)
    return best(times["draw"]) / count
