"""Targets on a GPU: steps of 10M, 30M and 124M parameters in bfloat16, and a quick validation at 10M."""

from __future__ import annotations

import tempfile
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
from stepsmith.proxies.targets import Target, target

SIZES = ("gpt-10m", "gpt-30m", "gpt-124m")
WARM, STEPS = 5, 15
_MATRIX = 8192  # of the product that says what the card can do
QUICK_STEPS = 300  # of a run of the quick validation: what one section has time for


def measure() -> Report:
    report = Report(("target", "parameters M", "tokens/s", "TFLOP/s", "of the card", "memory GB"))
    card = matrix_rate()
    for name in SIZES:
        report.rows.append(_row(name, card))
    report.checks.append(Check("124M: share of the card's matrix rate", report.rows[-1][4], 0.35, at_least=True))
    report.notes.append(f"matrix rate of the card in bfloat16: {card / 1e12:.0f} TFLOP/s")
    report.notes.append(_quick())
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
    torch.cuda.synchronize()
    begun = perf_counter()
    for batch in batches[WARM:]:
        trainer.advance(batch)
    torch.cuda.synchronize()
    seconds = (perf_counter() - begun) / STEPS
    rate = operations(goal) / seconds
    parameters = sum(p.numel() for p in trainer.module.parameters()) / 1e6
    memory = torch.cuda.max_memory_allocated() / 1e9
    return name, parameters, goal.tokens(1) / seconds, rate / 1e12, rate / card, memory


def _quick() -> str:
    """Lion against AdamW at 10M, four paired seeds, in what a section has of time."""
    goal, preset = target("gpt-10m"), PRESETS["quick"]
    ratio = QUICK_STEPS / goal.steps
    small = replace(
        preset, tuned=ratio, compared=(ratio,), curve=(ratio / 2, ratio), seeds=4, curve_seeds=2,
        budget=Budget(3, 0, 0, 3, 1, PICK_SEEDS[:1]), again=Budget(1, 0, 0, 0, 1, PICK_SEEDS[:1]),
    )  # fmt: skip
    begun = perf_counter()
    with tempfile.TemporaryDirectory() as folder, TargetPool("gpt-10m", _record(folder), device="cuda") as pool:
        found = validate(pool, {"lion": load("lion")}, small, "quick")
    speedup = found.contenders["lion"].outcomes[ratio].comparison.speedup
    return f"lion at gpt-10m, {QUICK_STEPS} steps, 4 paired seeds: speedup {speedup}, {perf_counter() - begun:.0f} s"


def _record(folder: str) -> Record:
    return Record(Path(folder) / "runs.jsonl")
