"""How much of what a search wrote was known before or not needed, beside what the search that found Lion measured."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ..dsl import Program
from ..dsl.simplify import simplify
from .ledger import Child

SEEN_BEFORE, REDUNDANT = 0.891, 0.698  # Chen et al. 2023, arXiv:2302.06675, section 2.1 and appendix
_SIMPLIFIED = 100  # children, evenly spaced


class Shares(NamedTuple):
    """Shares of a run: children seen before of those that could train, and redundant of the statements written."""

    children: int
    seen_before: float
    statements: int
    redundant: float

    def __str__(self) -> str:
        """Both shares, and what was measured for Lion's search."""
        return (
            f"seen before: {self.seen_before:.1%} of {self.children:,} trainable children "
            f"(Lion's search: {SEEN_BEFORE:.1%}); redundant: {self.redundant:.1%} of {self.statements:,} statements "
            f"({REDUNDANT:.1%})"
        )


def shares(rows: Iterable[Child], simplified: int = _SIMPLIFIED) -> Shares | None:
    """Shares of the rows of a ledger; None where no child could train.

    A child seen before is an alias of an earlier row. Statements are redundant that the exact and the algebraic level
    do without, in `simplified` children.
    """
    texts: list[str] = []  # of every `apart`-th child, whatever their number
    apart, children, seen = 1, 0, 0
    for row in rows:
        if not row.identity or row.is_start:
            continue
        if children % apart == 0:
            texts.append(row.program)
        children, seen = children + 1, seen + (row.alias_of is not None)
        if len(texts) >= 4 * simplified:
            texts, apart = texts[::2], 2 * apart
    if not children:
        return None
    some = [Program.parse(text) for text in texts[:: max(1, len(texts) // simplified)]]
    written = sum(len(p.statements) for p in some)
    needed = sum(len(simplify(p).statements) for p in some)
    return Shares(children, seen / children, written, 1 - needed / max(1, written))
