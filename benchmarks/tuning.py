"""Tuning on a target: two runs in two processes of one thread, against one after the other on two threads.

Seconds of the clock; the shortest of several turns are compared, since what else a machine does only adds to them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from measure import Check, Report

from stepsmith.discovered import load
from stepsmith.evaluator.train import Run, use_one_thread
from stepsmith.evaluator.validation.pool import TargetPool
from stepsmith.evaluator.validation.record import Record
from stepsmith.evaluator.validation.training import Training, train_target

TITLE = "what two tuning processes bring over one of two threads"
TARGETS, STEPS, TURNS = ("gpt-60k", "gpt-100k"), 200, 5


def measure() -> Report:
    report = Report(("target", "turn", "2 threads s", "2 processes s", "times"))
    for name in TARGETS:
        with tempfile.TemporaryDirectory() as folder, _pool(name, folder) as pool:
            pool.results(_pair(0))  # the workers load
            rows = [(name, turn, *_turn(pool, turn)) for turn in range(1, TURNS + 1)]
        report.rows += [(*row, row[2] / row[3]) for row in rows]
        best = min(row[2] for row in rows) / min(row[3] for row in rows)
        report.checks.append(
            Check(f"{name}: runs a second of two processes, over two threads", best, 1.7, at_least=True)
        )
        report.notes.append(f"{name}: median over turns {median(row[2] / row[3] for row in rows):.2f}")
    return report


def _turn(pool: TargetPool, turn: int) -> tuple[float, float]:
    """Seconds of two runs on two threads, one after the other, and in two processes."""
    begun = perf_counter()
    _on_two_threads(pool, _pair(turn))
    between = perf_counter()
    pool.results(_pair(turn))
    return between - begun, perf_counter() - between


def _pool(name: str, folder: str) -> TargetPool:
    return TargetPool(name, Record(Path(folder) / "runs.jsonl"), workers=2)


def _pair(turn: int) -> list[Training]:
    return [Training(Run(load("adamw").with_lr(3e-3)), seed, STEPS) for seed in (2 * turn, 2 * turn + 1)]


def _on_two_threads(pool: TargetPool, runs: Sequence[Training]) -> None:
    torch.set_num_threads(2)
    for training in runs:
        train_target(pool.target, training)
    use_one_thread()
