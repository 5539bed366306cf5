"""Strategies: who becomes a parent. All run in the same loop, on the same mutations, stages and budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from numpy.random import Generator

from .fittest import worth
from .member import Member
from .mutate import Mutator

if TYPE_CHECKING:
    from .config import SearchConfig
    from .island import Island


_CHAIN = 6  # mean length of a random chain
_NUMBERS = 2  # mean number of constants that tuning moves at once
_TAKEN = 0.5  # share of tuning that gives to a structure that was never tuned the hyperparameters of one that was


def _moved(random: Generator) -> int:
    """How many constants a child that tunes moves."""
    return int(random.geometric(1 / _NUMBERS))


class Plan(NamedTuple):
    """How a child is made: of which parent, by which edits, and how many; by the update of a donor, if it fits; or by
    the hyperparameters of a model.
    """

    parent: Member
    mutator: Mutator
    edits: int
    donor: Member | None = None
    model: Member | None = None


class Evolution:
    """Regularized evolution (Real et al. 2019, arXiv:1802.01548): tournament among the recent, the oldest dies."""

    tunes = True  # a share of children move the numbers of new structures, and a share are mixed

    def __init__(self, config: SearchConfig) -> None:
        self.mutator, self.numbers = Mutator(config.space), Mutator(config.space, constants_only=True)
        self.tournament, self.edits = config.tournament, config.edits
        self.front, self.tune, self.mix, self.parsimony = config.front, config.tune, config.mix, config.parsimony

    def plan(self, island: Island, donors: Sequence[Member], random: Generator) -> Plan:
        """Of a share of children the parent is a structure that few have tuned, and they move its numbers alone, or
        take those of what has been; of another the update of one of the `donors`, the best of other islands, is added
        to the parent's.
        """
        if self.tunes and random.random() < self.tune and (tuning := self._tuning(island, random)) is not None:
            return tuning
        if self.tunes and donors and random.random() < self.mix:
            return Plan(self.parent(island, random), self.mutator, 1, donors[int(random.integers(len(donors)))])
        return Plan(self.parent(island, random), self.mutator, self.length(random))

    def _tuning(self, island: Island, random: Generator) -> Plan | None:
        """Of a structure that few have tuned; None where there is none.

        One that none has tuned has the numbers that its parent had, which may have been poor, and what is tuned has
        better ones under the same names.
        """
        untried = island.structures.untried(random) if random.random() < _TAKEN else None
        if untried is not None:
            model = self.parent(island, random)
            if model.child is not None and model.hypers != untried.hypers:
                return Plan(untried, self.numbers, 0, model=model)
        young = island.structures.draw(random, self.parsimony)
        return None if young is None else Plan(young, self.numbers, _moved(random))

    def parent(self, island: Island, random: Generator) -> Member:
        """Of `tournament` members drawn with replacement that which is worth most; of a share of children one of the
        front.

        Hall-of-fame migration in PySR (Cranmer 2023, arXiv:2305.01582): what is short has more children that mean
        something, and longer programs that are a little fitter crowd it out.
        """
        if island.front and random.random() < self.front:
            return island.front[int(random.integers(len(island.front)))]
        drawn = [island.members[int(random.integers(len(island.members)))] for _ in range(self.tournament)]
        return max(drawn, key=lambda member: worth(member, self.parsimony))

    def length(self, random: Generator) -> int:
        """Number of edits: 1 and a geometric tail with the configured mean."""
        return int(random.geometric(1 / self.edits))


class Constants(Evolution):
    """Evolution that changes numbers alone: tuning of the start programs."""

    tunes = False

    def __init__(self, config: SearchConfig) -> None:
        super().__init__(config)
        self.mutator, self.front = self.numbers, 0.0  # all are as long

    def length(self, random: Generator) -> int:
        """A geometric number of edits."""
        return _moved(random)


class RandomChains(Evolution):
    """Chains of the same mutations from the start programs, no selection."""

    tunes = False

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
