"""How far two scores rank rules alike: Kendall's tau-b with an interval over rules and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..statistics import Interval

Scores = Mapping[str, float | Sequence[float]]  # of a rule: one number, or one a seed
AT_ONCE = 2_000_000  # pairs of rules whose signs are held at a time


def kendall_tau(ours: Scores, theirs: Scores, *, level: float = 0.90, resamples: int = 2000, seed: int = 0) -> Interval:
    """Kendall's tau-b between two scores of the same rules, with a percentile bootstrap interval.

    Rules are resampled, and of drawn rules only pairs of distinct ones count: a rule drawn twice is no tie. Where a
    side has a score per seed, its seeds are resampled too, the same for all rules, because rules share a seed's luck; a
    rule's score is the mean. Sides have seeds of their own. A side that ties all rules ranks nothing: tau 0.

    Measured on normal scores of 8, 16 and 30 rules with tau from 0 to 0.71, of 90% it covers 90 to 96%. With 3 seeds it
    covers more, because the scores at hand hold the seeds' noise already: 93 to 99.8% where the noise is half of what
    tells rules apart, 97 to 99.5% where it is as much. It is about the tau of scores with that much noise, not without.
    Rankings that agree on every pair in every seed have [1, 1], however few the rules.

    Args:
        ours: Rule -> score, or a score per seed. Shape (R,) or (R, S).
        theirs: Likewise; rules that only one side has are left out.
        level: Of the interval.
        resamples: How many draws.
        seed: Of the draws.

    Raises:
        ValueError: Fewer than three common rules, rules with unequally many seeds, or scores that are not finite.

    >>> proxy = {"adamw": 1.0, "lion": 1.1, "sgd": 0.3, "muon": 1.2}
    >>> target = {"adamw": 3, "lion": 2, "sgd": 1, "muon": 4}
    >>> interval = kendall_tau(proxy, target)
    >>> round(interval.mean, 3), interval.low < interval.mean <= interval.high
    (0.667, True)
    """
    rules = sorted(set(ours) & set(theirs))
    if len(rules) < 3:
        raise ValueError(f"a rank correlation needs three rules or more that both sides score; got {rules}")
    x, y = _table(ours, rules), _table(theirs, rules)
    once = np.ones((1, len(rules)))
    tau = float(_taus(once, x.mean(1)[None], y.mean(1)[None])[0])
    rng = np.random.default_rng(seed)
    size = max(1, AT_ONCE // len(rules) ** 2)
    drawn = np.concatenate([_draw(x, y, min(size, resamples - done), rng) for done in range(0, resamples, size)])
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    # Resampled seeds are noisier than the seeds themselves, so that draws may all lie on one side of tau.
    return Interval(tau, min(tau, float(low)), max(tau, float(high)))


def _table(scores: Scores, rules: Sequence[str]) -> np.ndarray:
    """Scores by rule and seed. Shape (R, S)."""
    rows = [np.atleast_1d(np.asarray(scores[rule], float)) for rule in rules]
    if len({row.shape for row in rows}) > 1 or not rows[0].size:
        raise ValueError(f"rules need equally many seeds; got {dict(zip(rules, map(len, rows), strict=True))}")
    table = np.stack(rows)
    if not np.isfinite(table).all():
        raise ValueError("scores must be finite")
    return table


def _draw(x: np.ndarray, y: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Tau of resampled rules and seeds. Shape (N,)."""
    times = rng.multinomial(len(x), np.full(len(x), 1 / len(x)), size=resamples).astype(float)
    return _taus(times, _drawn_seeds(x, resamples, rng), _drawn_seeds(y, resamples, rng))


def _drawn_seeds(table: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Mean scores over resampled seeds. Shape (N, R), or (1, R) where there is one seed."""
    seeds = table.shape[1]
    if seeds == 1:
        return table.T
    counts = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples)
    return counts @ table.T / seeds


def _taus(times: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """tau-b with each rule as often as `times` says, pairs of distinct rules alone. Shapes (N, R) to (N,)."""
    x_signs, y_signs = (np.sign(v[:, :, None] - v[:, None, :]) for v in (x, y))

    def total(signs: np.ndarray) -> np.ndarray:
        return ((times[:, None, :] @ signs)[:, 0] * times).sum(1)

    norm = np.sqrt(total(np.abs(x_signs)) * total(np.abs(y_signs)))
    return np.divide(total(x_signs * y_signs), norm, out=np.zeros(len(times)), where=norm > 0)
