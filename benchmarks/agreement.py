"""A population of AdamW programs has the losses of eager modules under torch.optim.AdamW.

Eight learning rates, the same weights and batches, a hundred steps, constant rates. In float64 the two differ
by rounding alone. In float32 they do too, until a ReLU's argument comes to lie within rounding of 0: then it is
cut on one side and let through on the other, one gradient differs by a tenth and the weights by a learning
rate, at once. Torch's own two forms of AdamW part in the same way (seen: arguments 2.5e-7 and -2.8e-7 at step
90, weights 7e-7 apart before and 4e-4 after), so runs beyond the bar are counted for both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from eager import EagerLoop
from measure import Check, Report

from stepsmith.discovered import load
from stepsmith.dsl.to_population import PopulationStep
from stepsmith.proxies import Batch, Task, stack
from stepsmith.proxies import task as task_of

TITLE = "training losses of a population against eager modules under torch.optim.AdamW"
BAR = 1e-5  # largest relative difference of a loss
STEPS = 100
SEEDS = 4
RATES = tuple(float(rate) for rate in np.geomspace(1e-4, 1e-2, 8))


def population_losses(task: Task, rates: Sequence[float], seed: int, steps: int, dtype: torch.dtype) -> np.ndarray:
    """(steps, P) training losses of a population, one AdamW program a rate."""
    params = stack([p.to(dtype) for p in task.model.init(seed)], len(rates))
    grads = [torch.empty_like(p) for p in params]
    engine = PopulationStep([load("adamw").with_lr(rate) for rate in rates], params)
    losses = np.empty((steps, len(rates)))
    for index, batch in enumerate(task.batches(seed, steps)):
        before, _ = task.model.gradients(params, batch, out=grads)
        losses[index] = before.double().numpy()
        engine.step(params, grads, 1.0, index + 1, (index + 1) / steps)
    return losses


def eager_losses(
    task: Task, rates: Sequence[float], seed: int, steps: int, dtype: torch.dtype, fused: bool = False
) -> np.ndarray:
    """(steps, P) training losses of one module after the other."""
    init = [p.to(dtype) for p in task.model.init(seed)]
    batches = [cast(batch, dtype) for batch in task.batches(seed, steps)]
    loops = [EagerLoop(task.model, init, fused, lr=rate, weight_decay=0.01) for rate in rates]
    return np.array([[loop.step(batch).item() for batch in batches] for loop in loops]).T


def cast(batch: Batch, dtype: torch.dtype) -> Batch:
    """The batch with inputs in a dtype; symbols stay whole numbers."""
    return Batch(batch.x.to(dtype) if batch.x.is_floating_point() else batch.x, batch.y)


def apart(losses: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(P,) largest relative difference of each run."""
    return np.abs(losses / others - 1).max(0)


def measure() -> Report:
    """Both tasks in both precisions over some seeds."""
    report = Report(("task", "precision", "seed", "population - eager", "fused - eager", "P=8 is P=1"))
    for name in ("digits", "bytes"):
        for dtype, seeds in ((torch.float64, 1), (torch.float32, SEEDS)):
            _compare(report, task_of(name), dtype, seeds)
    report.notes.append("largest relative difference over 100 steps and 8 rates; the bar is on seed 0")
    return report


def _compare(report: Report, task: Task, dtype: torch.dtype, seeds: int) -> None:
    precision = str(dtype).removeprefix("torch.")
    ours, theirs = [], []
    for seed in range(seeds):
        population = population_losses(task, RATES, seed, STEPS, dtype)
        eager = eager_losses(task, RATES, seed, STEPS, dtype)
        ours.append(apart(population, eager))
        theirs.append(apart(eager_losses(task, RATES, seed, STEPS, dtype, fused=True), eager))
        alone = np.hstack([population_losses(task, [rate], seed, STEPS, dtype) for rate in RATES])
        same = "bit for bit" if np.array_equal(alone, population) else f"{apart(alone, population).max():.1g}"
        report.rows.append((task.name, precision, seed, float(ours[-1].max()), float(theirs[-1].max()), same))
    report.checks.append(Check(f"{task.name}, {precision}, largest difference", float(ours[0].max()), BAR))
    if seeds > 1:
        beyond = [int((np.array(runs) > BAR).sum()) for runs in (ours, theirs)]
        report.notes.append(
            f"{task.name}, {precision}: of {seeds * len(RATES)} runs {beyond[0]} of ours went beyond {BAR:g}, "
            f"and {beyond[1]} of torch's fused AdamW against its plain one"
        )
