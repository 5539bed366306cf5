"""Which kinds of edit paid off: children that beat their parents, among those that were trained."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_PRIOR = 20.0  # wins that every kind is taken to have had, at the mean rate: how slowly weights move
_MOST = 3.0  # a weight moves by at most this factor, so that no kind dies out


@dataclass
class Credit:
    """Tries and wins by kind of edit; a child of several edits counts for each in part."""

    tries: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    wins: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, edits: Sequence[str], won: bool) -> None:
        """A child that was trained."""
        for edit in edits:
            self.tries[edit] += 1 / len(edits)
            self.wins[edit] += won / len(edits)

    def weights(self, before: Mapping[str, float]) -> dict[str, float]:
        """Weights times how often each kind won, relative to all kinds together.

        >>> credit = Credit()
        >>> for number in range(400):
        ...     credit.add(["wire"], number % 4 == 0)
        ...     credit.add(["insert"], number % 40 == 0)
        >>> {name: round(weight, 2) for name, weight in credit.weights({"wire": 1.0, "insert": 1.0}).items()}
        {'wire': 1.6, 'insert': 0.4}
        """
        rate = sum(self.wins.values()) / max(sum(self.tries.values()), 1.0)
        if rate == 0:
            return dict(before)
        wins, tries = self.wins.get, self.tries.get  # which leave no key behind
        moved = {name: (wins(name, 0.0) + _PRIOR) / (tries(name, 0.0) * rate + _PRIOR) for name in before}
        return {name: weight * min(max(moved[name], 1 / _MOST), _MOST) for name, weight in before.items()}
