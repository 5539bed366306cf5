"""How a search went, small enough to keep: the best fitness and what children came to, over training steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .credit import Credit
from .ledger import Child

_POINTS = 40


@dataclass(frozen=True)
class Look:
    """A search after some training steps; counts are of all children so far.

    Attributes:
        steps: Training steps.
        best: The best fitness so far; None before the first score.
        children: Written.
        seen_before: Aliases of earlier rows among them, which cost nothing.
        rejected: Those that cannot or, as they prefer a direction, may not be trained.
        dropped: Those that a hurdle ended, or that trained as an earlier row did.
    """

    steps: int
    best: float | None
    children: int
    seen_before: int
    rejected: int
    dropped: int


@dataclass(frozen=True)
class Course:
    """Looks at even distances in steps, and of each kind of edit the children that were trained and that won.

    A child of several edits counts for each in part; it won where it is fitter than its parent.
    """

    looks: list[Look]
    edits: dict[str, tuple[float, float]] = field(default_factory=dict)


def course(rows: Sequence[Child], credit: Credit, points: int = _POINTS) -> Course:
    """The course of a run: of its rows, and of the credit that its fold gave to edits.

    >>> rows = [Child(0, 0, None, "start", "", fitness=0.5, steps=100),
    ...         Child(1, 1, 0, "wire", "", reason="rejected: never reads g"),
    ...         Child(2, 1, 0, "wire", "", fitness=0.7, steps=100)]
    >>> credit = Credit()
    >>> credit.add(["wire"], True)
    >>> found = course(rows, credit, points=2)
    >>> [(look.steps, look.best, look.children, look.rejected) for look in found.looks]
    [(100, 0.5, 1, 0), (200, 0.7, 3, 1)]
    >>> found.edits
    {'wire': (1.0, 1.0)}
    """
    total = sum(row.steps for row in rows)
    marks = [total * (i + 1) / points for i in range(points)]
    looks: list[Look] = []
    steps = seen = rejected = dropped = 0
    best: float | None = None
    for number, row in enumerate(rows, 1):
        steps += row.steps
        seen += row.alias_of is not None
        rejected += row.reason.startswith("rejected")
        dropped += row.reason.startswith("dropped")
        if row.scored and row.fitness is not None:
            best = row.fitness if best is None else max(best, row.fitness)
        while len(looks) < points and steps and steps >= marks[len(looks)] - 0.5:
            looks.append(Look(steps, best, number, seen, rejected, dropped))
    edits = {name: (round(tries, 3), round(credit.wins[name], 3)) for name, tries in sorted(credit.tries.items())}
    return Course(looks, edits)
