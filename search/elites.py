"""Elites: the best of a run, re-scored from their printed text on seeds the search never used.

Seeds that pick are never the seeds that are shown. Intervals are corrected for the number of programs shown. Passes run
in float32 whatever the search trained in.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..dsl import Program
from ..dsl.cost import Cost, cost
from ..evaluator.dispatcher import Dispatcher
from ..evaluator.fitness import TUNED, Score, Trial
from ..evaluator.race import LOOKS, race
from ..evaluator.statistics import Interval, geometric_interval
from ..evaluator.trials import scores
from .fittest import front
from .ledger import Child
from .niche import Niche
from .population import Fold, favour
from .unlike import Seen, unlike

PICKING, SHOWN = LOOKS[-1], 24  # seeds
_HELD_OUT_FACTORS = (0.5, 1.0, 2.0)  # the learning rate may move once on a task of another size; picked, then frozen
_PER_NICHE = 2
_STATES = 2  # at most, of a niche whose best is shown whatever its rank
_CANDIDATES = 32  # of which those that are shown are chosen, and at least as many as those
_MANY_LOOKS = 90  # from which on the first numbering would come upon seeds of others
_TUNINGS = 3  # of rules that are one: the fittest of many alike is so by luck


@dataclass(frozen=True)
class Elite:
    """A program that is shown: where it came from, what it costs, and how it did on fresh seeds."""

    child: int
    program: str
    fitness: float  # what the search saw
    cost: Cost
    seen: Interval  # tasks of the search, fresh seeds
    held_out: dict[str, Interval]  # tasks the search never trained on

    @property
    def beats_adamw(self) -> bool:
        """Whether every interval lies above tuned AdamW."""
        return all(i.low > 1 for i in (self.seen, *self.held_out.values()))


def rescore(
    fold: Fold,
    dispatcher: Dispatcher,
    count: int = 5,
    look: int = 1,
    before: int = 0,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Elite]:
    """The elites of a run: first what the picking seeds choose, then by what they show.

    `look` counts re-scorings of this run from 1, `before` the programs of the earlier ones: each has seeds of its own,
    and the intervals are corrected for the programs of all of them, so that resuming until something looks good proves
    nothing.
    """
    tasks, decay = fold.config.stages[-1].tasks, fold.config.decay
    pick, show = fresh_seeds(look)
    candidates = _candidates(fold, count)
    if not candidates:
        return []
    tell(f"racing {len(candidates)} candidates on {LOOKS[0]} to {LOOKS[-1]} fresh seeds")
    states = [c.state for c in candidates]
    picking = Trial(tasks, seeds=pick, decay=decay)
    order = race(dispatcher, [Program.parse(c.final) for c in candidates], picking, count, states, tell=tell)
    apart = list(unlike(candidates[i] for i in order))
    chosen = _with_niches(apart, count)
    programs = [Program.parse(c.final) for c in chosen]
    tell(f"showing {len(chosen)} on {len(show)} more seeds of {' and '.join(tasks)}")
    shown = on_fresh_seeds(fold, dispatcher, chosen, look, before, tell)
    held_out = {}
    for name in fold.config.held_out:
        tell(f"and of {name}, held out, at the best of {len(_HELD_OUT_FACTORS)} learning rates")
        held_out[name] = held_out_scores(dispatcher, programs, name, look, decay, tell)
    looked_at = before + len(chosen)
    elites = []
    for index, (child, seen) in enumerate(zip(chosen, shown, strict=True)):
        others = {name: _interval(found[index], looked_at) for name, found in held_out.items()}
        costs = cost(programs[index])
        assert child.fitness is not None
        elites.append(Elite(child.child, child.final, child.fitness, costs, seen, others))
    return elites[:1] + sorted(elites[1:], key=lambda elite: -elite.seen.mean)


def hall_of_fame(fold: Fold, count: int) -> list[Child]:
    """The fittest rows that differ in structure and act unlike, as the search ranks them; nothing is trained.

    Of each niche there is one, then as many as the share of the children that its best earns it (Adams' method): rules
    that evolution keeps apart do not crowd each other out here.
    """
    ranked: dict[Niche, list[Child]] = {}
    for row in fold.fittest:
        ranked.setdefault(fold.niche(row), []).append(row)
    shares = {niche: favour(max(row.fitness or 0.0 for row in rows)) for niche, rows in ranked.items()}
    left = {niche: iter(rows) for niche, rows in ranked.items()}
    seen, seats = Seen(), Counter[Niche]()
    found: list[Child] = []
    while left and len(found) < count:
        niche = max(left, key=lambda n: (shares[n] / seats[n] if seats[n] else math.inf, shares[n]))
        shown = next(filter(seen.shows, left[niche]), None)
        if shown is None:
            del left[niche]
            continue
        found.append(shown)
        seats[niche] += 1
    return sorted(found, key=fold.fittest.rank)


def on_fresh_seeds(
    fold: Fold,
    dispatcher: Dispatcher,
    rows: Sequence[Child],
    look: int = 1,
    before: int = 0,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Interval]:
    """Speedups of rows on the tasks of the search and the seeds that are shown, corrected as those of `rescore`."""
    trial = Trial(fold.config.stages[-1].tasks, seeds=fresh_seeds(look)[1], decay=fold.config.decay)
    found = scores(dispatcher, [Program.parse(row.final) for row in rows], trial, tell)
    return [_interval(score, before + len(rows)) for score in found]


def fresh_seeds(look: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The seeds that pick and those that are shown in a run's re-scoring number `look`; none is another's, nor a
    shortening's (evaluator/shorten.py).
    """
    pick, show = 500_000 + 1_000 * look, 600_000 + 1_000 * look
    if look >= _MANY_LOOKS:
        pick, show = (2_000_000 + 2_000 * look + first for first in (0, 1_000))
    return tuple(range(pick, pick + PICKING)), tuple(range(show, show + SHOWN))


def best_on_fresh_seeds(fold: Fold, dispatcher: Dispatcher, count: int = 8) -> Score | None:
    """The program that picking seeds choose among the fittest, with its score on the seeds that are shown."""
    programs = [Program.parse(c.final) for c in list(fold.fittest)[:count]]
    if not programs:
        return None
    pick, show = fresh_seeds(1)
    picking = Trial(fold.config.stages[-1].tasks, seeds=pick, decay=fold.config.decay)
    best, *_ = race(dispatcher, programs, picking, 1, [""] * len(programs))
    return scores(dispatcher, [programs[best]], replace(picking, seeds=show))[0]


def pareto(elites: Sequence[Elite]) -> list[Elite]:
    """Those that no other beats in fitness on fresh seeds, state, operations and statements at once."""

    def dominated(e: Elite) -> bool:
        return any(_dominates(other, e) for other in elites)

    return [e for e in elites if not dominated(e)]


def _dominates(a: Elite, b: Elite) -> bool:
    better = (a.seen.mean, -a.cost.state, -a.cost.operations, -a.cost.statements)
    worse = (b.seen.mean, -b.cost.state, -b.cost.operations, -b.cost.statements)
    return a is not b and all(x >= y for x, y in zip(better, worse, strict=True)) and better != worse


def _candidates(fold: Fold, shown: int = 0) -> list[Child]:
    """The fittest rows, few of them alike, and the fittest of each niche; of those that trained to the very same losses
    one.
    """
    apart: dict[tuple[int, float | None], Child] = {}
    for child in fold.fittest:  # of equals the shorter comes first, then the earlier
        apart.setdefault((child.state, child.fitness), child)
    ranked = list(unlike(apart.values(), _TUNINGS, simplified=False))
    return _with_niches(ranked, max(shown, _CANDIDATES), _PER_NICHE)


def _with_niches(ranked: Sequence[Child], count: int, each: int = 1) -> list[Child]:
    """`count` in rank order: `each` of every niche of up to two states, the niche of the best first, in at most half of
    the places; then of those niches what is shorter than all that is better, then the next best.
    """
    by_niche: dict[Niche, list[Child]] = {}
    for child in ranked:
        by_niche.setdefault(child.niche, []).append(child)
    shown = [rows for niche, rows in by_niche.items() if niche.states <= _STATES]  # as their best rank
    firsts = [c for rows in shown for c in rows[:each]][: (count + 1) // 2]
    short = {c.child for rows in shown for c in front(rows)}
    order = dict.fromkeys(c.child for c in [*ranked[:1], *firsts, *(c for c in ranked if c.child in short), *ranked])
    chosen = list(order)[:count]
    return [c for c in ranked if c.child in chosen]


def held_out_scores(
    dispatcher: Dispatcher,
    programs: list[Program],
    name: str,
    look: int,
    decay: str = TUNED,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Score]:
    """Scores on a held-out task, each at the learning-rate factor that picking seeds prefer."""
    pick, show = fresh_seeds(look)
    moving = Trial((name,), seeds=pick[:2], lr_factors=_HELD_OUT_FACTORS, decay=decay)
    moved = scores(dispatcher, programs, moving)
    return scores(dispatcher, [s.program for s in moved], Trial((name,), seeds=show, decay=decay), tell)


def _interval(score: Score, looked_at: int) -> Interval:
    """Over seeds, of the geometric mean over tasks."""
    return geometric_interval(score.means(), looked_at)
