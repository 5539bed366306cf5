"""The fittest rows so far, a bounded number for each niche, few of them alike but for their numbers."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from ..dsl import Program
from ..dsl.keys import skeleton_key
from ..dsl.simplify.exact import numbers_folded
from .ledger import Child
from .niche import Niche

_KEPT = 100  # of each niche; what is shown at the end is chosen among far fewer
_ALIKE = 3  # of each skeleton: the fittest of many alike is so by luck, and others of them may be better


class _Sized(Protocol):
    @property
    def statements(self) -> int: ...


Row = TypeVar("Row", bound=_Sized)


class _Scored(_Sized, Protocol):
    @property
    def fitness(self) -> float | None: ...


def worth(row: _Scored, parsimony: float) -> float:
    """Fitness less a share for every statement, by which parents and what is shown are chosen."""
    return (row.fitness or 0.0) / (1 + parsimony * row.statements)


def skeleton(program: Program) -> str:
    """What programs share that differ in numbers alone, numbers folded: m times beta squared is m times a number."""
    return skeleton_key(numbers_folded(program))


def front(ranked: Iterable[Row]) -> list[Row]:
    """Of rows, best first, those that are shorter than all better ones."""
    found: list[Row] = []
    for row in ranked:
        if not found or row.statements < found[-1].statements:
            found.append(row)
    return found


@dataclass
class Fittest:
    """Scored rows by their niche, the first worth most.

    Of programs that differ in nothing but numbers, which is most of what a long search scores, the three that are worth
    most are kept. Of those that differ in more, what is shorter than all that is worth more stays, however many longer
    programs are.
    """

    parsimony: float = 0.0
    by_niche: dict[Niche, list[Child]] = field(default_factory=dict)
    _shortest: dict[Niche, int] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )  # live statements of the shortest that is kept

    def add(self, child: Child) -> None:
        """Enters a scored row, if it is among the fittest of its niche and of its skeleton."""
        kept = self.by_niche.setdefault(child.niche, [])
        is_last = len(kept) == _KEPT and self.rank(child) > self.rank(kept[-1])
        if is_last and child.statements >= self._shortest[child.niche]:
            return  # most of a long search: what follows looks at every one that is kept
        self._enter(child, kept)
        self._shortest[child.niche] = min(c.statements for c in kept)

    def _enter(self, child: Child, kept: list[Child]) -> None:
        alike = [c for c in kept if c.skeleton == child.skeleton]
        if len(alike) == _ALIKE and self.rank(child) > self.rank(alike[-1]):
            return
        insort(kept, child, key=self.rank)
        if len(alike) == _ALIKE:
            self._drop(kept, alike[-1])
        if len(kept) > _KEPT:
            short = {c.child for c in front(kept)}
            self._drop(kept, next(c for c in reversed(kept) if c.child not in short))

    def _drop(self, kept: list[Child], child: Child) -> None:
        del kept[bisect_left(kept, self.rank(child), key=self.rank)]  # ranks differ, and comparing rows is slow

    def rank(self, child: Child) -> tuple[float, int, int]:
        """Of what is worth the same the shorter, then the earlier."""
        return -worth(child, self.parsimony), child.statements, child.child

    def __iter__(self) -> Iterator[Child]:
        """All that are kept, the first worth most."""
        return iter(sorted((c for kept in self.by_niche.values() for c in kept), key=self.rank))

    def best_of_niches(self) -> list[Child]:
        """The fittest of each niche, fewest states first."""
        return [self.by_niche[niche][0] for niche in sorted(self.by_niche)]
