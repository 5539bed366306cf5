"""Strategies: who becomes a parent. All run in the same loop, on the same mutations, stages and budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from numpy.random import Generator

from .mutate import Mutator

if TYPE_CHECKING:
    from .config import SearchConfig
    from .island import Island
    from .population import Member

_CHAIN = 6  # mean length of a random chain
_NUMBERS = 2  # mean number of constants that tuning moves at once


class Evolution:
    """Regularized evolution (Real et al. 2019, arXiv:1802.01548): tournament among the recent, the oldest dies."""

    def __init__(self, config: SearchConfig) -> None:
        self.mutator = Mutator(config.space)
        self.tournament, self.edits, self.front = config.tournament, config.edits, config.front

    def parent(self, island: Island, random: Generator) -> Member:
        """The fittest of `tournament` members drawn with replacement; of a share of children one of the front.

        Hall-of-fame migration in PySR (Cranmer 2023, arXiv:2305.01582): what is short has more children that mean
        something, and longer programs that are a little fitter crowd it out.
        """
        if island.front and random.random() < self.front:
            return island.front[int(random.integers(len(island.front)))]
        drawn = [island.members[int(random.integers(len(island.members)))] for _ in range(self.tournament)]
        return max(drawn, key=lambda member: member.fitness)

    def length(self, random: Generator) -> int:
        """Number of edits: 1 and a geometric tail with the configured mean."""
        return int(random.geometric(1 / self.edits))


class Constants(Evolution):
    """Evolution that changes numbers alone: tuning of the start programs."""

    def __init__(self, config: SearchConfig) -> None:
        super().__init__(config)
        self.mutator = Mutator(config.space, constants_only=True)

    def length(self, random: Generator) -> int:
        """A geometric number of edits."""
        return int(random.geometric(1 / _NUMBERS))


class RandomChains(Evolution):
    """Chains of the same mutations from the start programs, no selection."""

    def parent(self, island: Island, random: Generator) -> Member:
        """A start program."""
        return island.starts[int(random.integers(len(island.starts)))]

    def length(self, random: Generator) -> int:
        """A geometric number of edits."""
        return int(random.geometric(1 / _CHAIN))


STRATEGIES: dict[str, type[Evolution]] = {
    "evolution": Evolution,
    "constants": Constants,
    "random": RandomChains,
}
