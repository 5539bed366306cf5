"""Targets on a GPU: steps of 10M, 30M and 124M parameters in bfloat16, and a quick validation at 10M."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import torch
from measure import Check, Report

from stepsmith.discovered import load
from stepsmith.evaluator.train import Run
from stepsmith.evaluator.tune import PICK_SEEDS, Budget
from stepsmith.evaluator.validation.pool import TargetPool
from stepsmith.evaluator.validation.protocol import PRESETS
from stepsmith.evaluator.validation.record import Record
from stepsmith.evaluator.validation.training import Trainer, Training
from stepsmith.evaluator.validation.validate import validate
from stepsmith.proxies.data import Batch
from stepsmith.proxies.targets import Target, target

SIZES = ("gpt-10m", "gpt-30m", "gpt-124m")
WARM, STEPS = 5, 15
_MATRIX = 8192  # of the product that says what the card can do
QUICK_STEPS = 100  # of a run of the quick validation: what one section has time for
WORKERS = 4  # processes that share the card


def measure() -> Report:
    report = Report(
        ("target", "parameters M", "tokens/s", "TFLOP/s", "of the card", "memory GB", "backward ms", "update ms")
    )
    card = matrix_rate()
    for name in SIZES:
        report.rows.append(_row(name, card))
    report.checks.append(Check("124M: share of the card's matrix rate", report.rows[-1][4], 0.35, at_least=True))
    report.notes.append(f"matrix rate of the card in bfloat16: {card / 1e12:.0f} TFLOP/s")
    return report


def matrix_rate() -> float:
    """Operations a second of a large product in bfloat16."""
    a, b = (torch.randn(_MATRIX, _MATRIX, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    torch.cuda.synchronize()
    begun = perf_counter()
    for _ in range(20):
        a @ b
    torch.cuda.synchronize()
    return 20 * 2 * _MATRIX**3 / (perf_counter() - begun)


def operations(goal: Target) -> float:
    """Of a step: six a parameter and token, and attention's twelve a layer, width and position."""
    shape = goal.module(0).shape
    parameters = sum(p.numel() for p in goal.model.init(0))
    each = 6 * parameters + 6 * shape.layers * shape.width * shape.length  # a causal mask leaves half
    return each * goal.tokens(1)


def _row(name: str, card: float) -> tuple[object, ...]:
    goal = target(name)
    trainer = Trainer(goal, Training(Run(load("adamw").with_lr(1e-3)), 0, 1000), "cuda")
    batches = list(goal.data.batches(0, WARM + STEPS, goal.batch))
    torch.cuda.reset_peak_memory_stats()
    for batch in batches[:WARM]:
        trainer.advance(batch)
    seconds = _seconds(trainer.advance, batches[WARM:])
    backward = _seconds(trainer.backward, batches[:WARM])
    update = _seconds(lambda _: trainer.optimizer.step(), batches[:WARM])
    rate = operations(goal) / seconds
    parameters = sum(p.numel() for p in trainer.module.parameters()) / 1e6
    memory = torch.cuda.max_memory_allocated() / 1e9
    speed = goal.tokens(1) / seconds
    return name, parameters, speed, rate / 1e12, rate / card, memory, 1e3 * backward, 1e3 * update


def _seconds(action: Callable[[Batch], object], batches: Sequence[Batch]) -> float:
    """Of one call, all of them queued."""
    torch.cuda.synchronize()
    begun = perf_counter()
    for batch in batches:
        action(batch)
    torch.cuda.synchronize()
    return (perf_counter() - begun) / len(batches)


def quick(name: str = "gpt-10m", device: str = "cuda") -> Report:
    """Lion against AdamW, four paired seeds, in what a section has of time."""
    report = Report(("rule", "speedup", "low", "high", "gap nats", "runs", "seconds"))
    goal, preset = target(name), PRESETS["quick"]
    ratio = QUICK_STEPS / goal.steps
    small = replace(
        preset, tuned=ratio, compared=(ratio,), curve=(ratio / 2, ratio), seeds=4, curve_seeds=2,
        budget=Budget(3, 0, 0, 3, 1, PICK_SEEDS[:1]), again=Budget(1, 0, 0, 0, 1, PICK_SEEDS[:1]),
    )  # fmt: skip
    begun = perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        record = Record(Path(folder) / "runs.jsonl")
        with TargetPool(name, record, workers=WORKERS, device=device) as pool:
            found = validate(pool, {"lion": load("lion")}, small, "quick")
        runs = len(record.path.read_text("utf-8").splitlines())
    seconds = perf_counter() - begun
    comparison = found.contenders["lion"].outcomes[ratio].comparison
    speedup = comparison.speedup
    report.rows.append(("lion", speedup.mean, speedup.low, speedup.high, comparison.gap.mean, runs, seconds))
    report.notes.append(f"{name}, {QUICK_STEPS} steps, 4 paired seeds, against tuned AdamW")
    report.checks.append(Check("seconds", seconds, 540))
    return report
