"""Every rule of the zoo, tuned on the byte model, beside tuned AdamW: python benchmarks/zoo.py [NAME ...]

First a sweep of the learning rate over 2^-12 ... 2^6 times the default at an eighth of the budget, then joint tuning
of all hyperparameters, the fallback's too, at `--share` of it; picking seeds are never shown. Each finished rule
appends a line to benchmarks/results/zoo.jsonl; the same command goes on from there and prints the table.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stepsmith.cli import in_one_line
from stepsmith.discovered import entries, load
from stepsmith.dsl import Program
from stepsmith.evaluator.curve import curve_of
from stepsmith.evaluator.fitness import paired_speedups
from stepsmith.evaluator.run_pool import losses
from stepsmith.evaluator.settings import ranges_of
from stepsmith.evaluator.statistics import Interval, geometric_interval
from stepsmith.evaluator.train import Run, train, use_one_thread, validate
from stepsmith.evaluator.tune import SHOWN_SEEDS, Budget, tune
from stepsmith.proxies import Task, stack
from stepsmith.proxies import task as task_of

RECORD = Path(__file__).parent / "results" / "zoo.jsonl"
BUDGET = Budget(first=48, rounds=2, each=24, finalists=8)
_SWEEP = range(-12, 7)


def working_peak(task: Task, program: Program) -> float:
    """The learning rate with the least loss on short runs."""
    steps = round(task.steps / 8)
    reference = curve_of(task).point(steps)
    runs = [Run(program.with_lr(program.peak * 2.0**k), reference.warmup, reference.decay) for k in _SWEEP]
    return program.peak * 2.0 ** _SWEEP[int(np.argmin(losses(train(task, runs, 8_999, steps))))]


def measure(name: str, task: Task, share: float) -> dict[str, Any]:
    """A tuned rule as a row of the record."""
    program, steps = load(name), round(task.steps * share)
    random = np.random.Generator(np.random.Philox(key=[11, steps]))
    ranges = ranges_of(program, working_peak(task, program))
    point, _ = tune(task, program, steps, random, BUDGET, ranges=ranges)
    speedups = paired_speedups(task, point.run(), SHOWN_SEEDS, share)
    return {
        "rule": name, "task": task.name, "fingerprint": task.fingerprint(), "steps": steps, "loss": point.loss,
        "losses": point.losses, "speedups": speedups, "runs": point.runs, "program": point.program,
        "warmup": point.warmup, "decay": point.decay,
    }  # fmt: skip


def rows(task: Task, share: float) -> dict[str, dict[str, Any]]:
    """What has been measured, by rule."""
    lines = RECORD.read_text("utf-8").splitlines() if RECORD.exists() else []
    wanted = (task.fingerprint(), round(task.steps * share))
    return {r["rule"]: r for r in map(json.loads, lines) if (r["fingerprint"], r["steps"]) == wanted}


def start_loss(task: Task) -> float:
    """The mean loss at initialisation, in nats."""
    return float(np.mean([validate(task, stack(task.model.init(seed), 1))[0] for seed in SHOWN_SEEDS]))


class Line(NamedTuple):
    """A tuned rule beside the others: its loss, its drop from the start as a share of SGD-momentum's, its speedup."""

    rule: str
    loss: float
    drop: float
    speedup: Interval


def ranking(task: Task, share: float) -> list[Line]:
    """The tuned rules by loss; empty until a momentum rule has been measured."""
    found, start = rows(task, share), start_loss(task)
    momentum = [found[name]["loss"] for name in ("momentum", "nesterov") if name in found]
    if not momentum:
        return []
    whole = start - min(momentum)
    return [
        Line(row["rule"], row["loss"], (start - row["loss"]) / whole, geometric_interval(row["speedups"]))
        for row in sorted(found.values(), key=lambda r: r["loss"])
    ]


def table(task: Task, share: float) -> str:
    """The ranking as text."""
    lines = [f"{'rule':14} {'loss':>7} {'drop':>6}  speedup over tuned AdamW (95%, {len(SHOWN_SEEDS)} seeds)"]
    for rule, loss, drop, speedup in ranking(task, share):
        interval = f"{speedup.mean:.3f} ({speedup.low:.3f}-{speedup.high:.3f})"
        lines.append(f"{rule:14} {loss:7.4f} {drop:6.1%}  {interval}")
    return "\n".join(lines)


def main() -> None:
    """Reads the command line, tunes what is missing, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="rules [default: all]")
    parser.add_argument("--task", default="bytes_b64")
    parser.add_argument("--share", type=float, default=0.25, help="of the task's budget")
    parser.add_argument("--table", action="store_true", help="print what has been measured and tune nothing")
    arguments = parser.parse_args()
    use_one_thread()
    task = task_of(arguments.task)
    names = arguments.names or [e.name for e in entries() if not e.program.schedule]
    for name in [] if arguments.table else names:
        if name in rows(task, arguments.share):
            continue
        row = measure(name, task, arguments.share)
        RECORD.parent.mkdir(exist_ok=True)
        with RECORD.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(name, round(row["loss"], 4), flush=True)
    print(table(task, arguments.share))


if __name__ == "__main__":
    in_one_line(main)
