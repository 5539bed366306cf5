"""Intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Interval:
    """A mean with a confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ({self.low:.3f}-{self.high:.3f})"


def geometric_interval(values: Sequence[float], looked_at: int = 1, level: float = 0.95) -> Interval:
    """Student's interval of the mean of log(values), one value a seed, as a geometric mean.

    The level is corrected for how many programs were looked at (Bonferroni): 1 - (1 - level) / looked_at.

    >>> geometric_interval([1.1, 1.2, 1.3]).low < 1.2 < geometric_interval([1.1, 1.2, 1.3], looked_at=10).high
    True
    """
    logs = mean_interval([math.log(v) for v in values], looked_at, level)
    return Interval(math.exp(logs.mean), math.exp(logs.low), math.exp(logs.high))


def mean_interval(values: Sequence[float], looked_at: int = 1, level: float = 0.95) -> Interval:
    """Student's interval of the mean, one value a seed, at the level 1 - (1 - level) / looked_at.

    >>> interval = mean_interval([1.0, 2.0, 3.0])
    >>> interval.mean, round(interval.high - interval.mean, 3)
    (2.0, 2.484)
    """
    each = np.asarray(values, float)
    mean = float(each.mean())
    if len(each) < 2:
        return Interval(mean, -math.inf, math.inf)
    error = float(each.std(ddof=1)) / math.sqrt(len(each))
    width = float(stats.t.ppf(1 - (1 - level) / looked_at / 2, len(each) - 1)) * error
    return Interval(mean, mean - width, mean + width)
