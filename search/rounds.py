"""A round: children made from one fold, taken stage by stage to a score or a reason."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..dsl import Program
from ..evaluator.curve import LOWEST, curves_digest
from ..evaluator.dispatcher import SET_ASIDE, Dispatcher, Done
from ..evaluator.fitness import Job, Score, by_seed, joined
from .breed import Bred, make_child, make_start, placed, remember
from .config import SearchConfig
from .hurdles import OPEN, Asked, hurdle
from .ledger import Child
from .niche import Niche
from .population import REPEAT, Fold, Trained, losses_key
from .strategies import Evolution

_ATTEMPTS = 20  # a round closes at this many attempts per trainable child


def breed_round(number: int, first: int, fold: Fold, strategy: Evolution, known: MutableMapping[str, int]) -> Round:
    """Round `number`, whole, from a fold: B trainable children, or 20 B attempts. Grows `known`."""
    size = fold.config.round
    bred: list[Bred] = []
    trainable = 0
    while trainable < size and len(bred) < _ATTEMPTS * size:
        k = first + len(bred)
        if k < len(fold.starts):
            new = make_start(k, fold.starts[k].program, known, number)
        else:
            new = make_child(k, number, fold, strategy, known)
        if is_trainable(new.child):
            remember(known, new.child)
            trainable += 1
        bred.append(placed(new, fold.config.niches))
    programs = {i: new.program for i, new in enumerate(bred) if is_trainable(new.child)}
    asked = {i: fold.asked_of(bred[i].child) for i in programs}
    return Round(fold.config, number, [new.child for new in bred], programs, asked, fold.trained, fold.rounds)


def is_trainable(child: Child) -> bool:
    """Whether the row asks for training: neither rejected nor a repeat."""
    return child.alias_of is None and not child.reason


@dataclass(eq=False)
class Round:
    """Children in flight. `submit` starts a look, which is a stage or some of its seeds, for all that are left; `take`
    reads the scores of its jobs.
    """

    config: SearchConfig
    number: int
    children: list[Child]
    programs: dict[int, Program]  # of those that are trained, by position, at their best learning rate so far
    asked: dict[int, Asked]  # of the same, what each must reach at each stage
    trained: Mapping[int, list[Trained]]  # the fold's, which grows: rows of round `folded` or later are not looked at
    folded: int  # rounds that the fold held which this one was bred from
    stage: int = 0
    look: int = 0
    active: list[int] = field(default_factory=list)  # positions of children that go on
    seen: dict[int, Score] = field(default_factory=dict)  # of those, on the seeds of earlier looks at the stage
    work: list[tuple[Any, ...]] = field(default_factory=list)
    closed: bool = False
    done: dict[int, Done | None] = field(default_factory=dict)  # by ticket, in order; None: in flight

    def __post_init__(self) -> None:
        self.active = [i for i, c in enumerate(self.children) if is_trainable(c)]
        self.closed = not self.active

    @property
    def is_last(self) -> bool:
        """Whether the current stage is the last, whose score is fitness."""
        return self.stage + 1 == len(self.config.stages)

    def submit(self, dispatcher: Dispatcher) -> list[int]:
        """Starts the current look, its seeds side by side; gives the tickets."""
        programs = tuple(self.programs[i] for i in self.active)
        trial = self.config.looks(self.stage)[self.look]
        jobs = by_seed(Job(programs, trial, curves_digest(trial.tasks)))
        self.done = {dispatcher.submit(job): None for job in jobs}
        return list(self.done)

    def take(self, done: Done) -> None:
        """A job of the current look is done; after the last children fall, are audited, or go on."""
        self._record(done)
        self.done[done.ticket] = done
        parts = [part.scores for part in self.done.values() if part is not None]
        if len(parts) == len(self.done):
            self._read([joined(each) for each in zip(*parts, strict=True)])

    def _read(self, scores: list[Score]) -> None:
        """Scores of the current look; the stage may end, and with it the round."""
        for i, score in zip(self.active, scores, strict=True):
            self.seen[i] = joined([self.seen[i], score]) if i in self.seen else score
        self.look += 1
        more = self.look < len(self.config.looks(self.stage))
        if more:
            self._raise_open_hurdles()
        ended = [i for i in self.active if not more or self.seen[i].reason or self._is_below(i, self.seen[i])]
        for position in ended:
            self._judge(position, self.seen.pop(position))
        over = [i for i in ended if self.is_last or (self.children[i].reason and not self.children[i].audited)]
        self.active = [i for i in self.active if i not in over]
        if not self.seen:
            self.stage, self.look = self.stage + 1, 0
        self.closed = not self.active or self.stage == len(self.config.stages)

    def _raise_open_hurdles(self) -> None:
        """Where a niche had no scores to set a hurdle when the round was bred, those of the round say what is worth
        more seeds, but for faults and for what is trained to check the hurdles.
        """
        niches: dict[Niche, list[int]] = {}
        for i in self.active:
            if self.asked[i].hurdles[self.stage] == OPEN:
                niches.setdefault(self.asked[i].niche, []).append(i)
        for some in niches.values():
            scores = [self.seen[i] for i in some if not self.children[i].audited]
            judged = [score.fitness for score in scores if not score.reason.startswith(SET_ASIDE)]
            raised = hurdle(judged, self.config.stages[self.stage].drop)
            for i in some:
                self.asked[i].hurdles[self.stage] = raised

    def _is_below(self, position: int, score: Score) -> bool:
        return score.fitness < self.asked[position].hurdles[self.stage]

    def _judge(self, position: int, score: Score) -> None:
        """The score of a child at the current stage, which the last drops only if the child failed."""
        below = score.fitness <= LOWEST if self.is_last else self._is_below(position, score)
        child = self._judged(self._moved(position, score), score, below)
        through = self.is_last and (child.audited or not child.reason)
        ease = 1.0 if self.look == len(self.config.looks(self.stage)) else self.asked[position].ease
        self.children[position] = replace(child, fitness=ease * score.fitness) if through else child

    def _moved(self, position: int, score: Score) -> Child:
        """The child at the learning rate that the stage found best."""
        child, before = self.children[position], self.programs[position]
        after = self.programs[position] = score.program
        if after.peak == before.peak:
            return replace(child, final=child.best_text)
        return replace(child, final=str(after), lr_factor=child.lr_factor * after.peak / before.peak)

    def _judged(self, child: Child, score: Score, is_below: bool) -> Child:
        """The child with this stage's score. One that was dropped before is only trained on for the audit."""
        fault = score.reason.startswith(SET_ASIDE)
        failed = f"{'fault' if fault else 'failed'}: {score.reason}" if score.reason else ""
        dropped = self._repeats(child, score) or (f"dropped: stage {self.stage + 1}" if is_below else "")
        newly_dropped = dropped and not failed and not child.reason and self.stage + 1 < len(self.config.stages)
        reason = child.reason or failed or dropped
        record = {
            "fitness": score.fitness, "speedups": score.speedups, "losses": score.losses, "dropped": bool(reason),
        }  # fmt: skip
        return replace(
            child, scores=(*child.scores, record), reason=reason, steps=child.steps + score.steps,
            audited=child.audited or bool(newly_dropped and self._drawn(child)),
        )  # fmt: skip

    def _repeats(self, child: Child, score: Score) -> str:
        """Why a child goes no further that trained to the very losses of an earlier one and is no smaller: already at a
        quarter of the budget the end was the same in nine pairs of ten.
        """
        held = self.trained.get(losses_key(score.losses), []) if self.config.tells_copies(self.stage) else []
        known = [row for row in held if row.round < self.folded]
        return f"{REPEAT} {known[-1].child} did" if known and child.size >= known[-1].size else ""

    def _drawn(self, child: Child) -> bool:
        """Whether a dropped child is trained to the end all the same; drawn by its number, not by chance."""
        spread = (child.child * 2654435761 + self.config.seed * 40503) % 2**32  # Knuth's multiplicative hash
        return spread < self.config.audit * 2**32

    def _record(self, done: Done) -> None:
        """Who worked how long; a fault is a row of its own, for its worker gave no report."""
        self.work += [(self.number, self.stage, r.worker, r.host, r.seconds, "") for r in done.reports]
        self.work += [(self.number, self.stage, 0, "", 0.0, fault) for fault in done.faults]
