"""The fold: populations, hurdles and the best so far, from rows in order and nothing else."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ..evaluator.curve import LOWEST
from .config import SearchConfig
from .credit import Credit
from .fittest import Fittest, worth
from .hurdles import Asked, Hurdles
from .island import Island
from .ledger import Child
from .member import Member
from .niche import Niche

REPEAT = "dropped: trains as row"
_FAVOUR = 5  # a niche with half of the best fitness of all has a 32nd of its children
_GOLDEN = (math.sqrt(5) - 1) / 2  # multiples of it, less whole numbers, are spread evenly


class Standing(NamedTuple):
    """What is remembered of every row that came through all stages, and of its aliases."""

    fitness: float
    stages: tuple[float, ...]  # its score at each
    rms: float  # of the update on the probe, at the best learning rate
    niche: Niche
    skeleton: str  # what programs share that differ in numbers alone


class Trained(NamedTuple):
    """A row that trained to certain losses and is smaller than all earlier ones, and the round that it is of."""

    round: int
    child: int
    size: tuple[int, int]  # states, statements


def favour(best: float) -> float:
    """How many children a niche has whose best is so good, to those of another."""
    return best**_FAVOUR


def losses_key(losses: Sequence[Sequence[float]]) -> int:
    """Of finite floats alone, whose hash is the same always."""
    return hash(tuple(map(tuple, losses)))


@dataclass
class Fold:
    """The state of a search after some rounds.

    A child's parent lives on the island that its number says; so does the child, or, where niches have islands, on
    that of its own niche, which it founds if it is the first. Niches whose best is poorer have fewer children.
    `asked_of` gives what a child must reach; `scored` has scores, scale and niche of what came through all stages and
    of its aliases, `fittest` the best rows whole: a search of millions folds into little memory.
    """

    config: SearchConfig
    starts: list[Member]
    islands: list[Island] = field(init=False)
    scored: dict[int, Standing] = field(default_factory=dict)
    homes: dict[Niche, Island] = field(default_factory=dict)
    fittest: Fittest = field(default_factory=Fittest)
    hurdles: Hurdles = field(init=False)
    trained: dict[int, list[Trained]] = field(default_factory=dict)  # by losses, where they tell copies
    credit: Credit = field(default_factory=Credit)
    steps: int = 0
    rounds: int = 0
    counts: Counter[str] = field(default_factory=Counter)  # of rows, by what became of them
    audited: int = 0  # of those that a hurdle dropped
    wrongly_dropped: int = 0  # of the audited
    barren: int = 0  # rounds in a row that gave nothing to train

    def __post_init__(self) -> None:
        self.fittest.parsimony = self.config.parsimony
        self.hurdles = Hurdles(self.config)
        self._tells_copies = set(filter(self.config.tells_copies, range(len(self.config.stages))))
        self.islands = [Island(self.starts, self.config.population) for _ in range(self.config.islands)]

    def island(self, child: int) -> Island:
        """Where the parent of child number `child` lives."""
        best = self.best
        if not self.config.niches:
            return self.islands[child % len(self.islands)]
        if best is None or self.config.strategy == "random":  # which begins with the starts alone
            return self.islands[0]
        shares = np.cumsum([favour(i.best.fitness / best.fitness) if i.best else 1 for i in self.islands])
        return self.islands[int(np.searchsorted(shares, child * _GOLDEN % 1 * shares[-1], side="right"))]

    def donors(self, home: Island) -> list[Member]:
        """What is worth most on every other island."""
        fronts = [island.front for island in self.islands if island is not home and island.front]
        return [max(front, key=lambda member: worth(member, self.config.parsimony)) for front in fronts]

    def _home(self, member: Member) -> Island:
        """Where a scored row will live."""
        assert member.child is not None
        niche = self.scored[member.child].niche
        home = self._island_of(niche, member.child)
        if home is None:
            if self.homes:  # the first has the starts' island
                self.islands.append(Island([member], self.config.population))
            home = self.homes[niche] = self.islands[-1]
        return home

    def _island_of(self, niche: Niche, number: int) -> Island | None:
        """Where rows of a niche live, and else those of that number; None where the niche has no row yet."""
        return self.homes.get(niche) if self.config.niches else self.island(number)

    @property
    def best(self) -> Member | None:
        """The fittest of all islands; None before the first score."""
        found = [island.best for island in self.islands if island.best is not None]
        return max(found, key=lambda member: member.fitness, default=None)

    @property
    def restarts(self) -> int:
        """Of all islands together."""
        return sum(island.restarts for island in self.islands)

    @property
    def children(self) -> int:
        """How many rows there are."""
        return sum(self.counts.values())

    @property
    def judged(self) -> int:
        """Rows that reached an executor."""
        return self.children - self.counts["alias"] - self.counts["rejected"]

    def niche(self, child: Child) -> Niche:
        """Whom a child competes with: all, or its own kind."""
        return child.niche if self.config.niches else Niche(0)

    def asked_of(self, child: Child) -> Asked:
        """What a child must reach at each stage."""
        niche = self.niche(child)
        home = self._island_of(niche, child.child)
        young = home is None or home.structures.is_young(child.skeleton)
        tuned = self.scored.get(child.parent) if child.parent is not None and child.moves_numbers_alone else None
        return self.hurdles.of(niche, young, tuned.stages if tuned else None)

    def add_round(self, children: Sequence[Child]) -> None:
        """Folds a closed round in."""
        for child in children:
            self._add(child)
        self.barren = 0 if any(child.steps for child in children) else self.barren + 1
        for island in self.islands:
            island.restart_if_stuck(self.rounds, self.config.patience)
        self.rounds += 1
        if self.config.islands > 1 and self.rounds % self.config.migrate == 0:
            self._migrate()

    def _add(self, child: Child) -> None:
        self.steps += child.steps
        if child.alias_of is None:
            self._add_scores(child)
        self.counts["alias" if child.alias_of is not None else child.reason.split(":")[0] or "scored"] += 1
        if child.audited and not child.reason.startswith(REPEAT):  # what no hurdle dropped says nothing of hurdles
            self._audit(child)
        if child.parent in self.scored and child.moves_numbers_alone:
            self._tried(self.scored[child.parent], child.child)
        member = self._member(child)
        if member is not None:
            self._home(member).add(member, self.rounds)

    def _add_scores(self, child: Child) -> None:
        """What the scores of a row that was trained mean for hurdles, for aliases to come, and for mutation."""
        niche = self.niche(child)
        if child.scored:
            assert child.fitness is not None and child.rms is not None
            rms = child.rms * child.lr_factor
            stages = tuple(score["fitness"] for score in child.scores)
            self.scored[child.child] = Standing(child.fitness, stages, rms, niche, sys.intern(child.skeleton))
            self.fittest.add(child)
        if child.steps and child.parent is not None:
            before = self.scored[child.parent].fitness if child.parent in self.scored else math.inf
            self.credit.add(child.kinds, (child.fitness or 0.0) > before and not child.reason)
        trials = () if child.reason.startswith("fault") else child.scores  # a fault is no score
        for stage, score in enumerate(trials):
            if score["dropped"] and child.reason.startswith(REPEAT):
                break  # many alike would set the hurdle at what they share
            self.hurdles.add(niche, stage, score)
            if stage in self._tells_copies and score["fitness"] > LOWEST:
                held = self.trained.setdefault(losses_key(score["losses"]), [])
                if not held or child.size < held[-1].size:
                    held.append(Trained(self.rounds, child.child, child.size))
            if score["dropped"]:
                break  # what an audited child did later is no part of the hurdles

    def _tried(self, parent: Standing, number: int) -> None:
        """A try of the parent's structure, whatever came of it: one that gives nothing but aliases must rest too."""
        island = self._island_of(parent.niche, number)
        assert island is not None  # the parent was scored
        island.structures.tried(parent.skeleton)

    def _member(self, child: Child) -> Member | None:
        """The row as a parent; an alias keeps its own text, at the rate that moves weights as its source does."""
        source = child.child if child.alias_of is None else child.alias_of
        if source not in self.scored:
            return None
        of = self.scored[source]
        if child.alias_of is None:
            return Member(child.child, child.final, of.fitness, of.rms, child.statements, skeleton=of.skeleton)
        of = self.scored[child.child] = of._replace(skeleton=sys.intern(child.skeleton))
        factor = of.rms / (child.rms or of.rms)
        return Member(child.child, child.program, of.fitness, of.rms, child.statements, factor, of.skeleton)

    def _audit(self, child: Child) -> None:
        """Wrongly dropped: would have been among the better half of those that live where it would."""
        self.audited += 1
        home = self._island_of(self.niche(child), child.child)
        fitness = sorted(m.fitness for m in home.members if m.child is not None) if home else []
        if child.fitness is not None and fitness and child.fitness > fitness[len(fitness) // 2]:
            self.wrongly_dropped += 1

    def _migrate(self) -> None:
        """The best of every island joins the next one, in a ring."""
        best = [island.best for island in self.islands]
        for member, island in zip(best, [*self.islands[1:], self.islands[0]], strict=True):
            if member is not None and member not in island.members:
                island.add(member, self.rounds)
