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
from ..tune import PICK_SEEDS
from .paired_test import holm, paired_p
from .pool import TargetPool
from .power_law import STEEPEST, PowerLaw, fit_power_law
from .profile import time_to_target
from .protocol import Preset, Settled, finals, settle, side_by_side, steps_of
from .speedup import Comparison, Losses, compare
from .step_costs import StepCost, step_costs
from .training import Result, Training

ADAMW = "AdamW"  # the baseline; a contender may be called adamw
LEVEL = 0.95
_MANY_EPOCHS = 4  # from which on repeated text is worth less (Muennighoff et al. 2023, arXiv:2305.16264)


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
        p: Of the paired test, corrected for all contenders at all data ratios of a validation (Holm).
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
    """One side of the comparison, AdamW too. `sensitivity` are runs at multiples of the tuned learning rate."""

    name: str
    program: str
    frozen: dict[float, Frozen]
    results: dict[float, dict[int, Result]]
    sensitivity: dict[float, Result]
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
    fixed: Callable[[dict[str, dict[float, Frozen]]], None] = lambda frozen: None,
) -> Validation:
    """Tunes AdamW and each program alike, freezes their constants, and compares them on paired seeds.

    Args:
        pool: What trains, and the record that it goes on from.
        programs: Contenders by name; AdamW is added where it is not among them.
        preset: How much is trained.
        name: Of the preset, for the report.
        tell: Is told of progress, a line each.
        derived: Further contenders, whose frozen settings are made of the others', as for controls.
        fixed: Is told of all constants, by contender and data ratio, before a seed that is compared is trained.

    Raises:
        ValueError: A program is called as the baseline is.
        TaskError, ProgramError: In one line, for a target or a program that cannot be trained.
    """
    if ADAMW in programs:
        raise ValueError(f"{ADAMW!r} is the baseline; call the program otherwise")
    sides = {ADAMW: load("adamw"), **programs}
    frozen = side_by_side(
        pool, lambda n: freeze(pool, sides[n], preset, lambda t: tell(f"{n}: {t}"), n == ADAMW), list(sides)
    )
    frozen |= {n: made(frozen) for n, made in (derived or {}).items()}
    shown = {n: {ratio: _shown(settled) for ratio, settled in f.items()} for n, f in frozen.items()}
    fixed(shown)
    tell("all constants are frozen; now the seeds and the data that chose nothing")
    results = side_by_side(pool, lambda n: final_results(pool, frozen[n], preset, n == ADAMW), list(frozen))
    reach = side_by_side(pool, lambda n: _sensitivity(pool, frozen[n][preset.tuned], preset), list(sides))
    trainings = {n: finals(f[preset.tuned].run, preset, 1, steps_of(pool, preset.tuned))[0] for n, f in frozen.items()}
    costs = step_costs(pool.target, trainings, pool.device)
    curve = curve_of(pool, results[ADAMW], preset)
    law = fit_power_law(list(curve), [statistics.fmean(losses.values()) for losses in curve.values()])
    outcomes = _outcomes(pool, results, preset, curve)
    contenders = {
        n: Contender(n, f[preset.tuned].program, f, results[n], reach.get(n, {}), costs[n], outcomes[n])
        for n, f in shown.items()
    }
    target = pool.target
    start = statistics.fmean(r.start for r in results[ADAMW][preset.tuned].values())
    return Validation(
        target.name, pool.text, name, target.fingerprint(), target.data.digest()[:16],
        sum(p.numel() for p in target.model.init(0)), machine(pool.device),
        target.metric.name if target.metric else "", start, law, contenders, limits(target, preset, contenders, law),
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


def final_results(
    pool: TargetPool, frozen: Mapping[float, Settled], preset: Preset, baseline: bool
) -> dict[float, dict[int, Result]]:
    """Final runs at frozen settings by data ratio and seed; a baseline's at all ratios of its curve."""
    found = {}
    for ratio in preset.curve if baseline else preset.compared:
        seeds = preset.seeds if ratio in preset.compared else preset.curve_seeds
        runs = finals(frozen[ratio].run, preset, seeds, steps_of(pool, ratio))
        found[ratio] = {run.seed: result for run, result in zip(runs, pool.results(runs), strict=True)}
    return found


def _sensitivity(pool: TargetPool, settled: Settled, preset: Preset) -> dict[float, Result]:
    """Runs at multiples of the tuned learning rate, one seed."""
    if not preset.sensitivity:
        return {}
    factors = (*preset.sensitivity, 1.0)
    program, steps = settled.run.program, steps_of(pool, preset.tuned)
    runs = [replace(settled.run, program=program.with_lr(program.peak * factor)) for factor in factors]
    results = pool.results([Training(run, PICK_SEEDS[0], steps) for run in runs])
    return dict(sorted(zip(factors, results, strict=True)))


def curve_of(
    pool: TargetPool, adamw: Mapping[float, Mapping[int, Result]], preset: Preset
) -> dict[float, dict[int, float]]:
    """The losses of tuned AdamW that are compared, by data and seed, of its results by data ratio."""
    return {_data(pool, ratio): ends_of(adamw[ratio], preset) for ratio in sorted(adamw)}


def _data(pool: TargetPool, ratio: float) -> float:
    """Tokens, or examples, at a data ratio."""
    return float(pool.target.tokens(steps_of(pool, ratio)))


def ends_of(results: Mapping[int, Result], preset: Preset) -> dict[int, float]:
    """The losses that are compared, by seed."""
    if not preset.held_out:
        return {seed: r.validation for seed, r in results.items()}
    return {seed: r.test for seed, r in results.items() if r.test is not None}


def _sigma(results: Mapping[float, Mapping[int, Result]], preset: Preset) -> float:
    """The standard deviation of AdamW's loss over seeds, pooled over data ratios."""
    squares, freedom = 0.0, 0
    for by_seed in results.values():
        losses = list(ends_of(by_seed, preset).values())
        squares += statistics.variance(losses) * (len(losses) - 1) if len(losses) > 1 else 0.0
        freedom += len(losses) - 1
    return math.sqrt(squares / freedom) if freedom else math.nan


def _outcomes(
    pool: TargetPool,
    results: Mapping[str, Mapping[float, Mapping[int, Result]]],
    preset: Preset,
    curve: Mapping[float, Losses],
) -> dict[str, dict[float, Outcome]]:
    adamw = results[ADAMW]
    ends = {name: {r: ends_of(by_ratio[r], preset) for r in by_ratio} for name, by_ratio in results.items()}
    sigma, p_values = _sigma(adamw, preset), _p_values(ends, preset)
    found: dict[str, dict[float, Outcome]] = {name: {} for name in results}
    for ratio in preset.compared:
        for name in results:
            runs = list(results[name][ratio].values())
            metrics = [r.metric for r in runs if r.metric is not None]
            p, steps = p_values.get((name, ratio), 1.0), steps_of(pool, ratio)
            found[name][ratio] = Outcome(
                compare(curve, ends[name][ratio], _data(pool, ratio), sigma=sigma, level=LEVEL), p, p <= 1 - LEVEL,
                statistics.fmean(ends[name][ratio].values()), statistics.fmean(metrics) if metrics else None,
                _to_target(adamw[ratio], results[name][ratio], steps), sum(bool(r.reason) for r in runs),
            )  # fmt: skip
    return found


def _p_values(
    ends: Mapping[str, Mapping[float, Mapping[int, float]]], preset: Preset
) -> dict[tuple[str, float], float]:
    """Of each contender at each data ratio, corrected for all of them."""
    rivals = {f"{name} {ratio}": (name, ratio) for name in ends if name != ADAMW for ratio in preset.compared}
    single = {key: paired_p(ends[name][ratio], ends[ADAMW][ratio]) for key, (name, ratio) in rivals.items()}
    return {rivals[key]: p for key, p in holm(single).items()}


def _to_target(adamw: Mapping[int, Result], rival: Mapping[int, Result], steps: int) -> float | None:
    """The median over seeds of the steps to AdamW's last loss on that seed's validation curve, over AdamW's steps."""
    times = []
    for seed, result in rival.items():
        if adamw[seed].curve and not adamw[seed].reason and not result.reason:
            times.append(time_to_target([(step, loss) for step, _, loss in result.curve], adamw[seed].curve[-1][2]))
        else:
            times.append(math.inf)
    middle = statistics.median(times) / steps
    return middle if math.isfinite(middle) else None


def _shown(settled: Settled) -> Frozen:
    run = settled.run
    return Frozen(_text(run.program), run.warmup or 0.0, run.decay or "", settled.settings, settled.runs)


def _text(program: Program) -> str:
    return str(replace(program, doc=""))


def limits(target: Target, preset: Preset, contenders: Mapping[str, Contender], law: PowerLaw) -> list[str]:
    """What a validation cannot say."""
    most, rivals = max(preset.compared), [c for name, c in contenders.items() if name != ADAMW]
    said = [f"One target, {target.name}, at data ratios up to {most:g}: larger models may rank otherwise."]
    if not target.has_test:
        said.append("It has no test data: what is compared is the data that settings were chosen on, on other seeds.")
    if (epochs := target.epochs(round(target.steps * max(preset.curve)))) > _MANY_EPOCHS:
        said.append(f"Its text is read {epochs:.0f} times: give a longer one with --text.")
    if others := {*preset.curve} - {preset.tuned}:
        said.append(
            f"At data ratios {', '.join(f'{r:g}' for r in sorted(others))} settings are tuned again from the nearest "
            f"ratio's, in {preset.again}: what that leaves of AdamW's loss there makes its curve too high, and "
            "speedups above 1 too large."
        )
    said.append(
        f"{preset.budget} tune a side, chosen mostly on one seed: tuned a second time a side may end elsewhere, which "
        "the intervals, over seeds and fit, do not hold."
    )
    outcomes = [outcome for c in rivals for outcome in c.outcomes.values()]
    widths = [o.comparison.gap.high - o.comparison.gap.mean for o in outcomes]
    if max(widths, default=0.0) > 0:
        said.append(
            f"{preset.seeds} paired seeds: gaps of less than about {max(widths):.4f} nats would not be told from none."
        )
    if any(o.comparison.extrapolated for o in outcomes):
        said.append("Speedups with + lie beyond AdamW's longest runs: its fitted law says them, no run does.")
    if law.exponent >= STEEPEST * (1 - 1e-6):
        said.append(
            "AdamW's loss stops falling within its own runs, so that its fitted law is nearly flat there: read the gap "
            "in nats, not the speedup."
        )
    if any(o.comparison.flat for o in outcomes):
        said.append(
            "AdamW's loss does not fall with data here, so that no speedup can be read; the gap in nats stands."
        )
    if not preset.sensitivity:
        said.append("No runs at other learning rates: how sensitive a rule is to its own is not measured.")
    return said
