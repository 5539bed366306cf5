"""The updates of a population: the compiled interpreter against each program's torch form, one by one.

Sizes are those of the proxies' weights, P copies of one program; the interpreter makes no difference between
equal and unequal programs. c_adamw adds up once per tensor, adamw_clip once over all of them. Alone, an update
finds weights and states in the cache; behind a backward pass it has to fetch them, and takes longer.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from measure import Report, best, interleave, middle, ratio
from population import PopulationLoop

from stepsmith.discovered import load
from stepsmith.dsl.to_population import PopulationStep
from stepsmith.dsl.torch_engine import TorchEngine
from stepsmith.proxies import stack, task

TITLE = "updates of a population: C interpreter against torch one by one"
PROGRAMS = ("lion", "adamw", "c_adamw", "adamw_clip")
COPIES = 32
_STEPS = 60  # of training


def measure() -> Report:
    """Each program at the sizes of each task."""
    report = Report(
        ("weights of", "floats", "program", "C us", "torch us", "x torch", "C in training us", "% of a step")
    )
    for name in ("digits", "bytes"):
        for program in PROGRAMS:
            report.rows.append(_compare(name, program))
    report.notes.append(f"us a program and step, P={COPIES}; training is at the task's own batch")
    return report


def _compare(name: str, program: str) -> tuple[str | int | float, ...]:
    times = interleave({"c": _step(name, program, PopulationStep), "torch": _step(name, program, TorchEngine)}, 2.0)
    update, gradients = _in_training(name, program)
    return (
        name, sum(p.numel() for p in task(name).model.init(0)), program,
        best(times["c"]) / COPIES, best(times["torch"]) / COPIES, ratio(times["torch"], times["c"]),
        update, 100 * update / (update + gradients),
    )  # fmt: skip


def _step(name: str, program: str, engine: type[PopulationStep] | type[TorchEngine]) -> Callable[[], None]:
    """One step of the engine, with gradients of fixed normal numbers."""
    params = stack(task(name).model.init(0), COPIES)
    random = torch.Generator().manual_seed(0)
    grads = [torch.randn(p.shape, generator=random) for p in params]
    runner = engine([load(program)] * COPIES, params)
    return lambda: runner.step(params, grads, np.ones(COPIES), 10, 0.5)


def _in_training(name: str, program: str) -> tuple[float, float]:
    """Microseconds of update and gradients a program, while training."""
    loop = PopulationLoop(task(name), [load(program)] * COPIES)
    for batch in task(name).batches(0, _STEPS):
        loop.step(batch)
    return middle(loop.update) / COPIES, middle(loop.gradients) / COPIES
