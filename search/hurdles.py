"""Hurdles: what a child must reach to leave each stage."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..evaluator.curve import LOWEST
from ..evaluator.fitness import geometric_mean
from .config import SearchConfig
from .niche import Niche

_MEMORY = 64  # recent scores a quantile is taken over: a hurdle must rise as fast as what it judges
_ENOUGH = 8  # scores before a hurdle drops by quantile
_CLOSE = 0.97  # to its parent, of which one in three is better at the end; of those below, one in eight
_LENIENT = 0.5  # of the quantile, by which a structure is dropped that few have tuned


@dataclass
class Hurdles:
    """The recent scores of each niche at each stage, and what they ask of a child."""

    config: SearchConfig
    recent: dict[Niche, list[deque[float]]] = field(default_factory=dict)
    first_seeds: dict[int, int] = field(init=False)  # how many the first look has, at stages that have two

    def __post_init__(self) -> None:
        looks = map(self.config.looks, range(len(self.config.stages)))
        self.first_seeds = {stage: len(first.seeds) for stage, (first, *others) in enumerate(looks) if others}

    def add(self, niche: Niche, stage: int, score: Mapping[str, Any]) -> None:
        """A score, as a row has it."""
        if niche not in self.recent:
            self.recent[niche] = [deque(maxlen=_MEMORY) for _ in self.config.stages]
        self.recent[niche][stage].append(self._when_judged(stage, score))

    def of(self, niche: Niche, young: bool, before: Sequence[float] | None) -> list[float]:
        """The score that leaves each stage: a quantile of the niche's, or any that did not fail.

        A structure that few have tuned (`young`) has the numbers of another, and the quantile is halved for it. A child
        that moves numbers alone must come close to what its parent had there (`before`), on the same seeds, whatever
        others have, where the tasks are those of fitness. At the last stage, where none is dropped, the quantile is of
        scores on the first seed, and tells who is worth more of them.
        """
        *stages, last = range(len(self.config.stages))
        found = [self._quantile(stage, niche, _LENIENT if young else 1.0) for stage in stages]
        if before is not None:
            found = [_CLOSE * before[i] if self.config.foretells(i) else found[i] for i in stages]
        return [max(score, float(np.nextafter(LOWEST, 1))) for score in [*found, self._quantile(last, niche, 1.0)]]

    def _quantile(self, stage: int, niche: Niche, part: float) -> float:
        """Of the niche's recent scores at a stage, at a part of what the stage drops; `LOWEST` where they are few."""
        scores = self.recent[niche][stage] if niche in self.recent else ()
        drop = self.config.stages[stage].drop
        return float(np.quantile(np.array(scores), part * drop)) if drop and len(scores) >= _ENOUGH else LOWEST

    def _when_judged(self, stage: int, score: Mapping[str, Any]) -> float:
        """A score as it stood when the hurdle was met: where there are two looks, on the seeds of the first."""
        seeds = self.first_seeds.get(stage)
        if seeds is None or not score["speedups"]:
            return float(score["fitness"])
        return geometric_mean([s for row in score["speedups"] for s in row[:seeds]])
