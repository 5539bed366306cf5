"""How published rules score on the proxies, each tuned in one way: half of the question whether a proxy predicts.

A rule's learning rate is swept on short runs; from there, and from joint random draws, all its hyperparameters, its
fallback's and its schedule are tuned together by `tune`, with as many runs for every rule; then it is scored on seeds
that picked nothing, as speedup over tuned AdamW. Finished scores are lines of a text record, from which an interrupted
scoring goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...discovered import load
from ...dsl import Program
from ...proxies import Task
from ..curve import curve_of
from ..fitness import geometric_mean
from ..json_lines import JsonLines
from ..run_pool import RunPool
from ..settings import Settings, ranges_of, settings_of
from ..train import Run
from ..tune import PICK_SEEDS, SHOWN_SEEDS, Budget, tune

#: 18 rules that see elements, which populations run compiled, then 5 that see matrices, which run one by one.
RULES = (
    "sgd", "momentum", "nesterov", "signsgd", "signum", "rmsprop", "adagrad", "adamw", "adabelief", "nadamw", "exadam",
    "lion", "c_lion", "c_adamw", "addsign", "powersign", "spam", "sgd_sai",
    "muon", "scale", "sinkgd", "swan", "adafactor",
)  # fmt: skip
TASKS = ("associative", "quadratic", "digits", "bytes_tied", "bytes_b64", "bytes")  # cheapest first
#: The whole budget of one seed, but where a run takes half a second: there most draws are
#: short runs, so that all rules and tasks take about two hours of one core.
BUDGETS = dict.fromkeys(("bytes_b64", "bytes_tied", "bytes"), Budget(16, 1, 16, descent=20, finalists=3, short=80))
_SWEEP_SEED, _SWEEP_SHARE = 8_999, 1 / 8
_SWEEP = range(-10, 9)  # octaves about a rule's own learning rate


@dataclass(frozen=True)
class ProxyScore:
    """A tuned rule on one task.

    Attributes:
        fingerprint: Of the task; a score is good for one.
        steps: Of every run but the sweep's.
        runs: What the tuning took, without the sweep of learning rates and the runs that are shown.
        sweep: Short runs of that sweep.
        settings: The tuned hyperparameters and schedule by name; a fallback's carry its name.
        pick_seeds: Seeds that picked the settings.
        seeds: Seeds that are shown.
        losses: Final losses in nats, one a seed; infinite where a run failed.
        adamw: Those of tuned AdamW.
        speedups: AdamW-equivalent steps over own steps, one a seed.
        seconds: Wall time that all of it took.
    """

    rule: str
    task: str
    fingerprint: str
    steps: int
    runs: int
    sweep: int
    settings: Settings
    pick_seeds: tuple[int, ...]
    seeds: tuple[int, ...]
    losses: tuple[float, ...]
    adamw: tuple[float, ...]
    speedups: tuple[float, ...]
    seconds: float

    @property
    def speedup(self) -> float:
        """The geometric mean over seeds."""
        return geometric_mean(self.speedups)


def score_rules(
    tasks: Sequence[Task],
    record: Path,
    rules: Sequence[str] = RULES,
    budget: Budget | None = None,
    workers: int = 0,
    tell: Callable[[str], None] = lambda text: None,
) -> list[ProxyScore]:
    """The score of every rule on every task: those of the record, and the rest, each added to it as it is found.

    Args:
        tasks: Each with an AdamW curve.
        record: A file of one JSON line a score; made where there is none.
        rules: Names of the catalogue.
        budget: Runs of a tuning; a score in the record that took fewer is made anew. By default that of `BUDGETS`.
        workers: Processes that train; 0: this one.
        tell: Is told of each new score, in a line.

    Raises:
        NoCurve: A task has no AdamW curve.
        RecordError: As `JsonLines`.
        TaskError: In one line, where the task's own code fails or a worker dies.
    """
    with JsonLines(record, _parsed) as lines:
        for task in tasks:
            wanted = budget or BUDGETS.get(task.name, Budget())
            known = _best_tuned(lines.rows.values())
            runs = {rule: s.runs for (rule, of), s in known.items() if of == task.fingerprint()}
            due = [rule for rule in rules if runs.get(rule, 0) < wanted.runs()]
            if not due:
                continue
            with RunPool(task, workers) as pool:
                adamw = _adamw_losses(task, pool)
                for rule in due:
                    score = score_rule(rule, task, adamw, wanted, pool)
                    lines.append(asdict(score))
                    tell(f"{task.name} {rule}: speedup {score.speedup:.3f}, {score.seconds:.0f} s")
        best = _best_tuned(lines.rows.values())
        return [best[rule, task.fingerprint()] for task in tasks for rule in rules]


def score_rule(rule: str, task: Task, adamw: Sequence[float], budget: Budget, pool: RunPool) -> ProxyScore:
    """Tunes a rule on a task and scores it on `SHOWN_SEEDS`, on which tuned AdamW has the losses `adamw`."""
    start, program, steps, curve = time.perf_counter(), load(rule), task.steps, curve_of(task)
    random = np.random.Generator(np.random.Philox(key=[13, steps]))
    own = swept_settings(program, task, pool)
    ranges = ranges_of(program, float(own["lr"]))
    point, _ = tune(task, program, steps, random, budget, near=[own], ranges=ranges, pool=pool)
    speedups = speedups_beside(point.losses, adamw, task)
    return ProxyScore(
        rule, task.name, curve.fingerprint, steps, point.runs, len(_SWEEP), settings_of(point), PICK_SEEDS,
        point.seeds, point.losses, tuple(adamw), speedups, round(time.perf_counter() - start, 1),
    )  # fmt: skip


def swept_settings(program: Program, task: Task, pool: RunPool) -> Settings:
    """A rule's own settings, but for the learning rate with the least loss on runs of an eighth of the budget.

    The schedule is that of tuned AdamW there.
    """
    steps = round(task.steps * _SWEEP_SHARE)
    reference = curve_of(task).point(steps)
    variants = [program.with_lr(program.peak * 2.0**octave) for octave in _SWEEP]
    runs = [Run(variant, reference.warmup, reference.decay) for variant in variants]
    [losses] = pool.losses([(runs, _SWEEP_SEED)], steps)
    return settings_of(replace(reference, program=str(variants[int(np.argmin(losses))])))


def speedups_beside(losses: Sequence[float], adamw: Sequence[float], task: Task) -> tuple[float, ...]:
    """Speedups of whole runs, seed by seed: what AdamW lost or won on a seed is taken off, as in `paired_speedups`.

    >>> from ...proxies import task
    >>> curve = curve_of(task("digits"))
    >>> [round(s, 3) for s in speedups_beside(curve.point(400).losses, curve.point(400).losses, task("digits"))][:2]
    [1.0, 1.0]
    """
    curve = curve_of(task)
    luck = [own - curve.fitted(task.steps) if np.isfinite(own) else 0.0 for own in adamw]
    return tuple(curve.speedup(loss - off, task.steps) for loss, off in zip(losses, luck, strict=True))


def read_scores(record: Path) -> list[ProxyScore]:
    """The scores of a record, in order; of one rule and task that which took the most runs.

    >>> read_scores(Path("nothing there"))
    []
    """
    return list(_best_tuned(JsonLines(record, _parsed).rows.values()).values())


def _best_tuned(scores: Iterable[ProxyScore]) -> dict[tuple[str, str], ProxyScore]:
    """(rule, fingerprint) -> its score with the most runs."""
    return {(score.rule, score.fingerprint): score for score in sorted(scores, key=lambda score: score.runs)}


def _key(rule: str, fingerprint: str, runs: int) -> str:
    return f"{rule} {fingerprint} {runs}"


def _parsed(held: Mapping[str, Any]) -> tuple[str, ProxyScore]:
    row: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in held.items()}
    score = ProxyScore(**row)
    return _key(score.rule, score.fingerprint, score.runs), score


def _adamw_losses(task: Task, pool: RunPool) -> list[float]:
    """Final losses in nats of tuned AdamW on `SHOWN_SEEDS`, trained here: the curve's own may be another machine's."""
    run = curve_of(task).point(task.steps).run()
    return [loss for (loss,) in pool.losses([([run], seed) for seed in SHOWN_SEEDS], task.steps)]
