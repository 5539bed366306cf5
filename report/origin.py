"""Where a program came from, for those that a search found."""

from __future__ import annotations

from ..search.find import Find, Scored, find_of


def origin(name: str) -> list[str]:
    """Lines on where a program came from, if it is a find; none for others."""
    find = find_of(name)
    return [] if find is None else ["origin", *(f"  {line}" for line in lines(find))]


def lines(find: Find) -> list[str]:
    """Run and row, lineage, what simplified it, and its scores."""
    return [
        f"found by   seed {find.seed}, row {find.child}, after {find.steps:,} training steps"
        + (f", at {find.commit[:12]}" if find.commit else ""),
        f"lineage    {' -> '.join(str(a.child) for a in find.lineage)}, from {', '.join(find.config['start'])}",
        f"simplified {', '.join(dict.fromkeys(find.rules)) or 'nothing'}",
        *(f"family     {family}" for family in find.families),
        f"fitness    {find.fitness:.3f} in the search, on its own seeds",
        *(f"score      {s.interval} on {s.task}, {len(s.seeds)} unseen seeds{_moved(s)}" for s in find.scores),
    ]


def _moved(score: Scored) -> str:
    return "" if score.factor == 1 else f", at {score.factor:g} of its learning rate"
