"""Structures: programs that differ in numbers alone, and how much has been tried to tune each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from numpy.random import Generator

if TYPE_CHECKING:
    from .population import Member

_TRIES = 12  # children that move its numbers in vain since it was last bettered; then it is left to evolution
_NEAR = 0.7  # of the best of the island: what is poorer is not worth tuning
_DRAWN = 3  # of which the fittest is tuned
_KEPT = 200


@dataclass
class _Structure:
    best: Member
    tries: int = 0


@dataclass
class Structures:
    """The structures of an island, by skeleton.

    A new structure has the numbers of an old one, and the best numbers of that: it is poorer than it could be, and what
    it descends from has been tuned for hundreds of children. So a few children of it move its numbers alone, whatever
    its rank, as speciation protects new topologies in NEAT (Stanley and Miikkulainen 2002).
    """

    known: dict[str, _Structure] = field(default_factory=dict)

    def add(self, member: Member) -> None:
        """A scored row; one that betters its structure begins its tries anew."""
        held = self.known.get(member.skeleton)
        if held is None or member.fitness > held.best.fitness:
            self.known[member.skeleton] = _Structure(member)
        if len(self.known) > _KEPT:
            del self.known[min(self.known, key=lambda name: self.known[name].best.fitness)]

    def tried(self, skeleton: str) -> None:
        """A child moved its numbers."""
        if skeleton in self.known:
            self.known[skeleton].tries += 1

    def draw(self, random: Generator) -> Member | None:
        """The best of a structure that few have tuned, of some drawn the fittest; None where all have been."""
        least = _NEAR * max((s.best.fitness for s in self.known.values()), default=0.0)
        young = [s.best for s in self.known.values() if s.tries < _TRIES and s.best.fitness >= least]
        if not young:
            return None
        return max((young[int(random.integers(len(young)))] for _ in range(_DRAWN)), key=lambda m: m.fitness)
