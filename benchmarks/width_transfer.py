"""Does a learning rate hold at another width? python benchmarks/width_transfer.py [--rule RULE] [--steps N] [--seeds N]

gpt-100k at widths 32, 64 and 128, in the standard parametrisation and in the maximal update parametrisation over its
own width 64 (see evaluator/validation/width_transfer.py), is trained at each learning rate of a grid. The table has the
mean validation loss; the best learning rate is the lowest point of a parabola over log lr through the grid's best and
its neighbours. Some minutes of one core.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Sequence
from functools import cache

import numpy as np

from stepsmith.discovered import load
from stepsmith.dsl import Program
from stepsmith.evaluator.train import Run, use_one_thread
from stepsmith.evaluator.validation.training import Training, train_target
from stepsmith.proxies.targets import at_width, target

TARGET, BASE, WIDTHS = "gpt-100k", 64, (32, 64, 128)
FACTORS = tuple(2.0**k for k in range(5))  # from --lowest on


@cache
def loss(width: int, mup: bool, program: Program, steps: int, seeds: int) -> float:
    """The mean over seeds of the final validation loss."""
    goal = at_width(target(TARGET), width, mup)
    runs = [train_target(goal, Training(Run(program), seed, steps)) for seed in range(seeds)]
    return statistics.fmean(run.validation for run in runs)


def best(rates: Sequence[float], losses: Sequence[float]) -> float:
    """The learning rate with the least loss; one at the grid's end where it lies there."""
    at = int(np.argmin(losses))
    if at in (0, len(rates) - 1):
        return rates[at]
    left, middle, right = losses[at - 1 : at + 2]
    shift = (left - right) / (2 * (left - 2 * middle + right))
    return rates[at] * (rates[at + 1] / rates[at]) ** shift


def show(mup: bool, program: Program, rates: Sequence[float], steps: int, seeds: int) -> None:
    """A parametrisation's table, a row a width as it is done."""
    print("\nmaximal update" if mup else "\nstandard")
    print(f"{'width':>6} {'best lr':>9}  loss at lr " + " ".join(f"{rate:>8.2g}" for rate in rates))
    found = []
    for width in WIDTHS:
        # at its own width the target is the same in both
        losses = [loss(width, mup and width != BASE, program.with_lr(rate), steps, seeds) for rate in rates]
        found.append(best(rates, losses))
        print(f"{width:>6} {found[-1]:>9.3g}  {'':10} " + " ".join(f"{x:>8.4f}" for x in losses), flush=True)
    slope = np.polyfit(np.log(WIDTHS), np.log(found), 1)[0]
    print(f"best lr goes as width^{slope:.2f}; from {WIDTHS[0]} to {WIDTHS[-1]} it moves by "
          f"{math.log2(found[-1] / found[0]):+.2f} powers of two")  # fmt: skip


def main() -> None:
    """Parses the command line, trains, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rule", default="adamw")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--lowest", type=float, default=1e-3, help="of the grid of learning rates")
    wanted = parser.parse_args()
    use_one_thread()
    program, rates = load(wanted.rule), [wanted.lowest * factor for factor in FACTORS]
    for mup in (False, True):
        show(mup, program, rates, wanted.steps, wanted.seeds)


if __name__ == "__main__":
    main()
