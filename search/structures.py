"""Structures: programs that differ in numbers alone, and how much has been tried to tune each."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count

from numpy.random import Generator

from .fittest import worth
from .member import Member

_YOUNG = 16  # children that have moved its numbers; then it is left to evolution
_NEAR = 0.7  # of the best of the island: what is poorer is not worth tuning
_FAR = 0.4  # of it: what is poorer is no better with the numbers of others; a Lion with a start's had half of Signum's
_DRAWN = 5  # of which the most promising is tuned
_HOPE = 0.3  # how much better than its best what was never tuned may be; of what n children have tuned a root of n less
_KEPT = 200


@dataclass
class Structures:
    """The structures of an island, by skeleton.

    A new structure has the numbers of an old one, and the best numbers of that: it is poorer than it could be, and what
    it descends from has been tuned for hundreds of children. So some children of it move its numbers alone, whatever
    its rank, as speciation protects new topologies in NEAT (Stanley and Miikkulainen 2002). A bound on their number
    that began anew with every better one would be spent on what is tuned already, where better is luck.
    """

    known: dict[str, Member] = field(default_factory=dict)  # the fittest of each
    tries: Counter[str] = field(default_factory=Counter)  # once and for all, also of those that are known no more
    _since: dict[str, int] = field(default_factory=dict, compare=False)  # known skeletons in the order that they came
    _poorest: list[tuple[float, int, str]] = field(default_factory=list, compare=False)  # heap of fitness, since, name
    _clock: count[int] = field(default_factory=count, compare=False)

    def add(self, member: Member) -> None:
        """A scored row."""
        name = member.skeleton
        if name in self.known and member.fitness <= self.known[name].fitness:
            return
        self.known[name] = member
        since = self._since.setdefault(name, next(self._clock))
        heappush(self._poorest, (member.fitness, since, name))
        if len(self.known) > _KEPT:
            self._drop_poorest()

    def _drop_poorest(self) -> None:
        """Of equals the first that came."""
        while True:
            fitness, _, name = heappop(self._poorest)
            if self.known[name].fitness == fitness:  # else it has become better, and stands in the heap again
                del self.known[name], self._since[name]
                return

    def tried(self, skeleton: str) -> None:
        """A child moved its numbers."""
        self.tries[skeleton] += 1

    def is_young(self, skeleton: str) -> bool:
        """Whether few have tuned it, or it was never scored."""
        return self.tries[skeleton] < _YOUNG

    def untried(self, random: Generator) -> Member | None:
        """Of the structures that none has tuned one, each as likely; None where there is none."""
        fresh = [best for best in self._near(_FAR) if not self.tries[best.skeleton]]
        return fresh[int(random.integers(len(fresh)))] if fresh else None

    def draw(self, random: Generator, parsimony: float = 0.0) -> Member | None:
        """The best of a young structure, of some drawn the most promising; None where all are old."""
        young = [best for best in self._near(_NEAR) if self.is_young(best.skeleton)]
        if not young:
            return None
        drawn = (young[int(random.integers(len(young)))] for _ in range(_DRAWN))
        return max(drawn, key=lambda best: self._promise(best, parsimony))

    def _near(self, share: float) -> list[Member]:
        """Of each structure the best, where that has a share of the best of all."""
        least = share * max((best.fitness for best in self.known.values()), default=0.0)
        return [best for best in self.known.values() if best.fitness >= least]

    def _promise(self, best: Member, parsimony: float) -> float:
        """What a structure may yet be worth: less is hoped of what has had more tries, as of the arms of a bandit."""
        return worth(best, parsimony) * (1 + _HOPE / math.sqrt(1 + self.tries[best.skeleton]))
