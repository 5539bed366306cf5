"""What a step costs beside its loss: time, interleaved with the other contenders', and memory."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import torch

from ...proxies.data import Batch
from ...proxies.targets import Target
from ..train import use_one_thread
from .training import Trainer, Training

_ROUNDS, _WARM = 15, 3
_LARGE = 5_000_000


@dataclass(frozen=True)
class StepCost:
    """Of a step on a target.

    Attributes:
        seconds: Median of a whole step.
        optimizer_seconds: Median of the optimizer's part.
        state_bytes: Kept by the optimizer, a parameter.
        memory_bytes: Weights, gradients and states; on a GPU the peak of a step.
    """

    seconds: float
    optimizer_seconds: float
    state_bytes: float
    memory_bytes: int


def step_costs(target: Target, trainings: Mapping[str, Training], device: str = "cpu") -> dict[str, StepCost]:
    """The cost of each contender's step, measured in one process in turns, so that a slow minute slows all alike.

    On a CPU on one thread, as runs are. On a GPU, where a step's peak of memory is measured, and of models above 5M
    parameters, for want of memory, contenders are measured one after another.
    """
    threads = torch.get_num_threads()
    use_one_thread()
    try:
        if device != "cpu" or sum(map(prod, target.model.shapes.values())) > _LARGE:
            return {name: _costs(target, {name: t}, device)[name] for name, t in trainings.items()}
        return _costs(target, trainings, device)
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)


def _costs(target: Target, trainings: Mapping[str, Training], device: str) -> dict[str, StepCost]:
    trainers = {name: Trainer(target, training, device) for name, training in trainings.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in trainers}
    peak = dict.fromkeys(trainers, 0)
    shortest = min(training.steps for training in trainings.values())
    batches = target.batches(0, min(_WARM + _ROUNDS, shortest))
    for batch in batches:
        for name, trainer in trainers.items():
            if device != "cpu":
                torch.cuda.reset_peak_memory_stats(device)
            times[name].append(_timed(trainer, batch, device))
            if device != "cpu":
                peak[name] = max(peak[name], torch.cuda.max_memory_allocated(device))
    return {name: _cost(trainer, times[name][_WARM:] or times[name], peak[name]) for name, trainer in trainers.items()}


def _timed(trainer: Trainer, batch: Batch, device: str) -> tuple[float, float]:
    """Seconds of a step, and of the optimizer's part."""
    begun = time.perf_counter()
    trainer.backward(batch)
    _wait(device)
    before = time.perf_counter()
    trainer.update()
    _wait(device)
    now = time.perf_counter()
    return now - begun, now - before


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


def _cost(trainer: Trainer, times: list[tuple[float, float]], peak: int) -> StepCost:
    parameters = list(trainer.module.parameters())
    count = sum(p.numel() for p in parameters)
    states = sum(_bytes(v) for state in trainer.optimizer.state.values() for v in state.values())
    whole, part = np.median(np.asarray(times), axis=0)
    weights = sum(map(_bytes, parameters))
    return StepCost(float(whole), float(part), states / count, peak or 2 * weights + states)


def _bytes(value: object) -> int:
    return value.numel() * value.element_size() if isinstance(value, torch.Tensor) else 0
