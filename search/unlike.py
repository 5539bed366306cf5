"""Which rows show a rule of their own: not the tuning of a better one, nor that with ornaments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from ..dsl import Program
from ..dsl.likeness import Action, action, likeness
from ..dsl.simplify import simplify
from .fittest import skeleton
from .ledger import Child
from .niche import Niche

_ALIKE = 0.98  # the likeness above which two rules are one with ornaments


def unlike(ranked: Iterable[Child], most: int = 1, simplified: bool = True) -> Iterator[Child]:
    """Rows, but those for which `most` of them that rank before stand; the first of each niche in any case.

    Simplified they show more that differ in numbers alone, at a third of a second each.
    """
    seen = Seen(most, simplified)
    return (child for child in ranked if seen.shows(child))


class Seen:
    """The rules that were shown."""

    def __init__(self, most: int = 1, simplified: bool = True) -> None:
        self._most, self._simplified = most, simplified
        self._rules: list[_Rule] = []
        self._niches: set[Niche] = set()

    def shows(self, child: Child) -> bool:
        """Enters a row, unless it is the tuning or the ornaments of others."""
        rule = _Rule.of(child, self._simplified)
        standing = islice((other for other in self._rules if other.stands_for(rule)), self._most)
        if child.niche in self._niches and len(list(standing)) == self._most:
            return False
        self._rules.append(rule)
        self._niches.add(child.niche)
        return True


@dataclass(frozen=True)
class _Rule:
    """What tells whether a row shows something that another has not."""

    states: int
    statements: int
    skeleton: str
    action: Action

    @staticmethod
    def of(child: Child, simplified: bool) -> _Rule:
        program = Program.parse(child.final)
        program = simplify(program) if simplified else program
        return _Rule(child.state, len(program.statements), skeleton(program), action(program))

    def stands_for(self, other: _Rule) -> bool:
        """Whether the other differs in numbers alone, or acts alike, keeps no less and is no shorter."""
        if self.states == other.states and self.skeleton == other.skeleton:
            return True
        costs_more = self.states > other.states or self.statements > other.statements
        return not costs_more and likeness(self.action, other.action) > _ALIKE
