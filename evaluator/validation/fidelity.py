"""Do proxies rank rules as targets do? A suite is chosen on half of the rules and seeds and judged on the others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations

from ..statistics import Interval
from .rank import kendall_tau

Scores = Mapping[str, Sequence[float]]  # rule -> a score for each seed, more is better


@dataclass(frozen=True)
class Fidelity:
    """How proxies agree with targets: Kendall's tau with a 90% interval.

    Attributes:
        each: Of every proxy alone, with the first target, over all rules and seeds.
        suite: The proxies that were chosen, on half of the rules and seeds.
        chosen: Their tau on that half.
        judged: Their tau on the other rules and seeds.
        second: Their tau on a second target, over the rules that did not choose; by target.
        rules: How many rules chose, and how many judged.
    """

    each: dict[str, Interval]
    suite: tuple[str, ...]
    chosen: Interval
    judged: Interval
    second: dict[str, Interval]
    rules: tuple[int, int]


def fidelity(proxies: Mapping[str, Scores], targets: Mapping[str, Scores], most: int = 3) -> Fidelity:
    """Chooses the suite of at most `most` proxies whose mean log speedup agrees most surely with the first target.

    Rules are halved by their place in the order of the first target's scores, so that both halves hold good and bad
    ones: odd places choose, even places judge. Seeds are halved by their order. A proxy whose tau has a lower end of 0
    or less on the choosing half is a filter and in no suite. Of the suites of the others that with the highest lower
    end is taken, the smaller of equals; where there are no others, all proxies are.

    Args:
        proxies: Proxy -> rule -> speedups.
        targets: Target -> rule -> scores; the first is what the suite is chosen for.
        most: Proxies in a suite.

    Raises:
        ValueError: Fewer than six rules that all have.

    >>> good = {str(i): [1 + i / 10, 1 + i / 10] for i in range(12)}
    >>> bad = {str(i): [2 - i / 10, 2 - i / 10] for i in range(12)}
    >>> found = fidelity({"good": good, "bad": bad}, {"t": good})
    >>> found.suite, found.judged.mean, found.each["bad"].mean
    (('good',), 1.0, -1.0)
    """
    first, *others = targets
    rules = _common([*proxies.values(), targets[first]])
    if len(rules) < 6:
        raise ValueError(f"{len(rules)} rules have a score on every proxy and on {first}; it takes six")
    order = sorted(rules, key=lambda rule: (sum(targets[first][rule]), rule))
    choosing, judging = order[1::2], order[0::2]

    @cache
    def tau(suite: tuple[str, ...]) -> Interval:
        return kendall_tau(_half(suite_scores(proxies, suite), choosing, 0), _half(targets[first], choosing, 0))

    able = [name for name in proxies if tau((name,)).low > 0] or list(proxies)
    taus = {suite: tau(suite) for size in range(1, most + 1) for suite in combinations(able, size)}
    suite = max(taus, key=lambda s: (taus[s].low, -len(s)))
    scores = suite_scores(proxies, suite)
    return Fidelity(
        each={name: kendall_tau(_of(proxies[name], rules), _of(targets[first], rules)) for name in proxies},
        suite=suite,
        chosen=taus[suite],
        judged=kendall_tau(_half(scores, judging, 1), _half(targets[first], judging, 1)),
        second={name: _second(scores, targets[name], judging) for name in others},
        rules=(len(choosing), len(judging)),
    )


def _second(scores: Scores, target: Scores, judging: Sequence[str]) -> Interval:
    common = [rule for rule in judging if rule in target]
    return kendall_tau(_of(scores, common), _of(target, common))


def suite_scores(proxies: Mapping[str, Scores], suite: Sequence[str]) -> dict[str, list[float]]:
    """The mean of log speedups over the proxies of a suite, seed by seed."""
    tables = [proxies[name] for name in suite]
    found = {}
    for rule in _common(tables):
        by_seed = zip(*(table[rule] for table in tables), strict=True)
        found[rule] = [sum(map(math.log, speedups)) / len(suite) for speedups in by_seed]
    return found


def _common(tables: Sequence[Scores]) -> list[str]:
    return [rule for rule in tables[0] if all(rule in table for table in tables)]


def _of(scores: Scores, rules: Sequence[str]) -> dict[str, Sequence[float]]:
    return {rule: scores[rule] for rule in rules}


def _half(scores: Scores, rules: Sequence[str], which: int) -> dict[str, Sequence[float]]:
    """Some rules, on every second seed."""
    return {rule: scores[rule][which::2] for rule in rules}
