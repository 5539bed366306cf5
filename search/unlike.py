"""Which rows show a rule of their own: not the tuning of a better one, nor that with ornaments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

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
    found: list[_Rule] = []
    niches: set[Niche] = set()
    for child in ranked:
        rule = _Rule.of(child, simplified)
        if child.niche not in niches or sum(other.stands_for(rule) for other in found) < most:
            found.append(rule)
            niches.add(child.niche)
            yield child


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
