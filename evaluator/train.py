"""The population trainer: P copies of one model, P update programs, one batched pass a step.

The same code on CPU and CUDA. NaN, Inf and divergence are ordinary outcomes with a reason.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..dsl import Program
from ..dsl.to_population import PopulationStep
from ..proxies import Task, schedule, stack
from .gradients import Gradients
from .graph import Replay
from .memory import check_fits
from .oracles import Oracles

_LOOK_EVERY = 50  # steps between looks at whether any copy is still alive


@dataclass(frozen=True)
class Run:
    """One copy's training: a program, and the shape of its schedule where it is not the task's own."""

    program: Program
    warmup: float | None = None  # share of the steps
    decay: str | None = None


@dataclass(frozen=True)
class Outcome:
    """How a run ended: final validation loss in nats, NaN with a reason when it failed."""

    loss: float
    reason: str = ""

    @property
    def failed(self) -> bool:
        """Whether the run gave no usable loss."""
        return bool(self.reason)


def use_one_thread() -> None:
    """One torch thread, and denormal floats are 0: what every worker does before it trains.

    Sums split over threads would make results depend on the machine; denormals cost a hundred times more.
    """
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


def train(
    task: Task,
    runs: Sequence[Run | Program],
    seed: int,
    steps: int | None = None,
    device: str = "cpu",
    dtype: str = "float32",
) -> list[Outcome]:
    """Trains every run on the task with the same initial weights and batches; one Outcome each, in order.

    `steps` (default: the task's budget) is a whole run of its own with full decay. Final losses are on the
    task's fixed validation data; a loss above the one at initialisation is a failure. With `dtype` "bfloat16" the
    model's passes in training are; weights, states and validation stay float32. On a GPU a step is one replayed graph.

    Raises PopulationTooLarge where the device has no memory for so many runs.

    >>> from stepsmith.proxies import task
    >>> sgd = Program.parse("def sgd(w, g, lr=0.03):\\n  return lr * g")
    >>> train(task("quadratic"), [sgd], seed=0, steps=20)[0].failed
    False
    """
    steps = task.steps if steps is None else steps
    given = [r if isinstance(r, Run) else Run(r) for r in runs]
    programs = [r.program for r in given]
    check_fits(task, programs, device, dtype)
    params = stack([p.to(device) for p in task.model.init(seed)], len(given))
    start = validate(task, [p[:1].contiguous() for p in params])[0]
    gradients = Gradients(task.model, params, dtype)
    engine = PopulationStep(programs, params, list(task.model.roles.values()), seed)
    oracles = Oracles(task, programs, seed)
    schedules = _schedules(task, given, steps)
    replay = Replay.of(gradients, engine)
    for index, batch in enumerate(task.batches(seed, steps)):
        numbers = schedules[index], index + 1, (index + 1) / steps
        look = index % _LOOK_EVERY == 0
        if replay and not look:
            replay(batch, *numbers)
            continue
        losses = gradients(batch)
        if look and not bool(torch.isfinite(losses).any()):
            break
        engine.step(params, gradients.grads, *numbers, oracles.at(index + 1, params, batch))
    return [_outcome(float(loss), float(start)) for loss in validate(task, params)]


def validate(task: Task, params: Sequence[torch.Tensor]) -> np.ndarray:
    """(P,) validation losses in nats of a population."""
    with torch.no_grad():
        losses = [task.model.loss(params, batch) for batch in task.validation()]
        return torch.stack(losses).mean(0).double().cpu().numpy()


def _schedules(task: Task, runs: Sequence[Run], steps: int) -> np.ndarray:
    """(steps, P) multipliers of each run's peak learning rate."""
    shapes = [(r.warmup if r.warmup is not None else task.warmup, r.decay or task.decay) for r in runs]
    each = {shape: schedule(steps, *shape) for shape in set(shapes)}
    return np.stack([each[shape] for shape in shapes], axis=1)


def _outcome(loss: float, start: float) -> Outcome:
    if math.isnan(loss):
        return Outcome(math.nan, "NaN")
    if math.isinf(loss):
        return Outcome(math.nan, "Inf")
    if loss > start:
        return Outcome(math.nan, "diverged")
    return Outcome(loss)
