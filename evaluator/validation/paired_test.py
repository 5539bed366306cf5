"""The test that is fixed in advance: Student's, paired by seed and two-sided, with Holm's correction over rivals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

Losses = Mapping[int, float]  # final losses in nats, by seed


def paired_p(ours: Losses, theirs: Losses) -> float:
    """The p value of the paired two-sided t-test on final losses, over the seeds that both sides have.

    Differences that are all 0 have p = 1, equal ones that are not have p = 0.

    Raises:
        ValueError: Fewer than two common seeds, or losses that are not finite.

    >>> round(paired_p({0: 3.46, 1: 3.45, 2: 3.47}, {0: 3.52, 1: 3.53, 2: 3.54}), 4)
    0.0067
    """
    seeds = sorted(set(ours) & set(theirs))
    if len(seeds) < 2:
        raise ValueError(f"a paired test needs two seeds or more that both sides have; got {seeds}")
    differences = np.array([ours[s] - theirs[s] for s in seeds])
    if not np.isfinite(differences).all():
        raise ValueError("losses must be finite; count a diverged run as the loss at initialisation")
    return float(_p_values(differences[None])[0])


def _p_values(differences: np.ndarray) -> np.ndarray:
    """Of rows of paired differences, shape (N, n)."""
    n = differences.shape[1]
    mean, error = differences.mean(1), differences.std(1, ddof=1) / math.sqrt(n)
    rounding = 4 * np.finfo(float).eps * np.abs(differences).max(1)  # equal differences have no spread but this
    t = np.where(error > rounding, np.abs(mean) / np.maximum(error, 1e-300), np.where(mean == 0, 0.0, np.inf))
    return 2 * stats.t.sf(t, n - 1)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Corrected p values (Holm 1979): those of at most 5% may all be called at once, with a risk of 5% in all.

    >>> holm({"muon": 0.01, "lion": 0.04, "adan": 0.03})
    {'muon': 0.03, 'lion': 0.06, 'adan': 0.06}
    """
    corrected, largest = dict(p_values), 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, p_values[name] * (len(p_values) - rank)))
        corrected[name] = largest
    return corrected


def rejection_share(
    losses: Sequence[float], per_side: int = 4, splits: int = 2000, level: float = 0.05, seed: int = 0
) -> float:
    """How often the test tells one optimizer from itself: the A/A check, which should give about `level`.

    Runs of one optimizer on many seeds are split at random into two sides, paired as drawn.

    Args:
        losses: Final losses, at least 2 * per_side of them; the more, the less the share depends on these runs.
        per_side: Runs on each side.
        splits: How many random splits.
        level: Of the test.
        seed: Of the splits.

    Raises:
        ValueError: Too few losses for two sides.

    >>> normal = stats.norm.ppf((np.arange(20) + 0.5) / 20)
    >>> 0.03 < rejection_share(normal) < 0.07
    True
    """
    if len(losses) < 2 * per_side or per_side < 2:
        raise ValueError(f"two sides of {per_side} runs (2 or more) need {2 * per_side}; got {len(losses)}")
    rng = np.random.default_rng(seed)
    drawn = rng.permuted(np.tile(np.asarray(losses, float), (splits, 1)), axis=1)
    differences = drawn[:, :per_side] - drawn[:, per_side : 2 * per_side]
    return float((_p_values(differences) <= level).mean())
