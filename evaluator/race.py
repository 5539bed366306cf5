"""A race: programs train on more and more seeds, and those that are surely behind leave it.

A sequential test in the spirit of Maron and Moore's Hoeffding races (NIPS 1993), with Student's intervals of paired
differences: seeds are common, so that their luck cancels, and the level is corrected for every look at every program.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

import numpy as np

from ..dsl import Program
from .dispatcher import Dispatcher
from .fitness import Trial
from .statistics import mean_interval
from .trials import scores

LOOKS = (4, 8, 16)  # seeds after which programs may leave


def race(
    dispatcher: Dispatcher,
    programs: Sequence[Program],
    trial: Trial,
    keep: int,
    groups: Sequence[Hashable],
    looks: Sequence[int] = LOOKS,
    tell: Callable[[str], None] = lambda text: None,
) -> list[int]:
    """The programs by their places in the sequence, best first; those that left come after those that stayed.

    Args:
        dispatcher: Trains.
        programs: At least one.
        trial: Its seeds are taken in order, as many as the last look says.
        keep: How many are wanted. A program leaves when it is surely behind the last of so many,
        groups: and behind the best of its own group, of which one is wanted too.
        looks: Numbers of seeds.
        tell: Is told how many are left after each look, and in a long one how far it is, a line each.
    """
    racing, out = list(range(len(programs))), list[int]()
    logs: list[list[float]] = [[] for _ in programs]
    for before, upto in zip((0, *looks), looks, strict=False):
        seeds = trial.seeds[before:upto]
        found = scores(dispatcher, [programs[i] for i in racing], replace(trial, seeds=seeds), tell)
        for i, score in zip(racing, found, strict=True):
            logs[i] += map(math.log, score.means())
        racing.sort(key=lambda i: -float(np.mean(logs[i])))
        if upto == looks[-1]:
            break  # there is nothing to leave
        checks = len(programs) * len(looks)
        left = [i for i in racing if all(_behind(logs[i], logs[r], checks) for r in _rivals(i, racing, keep, groups))]
        racing, out = [i for i in racing if i not in left], left + out
        tell(f"after {upto} seeds {len(racing)} are left")
    return racing + out


def _rivals(i: int, racing: Sequence[int], keep: int, groups: Sequence[Hashable]) -> tuple[int, int]:
    """The last that would be kept, and the best of the program's own group; `racing` is in order."""
    return racing[min(keep, len(racing)) - 1], next(j for j in racing if groups[j] == groups[i])


def _behind(logs: Sequence[float], rival: Sequence[float], checks: int) -> bool:
    """Whether a program's log speedups lie below a rival's, seed by seed, beyond chance."""
    return mean_interval(np.subtract(logs, rival).tolist(), checks).high < 0
