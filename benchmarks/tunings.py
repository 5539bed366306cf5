"""Is a rule ahead however it is tuned? python benchmarks/tunings.py RULE [--against RULE ...] [--target TARGET]

The rule, AdamW and each rival are tuned four times, by draws and picking seeds of each tuning's own, and every tuning
is trained on seeds on which nothing was tuned, chosen or shown. The mean of a tuning over them is one value: the test
(Welch's, two-sided, Holm over rivals) and its interval are over tunings, whose luck an interval over the seeds of one
tuning does not hold. Beside them stand an interval that holds other seeds and the doubt about AdamW's law as well, the
test without normal tunings, by permutation, and how often the paired test of a table tells two tunings of one rule
apart. Speedups are AdamW's data for a rival's loss over its data for the rule's, by AdamW's law
(benchmarks/targets.py). Every finished run is a line of benchmarks/results/targets/TARGET.jsonl, from which the same
command goes on.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations

import numpy as np
from measure import positive
from rich.console import Console
from scipy import stats
from targets import PRESET, PUBLISHED, RECORDS, TARGETS, measured

from stepsmith.cli import in_one_line
from stepsmith.discovered import load
from stepsmith.evaluator.statistics import Interval
from stepsmith.evaluator.train import use_one_thread
from stepsmith.evaluator.validation.paired_test import holm, paired_p
from stepsmith.evaluator.validation.pool import TargetPool
from stepsmith.evaluator.validation.power_law import PowerLaws, fit_power_laws
from stepsmith.evaluator.validation.protocol import Preset, Settled, finals, side_by_side, steps_of
from stepsmith.evaluator.validation.record import Record
from stepsmith.evaluator.validation.speedup import Losses, drawn_means
from stepsmith.evaluator.validation.validate import ADAMW, curve_of, freeze

TUNINGS = 4
BASELINE = "adamw"
_PICKED = 9_200  # the first picking seed, of which each tuning has two
_FIRST = 56  # of the seeds of a comparison: those before are of tables, pages, the A/A test and an earlier comparison
_DRAWS = 4000  # of laws and gaps


@dataclass(frozen=True)
class Ahead:
    """A rule against a rival: the gap in nats, below 0 where the rule is ahead, and how AdamW's law reads it.

    `speedup` and `p` are over tunings on these seeds; `speedup_elsewhere` is over tunings, seeds and what AdamW's law
    may be; `p_permuted` asks nothing of how tunings are distributed, and for four against four is 2 in 70 at least.
    """

    rival: str
    gap: Interval
    speedup: Interval
    speedup_elsewhere: Interval
    p: float
    p_permuted: float


@dataclass(frozen=True)
class Spread:
    """A mean gap in nats, its standard error, and the degrees of freedom of that."""

    mean: float
    error: float
    freedom: float

    def drawn(self, rng: np.random.Generator) -> np.ndarray:
        """Gaps that it leaves open. Shape (N,)."""
        return self.mean + self.error * rng.standard_t(self.freedom, size=_DRAWS)


def against(
    rule: Sequence[Sequence[float]], rivals: Mapping[str, Sequence[Sequence[float]]], curve: Mapping[float, Losses]
) -> list[Ahead]:
    """A rule beside each rival, AdamW among them, of which every tuning has a loss for each of the same seeds.

    Args:
        rule: Losses in nats, by tuning and seed.
        rivals: The same by name.
        curve: Losses of tuned AdamW by data and seed.
    """
    law = fit_power_laws(list(curve), np.array([[statistics.fmean(of.values()) for of in curve.values()]]))
    laws = drawn_laws(curve, float(_by_tuning(rivals[BASELINE]).std(ddof=1)))
    ours, theirs = _by_tuning(rule), {name: _by_tuning(losses) for name, losses in rivals.items()}
    tests = {name: stats.ttest_ind(ours, means, equal_var=False) for name, means in theirs.items()}
    corrected = holm({name: float(test.pvalue) for name, test in tests.items()})
    permuted = holm({name: _permuted(ours, means) for name, means in theirs.items()})
    found = []
    for name, test in tests.items():
        loss = theirs[name].mean()
        gap = Interval(float(ours.mean() - loss), *map(float, test.confidence_interval(0.95)))
        here = law.speedup(loss + np.array([gap.mean, gap.high, gap.low]), law.data_for(loss)).tolist()
        gaps = over_tunings_and_seeds(np.array(rule), np.array(rivals[name])).drawn(np.random.default_rng(0))
        others = laws.speedup(loss + gaps, laws.data_for(loss))
        elsewhere = Interval(here[0], *np.quantile(others, [0.025, 0.975]).tolist())
        found.append(Ahead(name, gap, Interval(*here), elsewhere, corrected[name], permuted[name]))
    return found


def drawn_laws(curve: Mapping[float, Losses], over_tunings: float) -> PowerLaws:
    """Laws of an AdamW whose every length has other seeds, and another tuning of the standard deviation given."""
    rng = np.random.default_rng(1)
    columns = [
        statistics.fmean(losses.values())
        + drawn_means(list(losses.values()), 0.95, _DRAWS, rng)
        + rng.normal(0, over_tunings, _DRAWS)
        for losses in curve.values()
    ]
    return fit_power_laws(list(curve), np.stack(columns, axis=1))


def _by_tuning(losses: Sequence[Sequence[float]]) -> np.ndarray:
    return np.mean(losses, axis=1)


def _permuted(ours: np.ndarray, theirs: np.ndarray) -> float:
    def gap(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        return a.mean(axis) - b.mean(axis)

    return float(stats.permutation_test((ours, theirs), gap, vectorized=True, n_resamples=np.inf).pvalue)


def over_tunings_and_seeds(ours: np.ndarray, theirs: np.ndarray) -> Spread:
    """The mean gap of tunings (rows) on shared seeds (columns).

    Its variance is that over tunings and that over seeds of the mean gap added up, which counts what is neither twice
    and so is no less than the truth; degrees of freedom are Satterthwaite's.
    """
    gap = ours.mean(axis=0) - theirs.mean(axis=0)
    samples = [ours.mean(axis=1), theirs.mean(axis=1), gap]
    parts = [float(each.var(ddof=1)) / len(each) for each in samples]
    squares = sum(part**2 / (len(each) - 1) for part, each in zip(parts, samples, strict=True))
    freedom = sum(parts) ** 2 / squares if squares else math.inf
    return Spread(float(gap.mean()), math.sqrt(sum(parts)), freedom)


def told_apart(losses: Sequence[Sequence[float]], per_side: int = 4) -> float:
    """How often the paired test on a few of the seeds tells two tunings of one rule apart at 5%."""
    seeds = list(combinations(range(len(losses[0])), min(per_side, len(losses[0]))))
    pairs = [
        ({i: one[i] for i in some}, {i: other[i] for i in some})
        for one, other in combinations(losses, 2)
        for some in seeds
    ]
    return statistics.fmean(paired_p(one, other) <= 0.05 for one, other in pairs)


def preset_of(number: int) -> Preset:
    """What a tuning trains: on picking seeds of its own, and then on those that all share."""
    picked = tuple(range(_PICKED + 2 * number, _PICKED + 2 * number + 2))
    budget = replace(PRESET.budget, seeds=picked)
    return replace(PRESET, budget=budget, first_seed=PRESET.first_seed + _FIRST)


def losses_of(pool: TargetPool, rule: str, seeds: int, tell: Callable[[str], None]) -> list[list[float]]:
    """Of each tuning the loss on the test documents for each seed, in nats."""
    [ratio] = PRESET.compared
    steps, losses = steps_of(pool, ratio), []
    for number in range(TUNINGS):
        preset, name = preset_of(number), f"tuning {number + 1}"
        settled = freeze(pool, load(rule), preset, salt=name)[ratio]
        results = pool.results(finals(settled.run, preset, seeds, steps))
        losses.append([r.start if r.test is None else r.test for r in results])
        tell(f"{rule}, {name}: {statistics.fmean(losses[-1]):.4f} nats; {_shown(settled)}")
    return losses


def _shown(settled: Settled) -> str:
    return ", ".join(f"{name} {value if isinstance(value, str) else f'{value:.4g}'}"
                     for name, value in settled.settings.items())  # fmt: skip


def table(rule: str, ends: Mapping[str, Sequence[Sequence[float]]], found: Sequence[Ahead]) -> str:
    """A row for the rule and for each rival."""
    header = (
        f"| | loss of each tuning, nats | told from itself | {rule} over it | on other seeds, by other laws "
        "| Welch's p, Holm | permuted, Holm |"
    )
    told = {one.rival: f"{one.speedup} | {one.speedup_elsewhere} | {one.p:.2g} | {one.p_permuted:.2g}" for one in found}
    lines = [header, "|---" * 7 + "|"]
    for name, losses in ends.items():
        each = ", ".join(f"{loss:.4f}" for loss in _by_tuning(losses))
        lines.append(f"| {name} | {each} | {told_apart(losses):.0%} | {told.get(name, ' | | | ')} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rule", metavar="RULE", help="catalogued, a find among them")
    parser.add_argument("--against", nargs="+", default=[], metavar="RULE", help=f"beside {BASELINE}")
    parser.add_argument("--target", choices=TARGETS, default=TARGETS[0])
    parser.add_argument("--seeds", type=positive, default=8, help="of each tuning [default: 8]")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    if given.seeds < 2:
        parser.error("--seeds: an interval that holds other seeds wants two at least")
    use_one_thread()
    tell = partial(Console().print, highlight=False, markup=False, soft_wrap=True)
    rivals = list(dict.fromkeys([BASELINE, *given.against]))
    sides = [given.rule, *rivals]
    with TargetPool(given.target, Record(RECORDS / f"{given.target}.jsonl"), workers=given.workers) as pool:
        ends = side_by_side(pool, lambda name: losses_of(pool, name, given.seeds, tell), sides)
        curve = curve_of(pool, measured(PUBLISHED)[given.target].contenders[ADAMW].results, PRESET)
    tell(table(given.rule, ends, against(ends[given.rule], {name: ends[name] for name in rivals}, curve)))


if __name__ == "__main__":
    in_one_line(main)
