"""Is a rule ahead however it is tuned? python benchmarks/tunings.py RULE [--against RULE ...] [--target TARGET]

The rule and each rival are tuned several times by other draws, and every tuning is trained on seeds on which nothing
was tuned, chosen or shown. The mean of a tuning over them is one value: the test (Welch's, two-sided, Holm over rivals)
and its interval are over tunings, whose luck an interval over the seeds of one tuning does not hold. Speedups are read
off AdamW's law (benchmarks/targets.py). Every finished run is a line of benchmarks/results/targets/TARGET.jsonl, from
which the same command goes on.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

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
    """A rule against a rival: the gap in nats, below 0 where the rule is ahead, and how AdamW's law reads it."""

    rival: str
    gap: Interval
    speedup: Interval
    p: float


def against(rule: Sequence[float], rivals: Mapping[str, Sequence[float]], law: PowerLaw, data: float) -> list[Ahead]:
    """The mean losses of a rule's tunings beside those of each rival's."""
    tests = {name: stats.ttest_ind(rule, losses, equal_var=False) for name, losses in rivals.items()}
    corrected = holm({name: float(test.pvalue) for name, test in tests.items()})
    found = []
    for name, test in tests.items():
        low, high = map(float, test.confidence_interval(0.95))
        gap = Interval(statistics.fmean(rule) - statistics.fmean(rivals[name]), low, high)
        ends = (law.speedup(law.loss(data) + nats, data) for nats in (gap.mean, gap.high, gap.low))
        found.append(Ahead(name, gap, Interval(*ends), corrected[name]))
    return found


def losses_of(pool: TargetPool, rule: str, seeds: int, tell: Callable[[str], None]) -> list[float]:
    """Of each tuning the mean loss on the test documents over the seeds, in nats."""
    [ratio] = PRESET.compared
    preset, steps = replace(PRESET, first_seed=PRESET.first_seed + _FIRST), steps_of(pool, ratio)
    means = []
    for salt in SALTS:
        settled = freeze(pool, load(rule), PRESET, salt=salt)[ratio]
        results = pool.results(finals(settled.run, preset, seeds, steps))
        means.append(statistics.fmean(r.start if r.test is None else r.test for r in results))
        tell(f"{rule}, tuned {salt or 'first'}: {means[-1]:.4f} nats; {_shown(settled)}")
    return means


def _shown(settled: Settled) -> str:
    return ", ".join(f"{name} {value if isinstance(value, str) else f'{value:.4g}'}"
                     for name, value in settled.settings.items())  # fmt: skip


def table(rule: str, ends: Mapping[str, Sequence[float]], found: Sequence[Ahead]) -> str:
    """A row for the rule and for each rival."""
    lines = [f"| | loss of each tuning, nats | {rule} over it | p (Holm) |", "|---|---|---|---|"]
    told = {one.rival: f"{one.speedup} | {one.p:.2g}" for one in found}
    for name, losses in ends.items():
        each = ", ".join(f"{loss:.4f}" for loss in losses)
        lines.append(f"| {name} | {each} | {told.get(name, ' | ')} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rule", metavar="RULE", help="catalogued, a find among them")
    parser.add_argument("--against", nargs="+", default=["adamw"], metavar="RULE")
    parser.add_argument("--target", choices=TARGETS, default=TARGETS[0])
    parser.add_argument("--seeds", type=positive, default=8, help="of each tuning [default: 8]")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
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
