"""Whether a target's training fits a device, so that one that does not is refused in a line rather than by a crash."""

from __future__ import annotations

from math import prod

import torch
from torch._subclasses import FakeTensorMode

from ...dsl import Program
from ...proxies.data import Batch
from ...proxies.targets import Target
from ..available import available

_FLOAT = 4
_MARGIN = 0.9
_SMALL = 1_000_000  # parameters; fewer fit everywhere, and counting takes seconds


class TargetTooLarge(ValueError):
    """A target that the device has no memory for: what it needs and what there is."""


def training_bytes(target: Target, program: Program) -> int:
    """What training takes: weights, gradients, states, and what one micro-batch keeps for its backward pass.

    >>> from stepsmith.proxies.targets import target
    >>> adamw = Program.parse("def f(w, g, m, v, lr=0.1):\\n  m = m + g\\n  v = v + g\\n  return lr * m * v, m, v")
    >>> 1e7 < training_bytes(target("gpt-100k"), adamw) < 1e8
    True
    """
    weights = sum(map(prod, target.model.shapes.values()))
    states = max(len(part.states) for part in program.parts())
    return _FLOAT * weights * (2 + states) + _kept(target)


def _kept(target: Target) -> int:
    """Bytes of a micro-batch's pass, counted on tensors without memory."""
    batch = next(iter(target.data.batches(0, 1, max(1, target.batch // target.micro_batches))))
    kept: dict[int, int] = {}

    def keep(value: torch.Tensor) -> torch.Tensor:
        kept[id(value.untyped_storage())] = value.untyped_storage().nbytes()
        held.append(value)
        return value

    held: list[torch.Tensor] = []
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        module = target.module(0)
        fake: Batch = batch.map(mode.from_tensor)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            target.loss(module, fake)
    half = 2 if target.dtype == "bfloat16" else 1
    return sum(kept.values()) // half


def check_target_fits(target: Target, program: Program, device: str = "cpu", workers: int = 1) -> None:
    """Raises TargetTooLarge, in one line, where so many runs at once have no room."""
    if sum(map(prod, target.model.shapes.values())) < _SMALL:
        return
    needed, free = training_bytes(target, program) * max(1, workers), available(device)
    if needed > _MARGIN * free:
        several = f" for {workers} runs at once" if workers > 1 else ""
        raise TargetTooLarge(
            f"{target.name} with {program.name} needs {needed / 1e9:.1f} GB on {device}{several}, where "
            f"{free / 1e9:.1f} GB are free: take a smaller target{', or fewer workers' if workers > 1 else ''}"
        )
