"""Performance profiles over tasks (Dolan and More 2002), scored as AlgoPerf does (Dahl et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np


@dataclass(frozen=True)
class Profile:
    """One rival's ratios to the fastest rival, a task each, in order; inf where it never got to the target.

    rho(tau) is the share of tasks that it does within tau times the fastest.
    """

    ratios: tuple[float, ...]

    def rho(self, tau: float) -> float:
        """The share of tasks with a ratio of at most tau.

        >>> Profile((1.0, 2.0, math.inf)).rho(2.0)
        0.6666666666666666
        """
        return sum(ratio <= tau for ratio in self.ratios) / len(self.ratios)

    def steps(self) -> list[tuple[float, float]]:
        """(tau, rho) wherever rho rises; it stays until the next tau.

        >>> Profile((1.0, 1.0, 2.0, math.inf)).steps()
        [(1.0, 0.5), (2.0, 0.75)]
        """
        return [(tau, self.rho(tau)) for tau in sorted(set(self.ratios)) if math.isfinite(tau)]

    def score(self, limit: float = 4.0) -> float:
        """The mean of rho over tau in [1, limit]: 1 for the fastest everywhere, 0 for one that is never within limit.

        >>> Profile((1.0, 2.5, 5.0)).score()
        0.5
        """
        return float(np.mean([max(0.0, limit - ratio) / (limit - 1) for ratio in self.ratios]))


def profiles(times: Mapping[str, Mapping[str, float]]) -> dict[str, Profile]:
    """A profile for each rival of rival -> task -> time to target (steps, tokens or seconds; inf if never).

    A task on which nobody gets to the target counts against all.

    Raises:
        ValueError: Rivals with different tasks, no tasks, or times that are not positive.

    >>> both = profiles({"adamw": {"a": 100, "b": 90}, "lion": {"a": 150, "b": math.inf}})
    >>> both["adamw"].score(), both["lion"].ratios
    (1.0, (1.5, inf))
    """
    tasks = sorted(set().union(*times.values()))
    for name, each in times.items():
        if not tasks or set(each) != set(tasks):
            raise ValueError(f"{name!r} needs a time, or inf, for each task of {tasks}; it has {sorted(each)}")
        if not all(time > 0 for time in each.values()):
            raise ValueError(f"{name!r} has a time that is not positive: {dict(each)}")
    fastest = {task: min(each[task] for each in times.values()) for task in tasks}
    return {
        name: Profile(tuple(sorted(_ratio(each[task], fastest[task]) for task in tasks)))
        for name, each in times.items()
    }


def _ratio(time: float, fastest: float) -> float:
    return time / fastest if math.isfinite(time) else math.inf


def time_to_target(curve: Sequence[tuple[float, float]], target: float) -> float:
    """The first step at which the loss is at or below the target, straight between points; inf if never.

    Args:
        curve: (step, loss), steps rising. A loss that is NaN is not at the target; where the loss before is not finite,
            the step counts at which it is.
        target: In the unit of the losses.

    Raises:
        ValueError: Steps do not rise.

    >>> time_to_target([(0, 4.0), (100, 3.0), (200, 2.0)], 2.5), time_to_target([(0, 4.0)], 2.5)
    (150.0, inf)
    """
    if any(b[0] <= a[0] for a, b in pairwise(curve)):
        raise ValueError("the steps of a curve must rise")
    before: tuple[float, float] | None = None
    for step, loss in curve:
        if loss <= target:
            if before is None or not (math.isfinite(before[1]) and math.isfinite(loss)):
                return float(step)
            return before[0] + (step - before[0]) * (before[1] - target) / (before[1] - loss)
        before = (step, loss)
    return math.inf
