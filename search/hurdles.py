"""Hurdles: what a child must reach to leave each stage."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..evaluator.curve import LOWEST
from ..evaluator.fitness import geometric_mean
from .config import SearchConfig
from .niche import Niche

_MEMORY = 64  # recent scores a quantile is taken over: a hurdle must rise as fast as what it judges
_ENOUGH = 8  # scores before a hurdle drops by quantile
_CLOSE = 0.97  # to its parent, of which one in three is better at the end; of those below, one in eight
_LENIENT = 0.5  # of the quantile, by which a structure is dropped that few have tuned


OPEN = float(np.nextafter(LOWEST, 1))  # what every score reaches that did not fail


def hurdle(scores: Collection[float], drop: float) -> float:
    """The score that a share of `drop` are below; OPEN where they are few."""
    if not drop or len(scores) < _ENOUGH:
        return OPEN
    return max(float(np.quantile(np.array(scores), drop)), OPEN)


class Asked(NamedTuple):
    """What is asked of a child: the score that leaves each stage. At the last none is dropped, and the score is that on
    the first seeds, from which on it is worth all; what stays below has that, times `ease`, for its fitness.
    """

    niche: Niche
    hurdles: list[float]
    ease: float = 1.0


@dataclass
class Hurdles:
    """The recent scores of each niche at each stage, and what they ask of a child."""

    config: SearchConfig
    recent: dict[Niche, list[deque[float]]] = field(default_factory=dict)
    ratios: dict[Niche, deque[float]] = field(default_factory=dict)  # of fitness to the score on the first seeds
    first_seeds: dict[int, int] = field(init=False)  # how many the first look has, at stages that have two

    def __post_init__(self) -> None:
        looks = map(self.config.looks, range(len(self.config.stages)))
        self.first_seeds = {stage: len(first.seeds) for stage, (first, *others) in enumerate(looks) if others}

    def add(self, niche: Niche, stage: int, score: Mapping[str, Any]) -> None:
        """A score, as a row has it."""
        if niche not in self.recent:
            self.recent[niche] = [deque(maxlen=_MEMORY) for _ in self.config.stages]
        first = self._when_judged(stage, score)
        self.recent[niche][stage].append(first)
        seeds = self.first_seeds.get(stage)
        if seeds is not None and not score["dropped"] and len(score["speedups"][0]) > seeds:
            self.ratios.setdefault(niche, deque(maxlen=_MEMORY)).append(float(score["fitness"]) / first)

    def of(self, niche: Niche, young: bool, before: Sequence[float] | None) -> Asked:
        """What is asked of a child: a quantile of the niche's scores at each stage, or any that did not fail.

        A structure that few have tuned (`young`) has the numbers of another, and the quantile is halved for it. A child
        that moves numbers alone must come close to what its parent had there (`before`), on the same seeds, whatever
        others have, where the tasks are those of fitness. At the last stage, where none is dropped, the quantile is of
        scores on the first seed, and tells who is worth more of them.
        """
        *stages, last = range(len(self.config.stages))
        found = [self._quantile(stage, niche, _LENIENT if young else 1.0) for stage in stages]
        if before is not None:
            found = [max(_CLOSE * before[i], OPEN) if self.config.foretells(i) else found[i] for i in stages]
        return Asked(niche, [*found, self._quantile(last, niche, 1.0)], self._ease(niche))

    def _quantile(self, stage: int, niche: Niche, part: float) -> float:
        """Of the niche's recent scores at a stage, at a part of what the stage drops."""
        scores = self.recent[niche][stage] if niche in self.recent else ()
        return hurdle(scores, part * self.config.stages[stage].drop)

    def _ease(self, niche: Niche) -> float:
        """What a score on the first seeds is multiplied by to stand beside those on all: the median ratio, of the
        niche's rows, of those of all niches where they are few, and 1 where these are.

        Some seeds are easier for what differs from AdamW, and what has all seeds was chosen by the first: unscaled,
        what was just cut off would rank before it.
        """
        for ratios in (self.ratios.get(niche, ()), [r for some in self.ratios.values() for r in some]):
            if len(ratios) >= _ENOUGH:
                return float(np.median(np.array(ratios)))
        return 1.0

    def _when_judged(self, stage: int, score: Mapping[str, Any]) -> float:
        """A score as it stood when the hurdle was met: where there are two looks, on the seeds of the first."""
        seeds = self.first_seeds.get(stage)
        if seeds is None or not score["speedups"]:
            return float(score["fitness"])
        return geometric_mean([s for row in score["speedups"] for s in row[:seeds]])
