"""The fittest rows so far, a bounded number for each number of states."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass, field

from .ledger import Child

_KEPT = 100  # of each number of states; what is shown at the end is chosen among far fewer


def _rank(child: Child) -> tuple[float, int]:
    """Fittest first; of equals the earlier."""
    assert child.fitness is not None
    return -child.fitness, child.child


@dataclass
class Fittest:
    """Scored rows by their number of states, fittest first."""

    by_states: dict[int, list[Child]] = field(default_factory=dict)

    def add(self, child: Child) -> None:
        """Enters a scored row, if it is among the fittest of its number of states."""
        kept = self.by_states.setdefault(child.state, [])
        if len(kept) < _KEPT or _rank(child) < _rank(kept[-1]):
            insort(kept, child, key=_rank)
            del kept[_KEPT:]

    def __iter__(self) -> Iterator[Child]:
        """All that are kept, fittest first."""
        return iter(sorted((c for kept in self.by_states.values() for c in kept), key=_rank))

    def best_by_states(self) -> list[Child]:
        """The fittest of each number of states, fewest states first."""
        return [self.by_states[states][0] for states in sorted(self.by_states)]
