"""The coordinate check: whether what layers give changes as much in some steps at any width."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ...dsl import Program
from ...proxies.data import Batch
from ...proxies.targets import Target, at_width
from ..train import Run
from .training import Trainer, Training

_ENDS = {"attention": "attention", "feed": "feed", "logits": ""}  # kind -> how names of its modules end


@dataclass(frozen=True)
class Coordinates:
    """What a coordinate check saw.

    Attributes:
        change: Kind of activation ("attention", "feed", "logits") -> width -> RMS of its change since initialisation.
        slopes: Kind -> slope of log(change) over log(width), least squares; near 0 where widths are alike.
    """

    change: Mapping[str, Mapping[int, float]]
    slopes: Mapping[str, float]


def coordinate_check(
    program: Program,
    widths: Sequence[int],
    base: Target,
    steps: int = 4,
    batch: int = 8,
    seeds: Sequence[int] = (0, 1),
    mup: bool = True,
) -> Coordinates:
    """Trains some steps at several widths and measures how far activations are from those at initialisation.

    As in Yang et al. 2022 (arXiv:2203.03466), appendix D.1: in the maximal update parametrisation they move as far at
    any width, in the standard one some move farther the wider the model is. No decay and no warm-up; the learning
    rate is the program's.

    Args:
        program: Whose constants were set at the width of `base`.
        widths: Two or more.
        base: A decoder target.
        steps: Of training.
        batch: Examples a step.
        seeds: Over which changes are averaged.
        mup: False: the standard parametrisation, for comparison.

    Raises:
        ProgramError, TaskError: As `Trainer` and `at_width`.

    >>> from stepsmith.proxies.targets import target
    >>> rule = Program.parse("def f(w, g, lr=3e-3):\\n  return lr * sign(g)")
    >>> found = coordinate_check(rule, (32, 64), target("gpt-100k"), steps=2, batch=2, seeds=(0,))
    >>> abs(found.slopes["logits"]) < 0.5
    True
    """
    change: dict[str, dict[int, float]] = {kind: {} for kind in _ENDS}
    for width in widths:
        target = at_width(base, width, mup)
        runs = [_changes(target, program, steps, batch, seed) for seed in seeds]
        for kind, by_width in change.items():
            by_width[width] = math.sqrt(sum(run[kind] for run in runs) / len(runs))
    return Coordinates(change, {kind: _slope(by_width) for kind, by_width in change.items()})


def _slope(change: Mapping[int, float]) -> float:
    return float(np.polyfit(np.log(list(change)), np.log(list(change.values())), 1)[0])


def _changes(target: Target, program: Program, steps: int, size: int, seed: int) -> dict[str, float]:
    """Kind -> mean square of the change, on the first validation batch."""
    run = Run(program, warmup=0.0, decay="constant_linear")  # a longer run's beginning: the rate stays at its peak
    trainer = Trainer(target, Training(run, seed, 10 * steps))
    shown = target.validation()[0]
    before = _activations(trainer.module, shown)
    for batch in target.data.batches(seed, steps, size):
        trainer.advance(batch)
    after = _activations(trainer.module, shown)
    return {kind: _mean_square(before[kind], after[kind]) for kind in _ENDS}


def _mean_square(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    return float(torch.stack([(b - a).square().mean() for a, b in zip(before, after, strict=True)]).mean())


def _activations(module: nn.Module, batch: Batch) -> dict[str, list[Tensor]]:
    """Kind -> what its modules give, in the order of layers."""
    with _listening(module) as heard, torch.no_grad():
        module(batch.x)
    return heard


@contextmanager
def _listening(module: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    heard: dict[str, list[Tensor]] = {kind: [] for kind in _ENDS}
    hooks = [
        part.register_forward_hook(lambda _m, _x, out, kind=kind: heard[kind].append(out))
        for kind, end in _ENDS.items()
        for name, part in module.named_modules()
        if name.rpartition(".")[2] == end
    ]
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()
