"""Exported classes on a GPU: steps as they are by default against multi-tensor ones, and torch's fused AdamW."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from measure import Check, Report

from stepsmith.discovered import load
from stepsmith.discovered.export_torch import torch_class

RULES = ("lion", "adamw", "c_adamw", "adamw_clip")
SHAPES = {"32x2048^2": [(2048, 2048)] * 32, "1000x1024": [(1024,)] * 1000}
STEPS = 5
BARS = {torch.float32: 1e-3, torch.bfloat16: 0.1}  # of the largest difference over the largest change


def measure(seconds_of: Callable[[dict[str, Callable[[], object]]], dict[str, float]]) -> Report:
    """`seconds_of` times actions on the device, in turns."""
    report = Report(("tensors", "dtype", "rule", "fused ms", "foreach ms", "torch fused ms", "difference"))
    for size, shapes in SHAPES.items():
        for dtype, bar in BARS.items():
            for rule in RULES:
                made = torch_class(load(rule))
                ours, each = (made(_parameters(shapes, dtype), **flag) for flag in ({}, {"foreach": True}))
                theirs = torch.optim.AdamW(_parameters(shapes, dtype), fused=True)
                for _ in range(STEPS):
                    ours.step()
                    each.step()
                error = difference(ours, each, _parameters(shapes, dtype))
                times = seconds_of({"ours": ours.step, "each": each.step, "theirs": theirs.step})
                short = str(dtype).removeprefix("torch.")
                report.rows.append((size, short, rule, *(1e3 * t for t in times.values()), error))
                report.checks.append(Check(f"{size} {short} {rule}: difference", error, bar))
                ratio = times["ours"] / times["each"]
                report.checks.append(Check(f"{size} {short} {rule}: over foreach", ratio, 1))
    return report


def _parameters(shapes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> list[torch.nn.Parameter]:
    random = torch.Generator("cuda").manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(s, generator=random, device="cuda").to(dtype)) for s in shapes]
    for p in params:
        p.grad = torch.randn(p.shape, generator=random, device="cuda").to(dtype)
    return params


def difference(one: torch.optim.Optimizer, other: torch.optim.Optimizer, start: Sequence[torch.Tensor]) -> float:
    """The largest difference between their parameters over the largest change; infinite where one is NaN."""
    params = [o.param_groups[0]["params"] for o in (one, other)]
    apart = [float((p - q).detach().abs().max()) for p, q in zip(*params, strict=True)]
    moved = max(float((p - x).detach().abs().max()) for p, x in zip(params[1], start, strict=True))
    return max(apart) / moved if moved and not any(map(math.isnan, apart)) else math.inf
