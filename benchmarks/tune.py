"""Makes the AdamW curve of tasks: python benchmarks/tune.py bytes bytes_wide

Every finished horizon is written to proxies/curves/<task>.jsonl at once; the same command goes on from there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import stepsmith
from stepsmith.discovered import load
from stepsmith.evaluator.curve import HORIZONS, Curve, Point, dump, parse
from stepsmith.evaluator.train import use_one_thread
from stepsmith.evaluator.tune import Budget, Settings, settings_of, tune
from stepsmith.proxies import task as task_of

FOLDER = Path(stepsmith.__file__).parent / "proxies" / "curves"


def make_curve(name: str, budget: Budget) -> None:
    """Tunes adamw_clip at each horizon, shortest first; a horizon starts from its neighbour's finalists."""
    task, path = task_of(name), FOLDER / f"{name}.jsonl"
    points = []
    if path.exists():
        stored = parse(path.read_text("utf-8").splitlines())
        points = list(stored.points) if stored.fingerprint == task.fingerprint() else []
    near: list[Settings] = []
    for share in HORIZONS:
        steps = round(task.steps * share)
        if any(p.steps == steps for p in points):
            continue
        random = np.random.Generator(np.random.Philox(key=[7, steps]))
        near = near or _near(points, steps)
        point, finalists = tune(task, load("adamw_clip"), steps, random, budget, near,
                                tell=lambda text: print(text, flush=True))  # fmt: skip
        near = finalists[:4]
        points.append(point)
        curve = Curve(name, task.fingerprint(), tuple(sorted(points, key=lambda p: p.steps)))
        FOLDER.mkdir(exist_ok=True)
        path.write_text(dump(curve), "utf-8")


def _near(points: list[Point], steps: int) -> list[Settings]:
    """The settings of the nearest shorter horizon, so that a tuning that was interrupted starts where it would."""
    shorter = [p for p in points if p.steps < steps]
    return [settings_of(max(shorter, key=lambda p: p.steps))] if shorter else []


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="+")
    parser.add_argument("--first", type=int, default=Budget.first, help="joint random draws a horizon")
    arguments = parser.parse_args()
    use_one_thread()
    for name in arguments.tasks:
        make_curve(name, Budget(first=arguments.first))


if __name__ == "__main__":
    main()
