"""Tuning of a program's constants and schedule at one horizon: joint random search, local rounds, coordinate descent.

The same procedure and number of runs for every side of a comparison. Seeds that pick are never the seeds
that are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.random import Generator

from ..dsl import Program
from ..proxies import Task
from .curve import Point
from .descent import descend
from .run_pool import RunPool
from .settings import ADAMW_RANGES, Ranges, Settings, as_run, draw, nudge
from .train import Run

SHORTER = 4  # a short run's horizon is the horizon over this (a rung of successive halving)
PICK_SEEDS = tuple(range(9_000, 9_004))
SHOWN_SEEDS = tuple(range(9_100, 9_108))


@dataclass(frozen=True)
class Budget:
    """How many runs a tuning takes, the same for both sides of a comparison."""

    first: int = 64  # joint random draws, one seed
    rounds: int = 2  # local rounds around the best so far, one seed each
    each: int = 32
    descent: int = 0  # coordinate descent from the best so far, one seed
    finalists: int = 12  # run again on the picking seeds but the first, which chose them
    seeds: tuple[int, ...] = PICK_SEEDS
    short: int = 0  # joint random draws in short runs, of which the best are the first

    def __post_init__(self) -> None:
        if self.short and self.short < self.first:
            raise ValueError(f"of {self.short} short runs {self.first} cannot be the best")

    def __str__(self) -> str:
        short = f" and {self.short} of a quarter of the length" if self.short else ""
        return f"{self._whole()} runs{short}"

    def with_first(self, draws: int) -> Budget:
        """The same but for so many joint random draws in whole runs, and in short ones in proportion.

        >>> Budget(first=48, short=120).with_first(100).short
        250
        """
        return replace(self, first=draws, short=round(self.short * draws / self.first))

    def runs(self) -> int:
        """Runs in all, the short ones too."""
        return self.short + self._whole()

    def cost(self) -> float:
        """Its steps, in runs of the horizon."""
        return self.short / SHORTER + self._whole()

    def _whole(self) -> int:
        return self.first + self.rounds * self.each + self.descent + self.finalists * len(self.seeds[1:])


class Pool(Protocol):
    """What trains."""

    def losses(self, wanted: Sequence[tuple[Sequence[Run], int]], steps: int) -> list[list[float]]:
        """Final losses in nats of (runs, seed), in order; a failed run is infinitely bad."""
        ...


def pick(
    pool: Pool,
    program: Program,
    steps: int,
    random: Generator,
    budget: Budget = Budget(),
    near: Sequence[Settings] = (),
    ranges: Ranges = ADAMW_RANGES,
    tell: Callable[[str], None] = lambda text: None,
) -> tuple[list[Settings], int]:
    """The settings of the finalists at a horizon, best first, and how many runs were taken.

    Args:
        pool: What trains.
        program: Whose constants are set.
        steps: The horizon.
        random: Draws.
        budget: Runs.
        near: Good settings, as of a neighbouring horizon; they come first, and half of the draws are nudges of these.
        ranges: Of the program's hyperparameters, see `ranges_of`.
        tell: Is told of progress, a line each.
    """
    tried: list[tuple[float, Settings]] = []
    runs = 0

    def measure(settings: Sequence[Settings], *seeds: int, steps: int = steps) -> list[list[float]]:
        nonlocal runs
        runs += len(settings) * len(seeds)
        return pool.losses([([as_run(program, s) for s in settings], seed) for seed in seeds], steps)

    seed, draws = budget.seeds[0], max(budget.short, budget.first)
    near = near[: budget.first]
    known = [nudge(near[i % len(near)], random, ranges=ranges) for i in range(draws // 2)] if near else []
    first = [*near, *known[: draws - len(near)]]
    first += [draw(random, ranges) for _ in range(draws - len(first))]
    if budget.short:
        ranks = np.argsort(measure(first, seed, steps=max(1, steps // SHORTER))[0], kind="stable")
        best_short = [first[i] for i in ranks if i >= len(near)]
        first = [*near, *best_short[: budget.first - len(near)]]
    tried += zip(measure(first, seed)[0], first, strict=True)
    for number in range(budget.rounds):
        best = [s for _, s in sorted(tried, key=lambda pair: pair[0])[: 8 >> number]]
        more = [nudge(best[i % len(best)], random, 0.7**number, ranges) for i in range(budget.each)]
        tried += zip(measure(more, seed)[0], more, strict=True)
        tell(f"{steps} steps, round {number + 1}: {min(loss for loss, _ in tried):.4f} nats")
    if budget.descent:
        loss, start = min(tried, key=lambda pair: pair[0])
        walked = descend(start, loss, lambda some: measure(some, seed)[0], ranges, budget.descent)
        best_yet = min([(loss, start), *walked], key=lambda pair: pair[0])[1]
        rest = [nudge(best_yet, random, 0.5, ranges) for _ in range(budget.descent - len(walked))]
        tried += [*walked, *zip(measure(rest, seed)[0], rest, strict=True)]
        tell(f"{steps} steps, coordinate descent: {min(loss for loss, _ in tried):.4f} nats")
    finalists = [s for _, s in sorted(tried, key=lambda pair: pair[0])[: budget.finalists]]
    if budget.seeds[1:]:
        means = np.mean(measure(finalists, *budget.seeds[1:]), axis=0)
        finalists = [finalists[i] for i in np.argsort(means, kind="stable")]
    return finalists, runs


def tune(
    task: Task,
    program: Program,
    steps: int,
    random: Generator,
    budget: Budget = Budget(),
    near: Sequence[Settings] = (),
    ranges: Ranges = ADAMW_RANGES,
    tell: Callable[[str], None] = lambda text: None,
    pool: RunPool | None = None,
) -> tuple[Point, list[Settings]]:
    """The tuned program at a horizon, measured on seeds that picked nothing, and the settings of its finalists.

    Takes what `pick` takes. `pool`: what trains, by default this process.
    """
    pool = pool or RunPool(task)
    named: Callable[[str], None] = lambda text: tell(f"{task.name} {text}")  # noqa: E731
    order, runs = pick(pool, program, steps, random, budget, near, ranges, named)
    best_run = as_run(program, order[0])
    shown = [loss for (loss,) in pool.losses([([best_run], seed) for seed in SHOWN_SEEDS], steps)]
    point = Point(steps, tuple(shown), SHOWN_SEEDS, str(best_run.program), float(order[0]["schedule.warmup"]),
                  str(order[0]["schedule.decay"]), runs)  # fmt: skip
    tell(f"{task.name} {steps} steps: {point.loss:.4f} nats on fresh seeds, {order[0]}")
    return point, order
