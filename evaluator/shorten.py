"""Empirical simplification: what may go from a program for a loss that no one would see.

A cut is judged by the paired relative increase of the final loss over the same seeds, task by task, always against the
program as it was given, so that many small losses do not add up unseen. The test is sequential: at 8, 16 and 32 seeds
the one-sided 95% ends, corrected for the three looks, decide, or more seeds are trained. What was found is judged once
more on fresh seeds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from ..dsl import Program
from ..dsl.simplify import simplify
from ..dsl.simplify.simplify import size
from .cuts import Cut, cut_out, results
from .dispatcher import Dispatcher
from .fitness import TUNED, Trial
from .statistics import Interval, mean_interval
from .trials import scores

LOOKS = (8, 16, 32)  # seeds; four would not see what fails one run in ten
SHARE = 0.003  # of the loss, that a cut may cost
FIRST_SEED = 700_000
_LR_SEEDS = (690_000, 690_001)
_LR_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
_LR_ROUNDS = 6
_TOGETHER = 3  # cuts that are tried in every order
_ONE_SIDED = 0.90  # a two-sided level whose ends are one-sided 95% ends


class Diverged(RuntimeError):
    """The program that is to be shortened has no finite loss itself."""


@dataclass(frozen=True)
class Verdict:
    """Whether some cuts together may be made: `goes` is None where the seeds or the budget did not decide."""

    what: tuple[str, ...]
    program: Program
    goes: bool | None
    increases: dict[str, Interval]  # of the loss by task, relative
    seeds: int
    reason: str = ""

    def __str__(self) -> str:
        """What, the answer, and the mean increase with its one-sided ends in percent."""
        answer = {True: "goes", False: "stays", None: "undecided, stays"}[self.goes]
        said = self.reason or ", ".join(f"{_percent(i)} on {task}" for task, i in self.increases.items())
        return f"{' and '.join(self.what)}: {answer}; loss {said}, {self.seeds} seeds"


def _percent(i: Interval) -> str:
    return f"{100 * i.mean:+.2f}% ({100 * i.low:+.2f} to {100 * i.high:+.2f})"


def _increases(old: Sequence[float], new: Sequence[float]) -> list[float]:
    """Relative increases of losses; infinite where a run failed."""
    if not new:
        return [math.inf] * len(old)
    return [(b - a) / a if math.isfinite(b) else math.inf for a, b in zip(old, new, strict=True)]


@dataclass
class Judge:
    """Compares programs with an original on the same seeds and decay shape.

    `runs` counts trained programs against the `budget`.
    """

    original: Program
    tasks: tuple[str, ...]
    dispatcher: Dispatcher
    budget: int = 4_000
    tell: Callable[[int, str], None] = lambda runs, text: None
    first_seed: int = FIRST_SEED
    decay: str = TUNED
    runs: int = field(default=0, init=False)
    spent: bool = field(default=False, init=False)
    known: dict[str, Verdict] = field(default_factory=dict, init=False)

    def verdicts(self, options: Sequence[tuple[tuple[str, ...], Program]]) -> list[Verdict]:
        """A verdict per option, in order; options are trained together, and leave when they are decided."""
        fresh = {str(program): (what, program) for what, program in options if str(program) not in self.known}
        increases: dict[str, list[list[float]]] = {text: [[] for _ in self.tasks] for text in fresh}
        before, open_ = 0, list(fresh)
        for upto in LOOKS:
            each = (upto - before) * len(self.tasks)
            fits = max(0, (self.budget - self.runs) // each - 1)
            self.spent = self.spent or fits < len(open_)
            open_ = open_[:fits]
            if not open_:
                break
            seeds = tuple(range(self.first_seed + before, self.first_seed + upto))
            programs = [self.original, *(fresh[text][1] for text in open_)]
            base, *found = scores(self.dispatcher, programs, Trial(self.tasks, seeds=seeds, decay=self.decay))
            self.runs, before = self.runs + (1 + len(open_)) * each, upto
            if not base.losses or not all(math.isfinite(loss) and loss > 0 for row in base.losses for loss in row):
                raise Diverged(f"fails itself ({base.reason or 'no loss'}), so that nothing can be compared with it")
            for text, score in zip(open_, found, strict=True):
                for place, row in enumerate(increases[text]):
                    row += _increases(base.losses[place], score.losses[place] if score.losses else ())
                self.known[text] = self._verdict(*fresh[text], increases[text], upto)
            open_ = [text for text in open_ if self.known[text].goes is None]
            self.tell(self.runs, f"{upto} seeds: {len(open_)} of {len(fresh)} undecided")
        for text, option in fresh.items():
            self.known.setdefault(text, Verdict(*option, None, {}, 0, "unknown, the budget is spent"))
        return [replace(self.known[str(program)], what=what) for what, program in options]

    def _verdict(self, what: tuple[str, ...], program: Program, increases: list[list[float]], seeds: int) -> Verdict:
        if any(math.isinf(x) for row in increases for x in row):
            return Verdict(what, program, False, {}, seeds, "diverges")
        each = [mean_interval(row, len(LOOKS), _ONE_SIDED) for row in increases]
        goes = True if all(i.high < SHARE for i in each) else False if any(i.low > SHARE for i in each) else None
        return Verdict(what, program, goes, dict(zip(self.tasks, each, strict=True)), seeds)


@dataclass(frozen=True)
class Shortening:
    """The shortest program found, the verdicts that led to it in order, and all that were made."""

    original: Program
    program: Program
    steps: list[Verdict]
    tried: list[Verdict]
    runs: int
    spent: bool  # whether the budget ended before every cut was judged


def shorten(judge: Judge) -> Shortening:
    """Cuts of a program, as many as may be made: of those that may each be made, a few together in every order.

    Raises Diverged where the original itself does.
    """
    first = simplify(judge.original)
    best, steps = first, list[Verdict]()
    while True:
        options = _options(best)
        alone = judge.verdicts([((cut.what,), program) for cut, program in options])
        passed = [cut for (cut, _), verdict in zip(options, alone, strict=True) if verdict.goes][:_TOGETHER]
        if not passed:
            break
        together = subsets(judge, best, passed)
        path = max(orders(together, passed), key=lambda path: (len(path), -sum(passed.index(c) for c in path)))
        steps += [together[frozenset(path[: n + 1])] for n in range(len(path))]
        best = steps[-1].program
    steps = confirmed(judge, steps)
    best = steps[-1].program if steps else first
    return Shortening(first, best, steps, list(judge.known.values()), judge.runs, judge.spent)


def confirmed(judge: Judge, steps: list[Verdict]) -> list[Verdict]:
    """The steps up to the last one that goes on fresh seeds too, with the verdict on those: seeds that pick flatter."""
    fresh = replace(judge, first_seed=judge.first_seed + LOOKS[-1])
    fresh.runs, fresh.spent = judge.runs, judge.spent
    while steps:
        (verdict,) = fresh.verdicts([(steps[-1].what, steps[-1].program)])
        judge.runs, judge.spent = fresh.runs, fresh.spent
        if verdict.goes:
            return [*steps[:-1], verdict]
        judge.known[str(verdict.program)] = verdict
        steps = steps[:-1]
    return steps


def _options(program: Program) -> list[tuple[Cut, Program]]:
    """Single cuts that make a program shorter, the shortest results first; each result once."""
    found: dict[str, tuple[Cut, Program]] = {}
    for cut, child in results(program):
        if size(child) < size(program) or (cut.is_number and size(child) == size(program)):
            found.setdefault(str(child), (cut, child))
    return sorted(found.values(), key=lambda option: size(option[1]))


def subsets(judge: Judge, program: Program, chosen: Sequence[Cut]) -> dict[frozenset[Cut], Verdict]:
    """A verdict for every set of these cuts that go together."""
    sets = [s for n in range(1, len(chosen) + 1) for s in itertools.combinations(chosen, n)]
    options = [(s, child) for s in sets if (child := cut_out(program, s)) is not None]
    found = judge.verdicts([(tuple(cut.what for cut in s), child) for s, child in options])
    return {frozenset(s): verdict for (s, _), verdict in zip(options, found, strict=True)}


def orders(verdicts: dict[frozenset[Cut], Verdict], chosen: Sequence[Cut]) -> list[tuple[Cut, ...]]:
    """How far each order of cuts gets before one may not be made."""
    paths = []
    for order in itertools.permutations(chosen):
        far = 0
        while far < len(order) and (verdict := verdicts.get(frozenset(order[: far + 1]))) and verdict.goes:
            far += 1
        paths.append(order[:far])
    return paths


def at_its_lr(program: Program, tasks: tuple[str, ...], dispatcher: Dispatcher, decay: str = TUNED) -> Program:
    """The program at the peak learning rate that is best on two seeds, to a factor of two; see `Trial.lr_factors`."""
    trial = Trial(tasks, seeds=_LR_SEEDS, lr_factors=_LR_FACTORS, decay=decay)
    for _ in range(_LR_ROUNDS):
        (score,) = scores(dispatcher, [program], trial)
        found = score.program
        if math.isclose(found.peak, program.peak):
            return found
        program = found
    return program
