"""Intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Interval:
    """A geometric mean with a confidence interval."""

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
    logs = np.log(np.asarray(values, float))
    mean = float(logs.mean())
    if len(logs) < 2:
        return Interval(math.exp(mean), 0.0, math.inf)
    error = float(logs.std(ddof=1)) / math.sqrt(len(logs))
    width = float(stats.t.ppf(1 - (1 - level) / looked_at / 2, len(logs) - 1)) * error
    return Interval(math.exp(mean), math.exp(mean - width), math.exp(mean + width))
