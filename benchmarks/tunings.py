"""Is a rule ahead however it is tuned? python benchmarks/tunings.py RULE [--against RULE ...] [--target TARGET]

The rule and each rival are tuned several times by other draws, and every tuning is trained on seeds on which nothing
was tuned, chosen or shown. The mean of a tuning over them is one value: the test (Welch's, two-sided, Holm over rivals)
and its interval are over tunings, whose luck an interval over the seeds of one tuning does not hold. Beside them stand
an interval that holds other seeds as well, and the test without normal tunings, by permutation. Speedups are read off
AdamW's law (benchmarks/targets.py). Every finished run is a line of benchmarks/results/targets/TARGET.jsonl, from which
the same command goes on.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from controls import AGAIN
from measure import positive
from rich.console import Console
from scipy import stats
from targets import PRESET, PUBLISHED, RECORDS, TARGETS, measured

from stepsmith.cli import in_one_line
from stepsmith.discovered import load
from stepsmith.evaluator.statistics import Interval
from stepsmith.evaluator.train import use_one_thread
from stepsmith.evaluator.validation.paired_test import holm
from stepsmith.evaluator.validation.pool import TargetPool
from stepsmith.evaluator.validation.power_law import PowerLaw
from stepsmith.evaluator.validation.protocol import Settled, finals, side_by_side, steps_of
from stepsmith.evaluator.validation.record import Record
from stepsmith.evaluator.validation.validate import freeze

SALTS = ("", AGAIN, f"{AGAIN} 2", f"{AGAIN} 3")  # of a tuning's draws
_FIRST = 48  # of the seeds of a comparison: those before are of tables, pages and the A/A test


@dataclass(frozen=True)
class Ahead:
    """A rule against a rival: the gap in nats, below 0 where the rule is ahead, and how AdamW's law reads it.

    `speedup` and `p` are over tunings on these seeds, `speedup_elsewhere` is over tunings and seeds; `p_permuted` asks
    nothing of how tunings are distributed, and for four against four is 2 in 70 at least.
    """

    rival: str
    gap: Interval
    speedup: Interval
    speedup_elsewhere: Interval
    p: float
    p_permuted: float


def against(
    rule: Sequence[Sequence[float]], rivals: Mapping[str, Sequence[Sequence[float]]], law: PowerLaw, data: float
) -> list[Ahead]:
    """A rule beside each rival, of which every tuning has a loss for each of the same seeds."""

    def read(gap: Interval) -> Interval:
        return Interval(*(law.speedup(law.loss(data) + nats, data) for nats in (gap.mean, gap.high, gap.low)))

    ours, theirs = _by_tuning(rule), {name: _by_tuning(losses) for name, losses in rivals.items()}
    tests = {name: stats.ttest_ind(ours, means, equal_var=False) for name, means in theirs.items()}
    corrected = holm({name: float(test.pvalue) for name, test in tests.items()})
    permuted = holm({name: _permuted(ours, means) for name, means in theirs.items()})
    found = []
    for name, test in tests.items():
        gap = Interval(float(ours.mean() - theirs[name].mean()), *map(float, test.confidence_interval(0.95)))
        elsewhere = over_tunings_and_seeds(np.array(rule), np.array(rivals[name]))
        found.append(Ahead(name, gap, read(gap), read(elsewhere), corrected[name], permuted[name]))
    return found


def _by_tuning(losses: Sequence[Sequence[float]]) -> np.ndarray:
    return np.mean(losses, axis=1)


def _permuted(ours: np.ndarray, theirs: np.ndarray) -> float:
    def gap(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        return a.mean(axis) - b.mean(axis)

    return float(stats.permutation_test((ours, theirs), gap, vectorized=True, n_resamples=np.inf).pvalue)


def over_tunings_and_seeds(ours: np.ndarray, theirs: np.ndarray) -> Interval:
    """The mean gap of tunings (rows) on shared seeds (columns), 95%.

    Its variance is that over tunings and that over seeds of the mean gap added up, which counts what is neither twice
    and so is no less than the truth; degrees of freedom are Satterthwaite's.
    """
    gap = ours.mean(axis=0) - theirs.mean(axis=0)
    samples = [ours.mean(axis=1), theirs.mean(axis=1), gap]
    parts = [float(each.var(ddof=1)) / len(each) for each in samples]
    freedom = sum(parts) ** 2 / sum(part**2 / (len(each) - 1) for part, each in zip(parts, samples, strict=True))
    width = float(stats.t.ppf(0.975, freedom)) * math.sqrt(sum(parts))
    return Interval(float(gap.mean()), float(gap.mean()) - width, float(gap.mean()) + width)


def losses_of(pool: TargetPool, rule: str, seeds: int, tell: Callable[[str], None]) -> list[list[float]]:
    """Of each tuning the loss on the test documents for each seed, in nats."""
    [ratio] = PRESET.compared
    preset, steps = replace(PRESET, first_seed=PRESET.first_seed + _FIRST), steps_of(pool, ratio)
    losses = []
    for salt in SALTS:
        settled = freeze(pool, load(rule), PRESET, salt=salt)[ratio]
        results = pool.results(finals(settled.run, preset, seeds, steps))
        losses.append([r.start if r.test is None else r.test for r in results])
        tell(f"{rule}, tuned {salt or 'first'}: {statistics.fmean(losses[-1]):.4f} nats; {_shown(settled)}")
    return losses


def _shown(settled: Settled) -> str:
    return ", ".join(f"{name} {value if isinstance(value, str) else f'{value:.4g}'}"
                     for name, value in settled.settings.items())  # fmt: skip


def table(rule: str, ends: Mapping[str, Sequence[Sequence[float]]], found: Sequence[Ahead]) -> str:
    """A row for the rule and for each rival."""
    header = (
        f"| | loss of each tuning, nats | {rule} over it | also on other seeds | Welch's p, Holm | permuted, Holm |"
    )
    told = {one.rival: f"{one.speedup} | {one.speedup_elsewhere} | {one.p:.2g} | {one.p_permuted:.2g}" for one in found}
    lines = [header, "|---" * 6 + "|"]
    for name, losses in ends.items():
        each = ", ".join(f"{loss:.4f}" for loss in _by_tuning(losses))
        lines.append(f"| {name} | {each} | {told.get(name, ' | | | ')} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rule", metavar="RULE", help="catalogued, a find among them")
    parser.add_argument("--against", nargs="+", default=["adamw"], metavar="RULE")
    parser.add_argument("--target", choices=TARGETS, default=TARGETS[0])
    parser.add_argument("--seeds", type=positive, default=8, help="of each tuning [default: 8]")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    if given.seeds < 2:
        parser.error("--seeds: an interval that holds other seeds wants two at least")
    use_one_thread()
    tell = partial(Console().print, highlight=False, markup=False, soft_wrap=True)
    sides = [given.rule, *given.against]
    with TargetPool(given.target, Record(RECORDS / f"{given.target}.jsonl"), workers=given.workers) as pool:
        ends = side_by_side(pool, lambda name: losses_of(pool, name, given.seeds, tell), sides)
        data = float(pool.target.tokens(steps_of(pool, PRESET.tuned)))
    rivals = {name: ends[name] for name in given.against}
    tell(table(given.rule, ends, against(ends[given.rule], rivals, measured(PUBLISHED)[given.target].law, data)))


if __name__ == "__main__":
    in_one_line(main)
