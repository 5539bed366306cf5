"""Fitness of programs: speedup over tuned AdamW, paired with it seed by seed.

Every batch trains tuned AdamW beside the candidates, on the same weights and data; a candidate's loss is read
off the AdamW curve after what AdamW lost or won on that very seed is taken off. So seeds cancel.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..dsl import Program
from ..proxies import Task, task
from .curve import Curve, NoCurve, curve_of, curves_digest
from .train import Outcome, Run, train

TUNED = "tuned"  # the decay shape that was tuned for AdamW


@dataclass(frozen=True)
class Trial:
    """What candidates are trained on: tasks at a share of their budgets, seeds, and factors on the peak lr.

    `dtype` is that of the model's passes in training, `decay` the shape in which the candidates' learning rate falls
    after the warm-up; AdamW itself is always trained as it was tuned.
    """

    tasks: tuple[str, ...]
    share: float = 1.0
    seeds: tuple[int, ...] = (0,)
    lr_factors: tuple[float, ...] = (1.0,)
    dtype: str = "float32"
    decay: str = TUNED

    def steps_each(self) -> int:
        """Training steps that one candidate takes."""
        return len(self.lr_factors) * len(self.seeds) * sum(_steps(task(t), self.share) for t in self.tasks)


@dataclass(frozen=True)
class Job:
    """A batch of work: programs (None keeps a place empty, so that the others keep theirs) and a trial.

    `curves` is the `curves_digest` of the trial's tasks where the job was made; a worker that has others refuses it.
    """

    programs: tuple[Program | None, ...]
    trial: Trial
    curves: str = ""


@dataclass(frozen=True)
class Score:
    """How a program did. `speedups` has a row per task with a number per seed; `program` has the best lr."""

    program: Program
    fitness: float
    speedups: tuple[tuple[float, ...], ...] = ()
    losses: tuple[tuple[float, ...], ...] = ()
    reason: str = ""
    steps: int = 0

    def means(self) -> list[float]:
        """A speedup for each seed, the geometric mean over the tasks."""
        return [geometric_mean(column) for column in zip(*self.speedups, strict=True)]


def by_seed(job: Job) -> list[Job]:
    """The job as one per seed, which may run side by side; whole where learning rates compete over all seeds."""
    if len(job.trial.lr_factors) > 1:
        return [job]
    return [replace(job, trial=replace(job.trial, seeds=(seed,))) for seed in job.trial.seeds]


def joined(scores: Sequence[Score]) -> Score:
    """One program's scores on the seeds of `by_seed`, in order, as the whole job would have scored it."""
    if len(scores) == 1:
        return scores[0]
    speedups = _columns([s.speedups for s in scores])
    return replace(
        scores[0],
        fitness=geometric_mean([s for row in speedups for s in row]),
        speedups=speedups,
        losses=_columns([s.losses for s in scores]),
        reason=next((s.reason for s in scores if s.reason), ""),
        steps=sum(s.steps for s in scores),
    )


def _columns(parts: Sequence[tuple[tuple[float, ...], ...]]) -> tuple[tuple[float, ...], ...]:
    """Rows per task, put end to end over the parts; none where a part has none, as after a fault."""
    if not all(parts):
        return ()
    return tuple(tuple(x for row in rows for x in row) for rows in zip(*parts, strict=True))


def evaluate(job: Job, device: str = "cpu") -> list[Score | None]:
    """A score for every program of the job, in order, None for an empty place; the work that an executor runs.

    For each candidate the learning-rate factor with the best geometric mean over tasks and seeds counts. Raises NoCurve
    where a task has no AdamW curve, or is not what it was where the job was made.
    """
    trial = job.trial
    if job.curves and job.curves != curves_digest(trial.tasks):
        names, host = " or ".join(trial.tasks), socket.gethostname()
        raise NoCurve(f"{names} is another task on {host}: bring its file there, and its curve")
    scaled = [_at_factors(program, trial.lr_factors) for program in job.programs]
    runs = [variant for variants in scaled for variant in variants]
    table = [[_train_paired(task(name), runs, seed, trial, device) for seed in trial.seeds] for name in trial.tasks]
    scores: list[Score | None] = []
    for index, variants in enumerate(scaled):
        columns = range(index * len(variants), (index + 1) * len(variants))
        each = [_score(v, table, c, trial) for v, c in zip(variants, columns, strict=True) if v]
        scores.append(max(each, key=lambda score: (score.fitness, -_total(score)), default=None))
    return scores


def _at_factors(program: Program | None, factors: Sequence[float]) -> list[Program | None]:
    """A program at each factor on its peak learning rate; as many empty places for an empty place."""
    if program is None:
        return [None] * len(factors)
    return [program.with_own_lr(program.peak * factor) if factor != 1 else program for factor in factors]


def _total(score: Score) -> float:
    """Summed losses, which tell apart scores that are clipped alike; a failed run is infinitely bad."""
    total = sum(loss for row in score.losses for loss in row)
    return math.inf if math.isnan(total) else total


def _steps(task: Task, share: float) -> int:
    return max(1, round(task.steps * share))


def _train_paired(
    task: Task, runs: Sequence[Program | None], seed: int, trial: Trial, device: str
) -> list[tuple[float, float, str]]:
    """(speedup, loss, reason) of every run; an empty place is filled with AdamW.

    Candidates train on the warm-up that was tuned for AdamW, and on the trial's decay shape.
    """
    steps, curve = _steps(task, trial.share), curve_of(task)
    reference = curve.point(steps).run()
    shaped = reference if trial.decay == TUNED else replace(reference, decay=trial.decay)
    candidates = [replace(shaped, program=r) if r else reference for r in runs]
    outcomes = train(task, [*candidates, reference], seed, steps, device, trial.dtype)
    return [_paired(outcome, outcomes[-1], curve, steps) for outcome in outcomes[:-1]]


def paired_speedups(task: Task, run: Run, seeds: Sequence[int], share: float) -> list[float]:
    """A run's speedup on each seed, on its own warm-up and decay shape, beside tuned AdamW on its own."""
    steps, curve = _steps(task, share), curve_of(task)
    pairs = (train(task, [run, curve.point(steps).run()], seed, steps) for seed in seeds)
    return [_paired(outcome, adamw, curve, steps)[0] for outcome, adamw in pairs]


def _paired(outcome: Outcome, adamw: Outcome, curve: Curve, steps: int) -> tuple[float, float, str]:
    luck = 0.0 if adamw.failed else adamw.loss - curve.fitted(steps)
    return curve.speedup(outcome.loss - luck, steps), outcome.loss, outcome.reason


def _score(program: Program, table: list[list[list[tuple[float, float, str]]]], column: int, trial: Trial) -> Score:
    cells = [[seed[column] for seed in row] for row in table]
    reasons = [reason for row in cells for _, _, reason in row if reason]
    speedups = tuple(tuple(s for s, _, _ in row) for row in cells)
    return Score(
        program=program,
        fitness=geometric_mean([s for row in speedups for s in row]),
        speedups=speedups,
        losses=tuple(tuple(loss for _, loss, _ in row) for row in cells),
        reason=reasons[0] if reasons else "",
        steps=trial.steps_each(),
    )


def geometric_mean(values: Sequence[float]) -> float:
    """exp(mean(log x)).

    >>> geometric_mean([0.5, 2.0])
    1.0
    """
    return math.exp(sum(math.log(v) for v in values) / len(values))
