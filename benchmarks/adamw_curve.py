"""Is AdamW's curve tuned enough for the speedups that are read off it? python benchmarks/adamw_curve.py [TARGET ...]

The tables (benchmarks/targets.py) tune AdamW at data ratio 1/2 in as many runs as every rule, and at the two other
lengths of its curve again from there in few. Here those lengths have as many runs as the first, and every speedup is
read off that curve as well. Nothing is written but the record of runs, from which the same command goes on.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping
from dataclasses import replace

from rich.console import Console
from targets import PRESET, PUBLISHED, RECORDS, found_here, measured, parsed

from stepsmith.cli import in_one_line
from stepsmith.discovered import load
from stepsmith.evaluator.validation.pool import TargetPool
from stepsmith.evaluator.validation.protocol import Preset, steps_of
from stepsmith.evaluator.validation.record import Record
from stepsmith.evaluator.validation.speedup import Losses, compare
from stepsmith.evaluator.validation.validate import ADAMW, curve_of, ends_of, final_results, freeze
from stepsmith.report.table import plain_table
from stepsmith.report.validation_table import shown_speedup

Curve = Mapping[float, Losses]  # of tuned AdamW, by data and seed
SOLID = replace(PRESET, again=PRESET.budget)


def trained(pool: TargetPool, preset: Preset) -> Curve:
    """AdamW tuned and trained at every length."""
    frozen = freeze(pool, load("adamw"), preset, baseline=True)
    return curve_of(pool, final_results(pool, frozen, preset, baseline=True), preset)


def speedups(rivals: Mapping[str, Losses], data: float, *curves: Curve) -> list[tuple[str, ...]]:
    """Of each rival by each curve."""
    return [(name, *(shown_speedup(compare(c, losses, data)) for c in curves)) for name, losses in rivals.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given = parsed(parser)
    console, [ratio] = Console(), PRESET.compared
    for name in given.targets:
        with TargetPool(name, Record(RECORDS / f"{name}.jsonl"), workers=given.workers) as pool:
            few, many = trained(pool, PRESET), trained(pool, SOLID)
            data = float(pool.target.tokens(steps_of(pool, ratio)))
        losses = [(f"{at / data * ratio:.2g}", *(f"{statistics.fmean(c[at].values()):.4f}" for c in (few, many)))
                  for at in few]  # fmt: skip
        budgets = [f"{preset.again} at the other lengths" for preset in (PRESET, SOLID)]
        console.print(plain_table(f"{name}: AdamW's loss in nats", ("data ratio", *budgets), losses))
        rivals = {
            rule: ends_of(contender.results[ratio], PRESET)
            for table in (PUBLISHED, found_here())
            for rule, contender in measured(table)[name].contenders.items()
            if rule != ADAMW
        }
        console.print(plain_table("Speedups by either curve", ("rule", *budgets), speedups(rivals, data, few, many)))


if __name__ == "__main__":
    in_one_line(main)
