"""Validation of programs on a target: tuned alike, frozen, then compared on seeds and data that chose nothing."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from ...discovered import load
from ...dsl import Program
from ...proxies.targets import Target
from ..machine import machine
from ..settings import Settings
from .paired_test import verdicts
from .pool import TargetPool
from .power_law import PowerLaw, fit_power_law
from .profile import time_to_target
from .protocol import FINAL, PICKING, Preset, Settled, finals, settle, side_by_side, steps_of
from .speedup import Comparison, compare
from .step_costs import StepCost, step_costs
from .training import Result, Training

ADAMW = "adamw"
LEVEL = 0.95


@dataclass(frozen=True)
class Frozen:
    """What was fixed before anything was compared: program with constants, schedule, and what it took to find them."""

    program: str
    warmup: float
    decay: str
    settings: Settings
    runs: int


@dataclass(frozen=True)
class Outcome:
    """A contender at a data ratio against AdamW on the same seeds.

    Attributes:
        comparison: Speedup, gap in nats, gap in seed sigmas.
        p: Of the paired test, corrected for all contenders (Holm).
        differs: Whether it is at most 0.05.
        test: Mean loss on the test data, nats.
        metric: Mean of the target's metric there.
        to_target: Median over seeds of the steps to AdamW's final validation loss, over AdamW's own; None for never.
        diverged: Runs that came to nothing; each counts as the loss at initialisation.
    """

    comparison: Comparison
    p: float
    differs: bool
    test: float
    metric: float | None
    to_target: float | None
    diverged: int


@dataclass(frozen=True)
class Contender:
    """One side of the comparison, AdamW too."""

    name: str
    program: str
    frozen: dict[float, Frozen]
    results: dict[float, dict[int, Result]]
    sensitivity: dict[float, float]
    cost: StepCost
    outcomes: dict[float, Outcome]


@dataclass(frozen=True)
class Validation:
    """All that was measured, and what of it the report shows.

    Attributes:
        law: AdamW's loss over data, fitted: alpha D^-exponent + floor, D in tokens.
        limits: What this cannot say, a line each.
    """

    target: str
    text: str
    preset: str
    fingerprint: str
    digest: str
    parameters: int
    machine: dict[str, str]
    metric: str
    start: float
    law: PowerLaw
    contenders: dict[str, Contender]
    limits: list[str] = field(default_factory=list)


def validate(
    pool: TargetPool,
    programs: Mapping[str, Program],
    preset: Preset,
    name: str = "",
    tell: Callable[[str], None] = lambda text: None,
    derived: Mapping[str, Callable[[Mapping[str, dict[float, Settled]]], dict[float, Settled]]] | None = None,
) -> Validation:
    """Tunes AdamW and each program alike, freezes their constants, and compares them on paired seeds.

    Args:
        pool: What trains, and the record that it goes on from.
        programs: Contenders by name; AdamW is added where it is not among them.
        preset: How much is trained.
        name: Of the preset, for the report.
        tell: Is told of progress, a line each.
        derived: Further contenders, whose frozen settings are made of the others', as for controls.

    Raises:
        TaskError, ProgramError: In one line, for a target or a program that cannot be trained.
    """
    sides = {ADAMW: load(ADAMW), **programs}
    frozen = side_by_side(
        pool, lambda n: freeze(pool, sides[n], preset, lambda t: tell(f"{n}: {t}"), n == ADAMW), list(sides)
    )
    frozen |= {n: made(frozen) for n, made in (derived or {}).items()}
    tell("all constants are frozen; now the seeds and the data that chose nothing")
    results = side_by_side(pool, lambda n: _results(pool, frozen[n], preset, n == ADAMW), list(frozen))
    reach = side_by_side(pool, lambda n: _sensitivity(pool, frozen[n][preset.tuned], preset), list(sides))
    trainings = {n: finals(f[preset.tuned].run, 1, steps_of(pool, preset.tuned))[0] for n, f in frozen.items()}
    costs = step_costs(pool.target, trainings, pool.device)
    law = fit_power_law(*_curve(pool, results[ADAMW]))
    outcomes = _outcomes(pool, results, preset)
    contenders = {
        n: Contender(n, _text(f[preset.tuned].run.program), {r: _shown(s) for r, s in f.items()}, results[n],
                     reach.get(n, {}), costs[n], outcomes[n])
        for n, f in frozen.items()
    }  # fmt: skip
    target = pool.target
    start = statistics.fmean(r.start for r in results[ADAMW][preset.tuned].values())
    return Validation(
        target.name, pool.text, name, target.fingerprint(), target.data.digest()[:16],
        sum(p.numel() for p in target.model.init(0)), machine(pool.device),
        target.metric.name if target.metric else "", start, law, contenders, limits(target, preset, contenders),
    )  # fmt: skip


def freeze(
    pool: TargetPool,
    program: Program,
    preset: Preset,
    tell: Callable[[str], None] = lambda text: None,
    baseline: bool = False,
    salt: str = "",
) -> dict[float, Settled]:
    """Settings at every data ratio that is needed: from nothing at one, from the nearest at the others.

    Args:
        pool: What trains.
        program: Whose constants are set.
        preset: How much is trained.
        tell: Is told of progress.
        baseline: Whether the points of AdamW's curve are needed too.
        salt: Another one draws other settings.
    """
    found = {preset.tuned: settle(pool, program, preset.tuned, preset.budget, tell=tell, salt=salt)}
    others = {*preset.compared, *(preset.curve if baseline else ())} - {preset.tuned}
    for ratio in sorted(others, key=lambda r: (abs(r / preset.tuned - 1), r)):
        nearest = min(found, key=lambda r: max(r / ratio, ratio / r))
        found[ratio] = settle(pool, program, ratio, preset.again, [found[nearest].settings], tell, salt)
    return found


def _results(
    pool: TargetPool, frozen: Mapping[float, Settled], preset: Preset, baseline: bool
) -> dict[float, dict[int, Result]]:
    """Final runs by data ratio and seed."""
    found = {}
    for ratio in preset.curve if baseline else preset.compared:
        seeds = preset.seeds if ratio in preset.compared else preset.curve_seeds
        runs = finals(frozen[ratio].run, seeds, steps_of(pool, ratio))
        found[ratio] = dict(zip(range(FINAL, FINAL + seeds), pool.results(runs), strict=True))
    return found


def _sensitivity(pool: TargetPool, settled: Settled, preset: Preset) -> dict[float, float]:
    """Validation losses at multiples of the tuned learning rate, one seed."""
    if not preset.sensitivity:
        return {}
    factors = (*preset.sensitivity, 1.0)
    program, steps = settled.run.program, steps_of(pool, preset.tuned)
    runs = [replace(settled.run, program=program.with_lr(program.peak * factor)) for factor in factors]
    results = pool.results([Training(run, PICKING[0], steps) for run in runs])
    return dict(sorted((factor, r.validation) for factor, r in zip(factors, results, strict=True)))


def _curve(pool: TargetPool, results: Mapping[float, Mapping[int, Result]]) -> tuple[list[float], list[float]]:
    ratios = sorted(results)
    losses = [statistics.fmean(_tests(results[r]).values()) for r in ratios]
    return [_data(pool, r) for r in ratios], losses


def _data(pool: TargetPool, ratio: float) -> float:
    """Tokens, or examples, at a data ratio."""
    return float(pool.target.tokens(steps_of(pool, ratio)))


def _tests(results: Mapping[int, Result]) -> dict[int, float]:
    """Test losses by seed."""
    return {seed: r.test for seed, r in results.items() if r.test is not None}


def _outcomes(
    pool: TargetPool, results: Mapping[str, Mapping[float, Mapping[int, Result]]], preset: Preset
) -> dict[str, dict[float, Outcome]]:
    adamw = results[ADAMW]
    curve = {_data(pool, ratio): _tests(adamw[ratio]) for ratio in adamw}
    found: dict[str, dict[float, Outcome]] = {name: {} for name in results}
    for ratio in preset.compared:
        rivals = {name: _tests(results[name][ratio]) for name in results if name != ADAMW}
        tests = verdicts(_tests(adamw[ratio]), rivals)
        for name in results:
            of, runs = results[name][ratio], list(results[name][ratio].values())
            metrics = [r.metric for r in runs if r.metric is not None]
            found[name][ratio] = Outcome(
                compare(curve, _tests(of), _data(pool, ratio), level=LEVEL),
                tests[name].p if name in tests else 1.0, name in tests and tests[name].differs,
                statistics.fmean(_tests(of).values()), statistics.fmean(metrics) if metrics else None,
                _to_target(adamw[ratio], of), sum(bool(r.reason) for r in runs),
            )  # fmt: skip
    return found


def _to_target(adamw: Mapping[int, Result], rival: Mapping[int, Result]) -> float | None:
    """Steps to the mean of AdamW's last losses on its validation curve, over AdamW's own steps."""
    ends = [r.curve[-1] for r in adamw.values() if r.curve]
    if not ends:
        return None
    goal = statistics.fmean(loss for _, _, loss in ends)
    times = [time_to_target([(step, loss) for step, _, loss in r.curve], goal) for r in rival.values()]
    middle = statistics.median(times) / ends[0][0]
    return middle if math.isfinite(middle) else None


def _shown(settled: Settled) -> Frozen:
    run = settled.run
    return Frozen(_text(run.program), run.warmup or 0.0, run.decay or "", settled.settings, settled.runs)


def _text(program: Program) -> str:
    return str(replace(program, doc=""))


def limits(target: Target, preset: Preset, contenders: Mapping[str, Contender]) -> list[str]:
    """What a validation cannot say."""
    most = max(preset.compared)
    said = [f"One target, {target.name}, at data ratios up to {most:g}: larger models may rank otherwise."]
    if not target.has_test:
        said.append("It has no test data: what is compared is the data that settings were chosen on, on other seeds.")
    widths = [
        o.comparison.speedup.high / o.comparison.speedup.low
        for name, c in contenders.items() if name != ADAMW for o in c.outcomes.values()
        if o.comparison.speedup.low > 0
    ]  # fmt: skip
    if widths:
        said.append(
            f"{preset.seeds} paired seeds: a speedup of less than {min(widths) ** 0.5:.2f} would not be told from 1."
        )
    runs = preset.budget.runs()
    said.append(f"{runs} tuning runs a side: one whose best settings lie far from its defaults may be undertuned.")
    if not preset.sensitivity:
        said.append("No runs at other learning rates: how sensitive a rule is to its own is not measured.")
    if len(preset.curve) < 4:
        said.append(f"AdamW's curve has {len(preset.curve)} points: speedups far from 1 are extrapolated.")
    return said
