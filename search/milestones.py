"""The rows of a run that were the fittest so far when they came: what a search believed it had gained, over time."""

from __future__ import annotations

from collections.abc import Iterable

from .ledger import Child


def milestones(children: Iterable[Child], count: int) -> list[Child]:
    """At most `count` rows that raised the best fitness, the first and the last among them, evenly over the rises.

    >>> milestones([], 4)
    []
    """
    best, rises = 0.0, []
    for child in children:
        if child.fitness is not None and not child.reason and child.fitness > best:
            best = child.fitness
            rises.append(child)
    if len(rises) <= count or count < 2:
        return rises[-count:] if count < 2 else rises
    places = {round(i * (len(rises) - 1) / (count - 1)) for i in range(count)}
    return [rises[i] for i in sorted(places)]
