"""The fold: population, hurdles and the best so far, from rows in order and nothing else."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ..dsl import Program
from ..evaluator.curve import LOWEST
from .config import SearchConfig
from .ledger import Child

_MEMORY = 400  # recent scores a hurdle's quantile is taken over
_ENOUGH = 20  # scores before a hurdle drops by quantile


@dataclass(frozen=True)
class Member:
    """A program that may become a parent: its row, its text, a factor on its peak lr, how good it is, and the
    RMS of its update on the probe. Parsed only when it is read.
    """

    child: int | None
    text: str
    fitness: float
    rms: float
    factor: float = 1.0

    @cached_property
    def program(self) -> Program:
        """The program at its best learning rate."""
        program = Program.parse(self.text)
        return program if self.factor == 1 else program.with_lr(program.peak * self.factor)


@dataclass
class Fold:
    """The state of a search after some rounds.

    `members` is the population, oldest first; a member that is older than the last `population` dies.
    `threshold` gives each stage's hurdle; `by_child` finds scored rows, so that an alias inherits its score.
    """

    config: SearchConfig
    starts: list[Member]
    members: deque[Member] = field(default_factory=deque)
    by_child: dict[int, Child] = field(default_factory=dict)
    raised: dict[int, float] = field(default_factory=dict)  # factor on the peak lr found in training
    recent: list[deque[float]] = field(default_factory=list)
    best: Member | None = None
    best_round: int = 0
    restarts: int = 0
    steps: int = 0
    rounds: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    wrongly_dropped: int = 0
    barren: int = 0  # rounds in a row that gave nothing to train

    def __post_init__(self) -> None:
        self.members = deque(self.starts, maxlen=self.config.population)
        self.recent = [deque(maxlen=_MEMORY) for _ in self.config.stages]

    def threshold(self, stage: int) -> float:
        """The score a child must reach to leave the stage: a quantile of recent ones, or any that did not fail."""
        scores = self.recent[stage]
        drop = self.config.stages[stage].drop
        if len(scores) < _ENOUGH or not drop:
            return float(np.nextafter(LOWEST, 1))
        return max(float(np.quantile(np.array(scores), drop)), float(np.nextafter(LOWEST, 1)))

    def add_round(self, children: Sequence[Child]) -> None:
        """Folds a closed round in."""
        for child in children:
            self._add(child)
        self.barren = 0 if any(child.steps for child in children) else self.barren + 1
        if children and children[-1].round - self.best_round >= self.config.patience:
            self._restart(children[-1].round)
        self.rounds += 1

    def _add(self, child: Child) -> None:
        self.steps += child.steps
        source = child if child.alias_of is None else self.by_child[child.alias_of]
        if child.alias_of is None:
            self.by_child[child.child] = child
            trials = () if child.reason.startswith("fault") else child.scores  # a fault is no score
            for stage, score in enumerate(trials):
                self.recent[stage].append(score["fitness"])
                if score["dropped"]:
                    break  # what an audited child did later is no part of the hurdles
        self.counts["alias" if child.alias_of is not None else child.reason.split(":")[0] or "scored"] += 1
        if child.audited:
            self._audit(child)
        if not source.scored or source.fitness is None:
            return
        member = self._member(child, source)
        self.members.append(member)
        if self.best is None or source.fitness > self.best.fitness:
            self.best, self.best_round = member, child.round

    def _member(self, child: Child, source: Child) -> Member:
        """An alias keeps its own text, at the learning rate that moves weights as its source does."""
        assert source.fitness is not None and source.rms is not None
        if source.child not in self.raised:
            self.raised[source.child] = Program.parse(source.final).peak / Program.parse(source.program).peak
        rms = source.rms * self.raised[source.child]
        if child is source:
            return Member(child.child, source.final, source.fitness, rms)
        return Member(child.child, child.program, source.fitness, rms, rms / (child.rms or rms))

    def _audit(self, child: Child) -> None:
        """Wrongly dropped: would have been among the better half of those that came through."""
        self.counts["audited"] += 1
        fitness = sorted(m.fitness for m in self.members)
        if child.fitness is not None and fitness and child.fitness > fitness[len(fitness) // 2]:
            self.wrongly_dropped += 1

    def _restart(self, number: int) -> None:
        """From the best so far and from the start programs in turn."""
        self.restarts += 1
        anew = [self.best] if self.best is not None and self.restarts % 2 else self.starts
        self.members = deque(anew, maxlen=self.config.population)
        self.best_round = number
