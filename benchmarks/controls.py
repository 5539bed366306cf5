"""Controls of the validation: python benchmarks/controls.py [--target gpt-100k] [--preset NAME] [--workers N]

AdamW tuned a second time by other draws, Muon, Lion, Lion at AdamW's decay, and AdamW at a third of its learning rate,
all against tuned AdamW; with --rules others too, and each of them tuned a second time. Then the A/A test: AdamW on 40
seeds, split at random into sides of four 2,000 times. Every finished run is a line of
benchmarks/results/targets/TARGET.jsonl, from which the same command goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console

from stepsmith.cli import in_one_line
from stepsmith.discovered import load
from stepsmith.evaluator.settings import as_run
from stepsmith.evaluator.train import use_one_thread
from stepsmith.evaluator.validation.paired_test import rejection_share
from stepsmith.evaluator.validation.pool import TargetPool
from stepsmith.evaluator.validation.protocol import PRESETS, TABLE, Preset, Settled, finals, steps_of
from stepsmith.evaluator.validation.record import Record
from stepsmith.evaluator.validation.validate import ADAMW, freeze, validate
from stepsmith.report.validation_page import write_page
from stepsmith.report.validation_table import validation_table

RESULTS = Path(__file__).parent / "results"
RUNS = 40
AGAIN = "again"  # what makes the draws of a second tuning others
CONTROLLED = {**PRESETS, "table": TABLE}  # the latter is that of benchmarks/targets.py, whose runs it takes
Frozen = Mapping[str, dict[float, Settled]]


def changed(settled: Settled, name: str, **changes: float | str) -> Settled:
    """A catalogued rule with some of its settings put in place of its own."""
    settings = {**settled.settings, **changes}
    return replace(settled, settings=settings, run=as_run(load(name), settings))


def again(
    pool: TargetPool, rule: str, preset: Preset, tell: Callable[[str], None], frozen: Frozen
) -> dict[float, Settled]:
    """A rule tuned a second time by other draws, whatever the first ended with."""
    return freeze(pool, load(rule), preset, tell, salt=AGAIN)


def with_decay_of_adamw(frozen: Frozen) -> dict[float, Settled]:
    """Lion at AdamW's decay, as one who swaps optimizers leaves it."""
    return {
        ratio: changed(one, "lion", weight_decay=frozen[ADAMW][ratio].settings["weight_decay"])
        for ratio, one in frozen["lion"].items()
    }


def at_a_third(frozen: Frozen) -> dict[float, Settled]:
    """AdamW at a third of its tuned learning rate."""
    return {ratio: changed(one, "adamw", lr=float(one.settings["lr"]) / 3) for ratio, one in frozen[ADAMW].items()}


def rejections(pool: TargetPool, settled: Settled, preset: Preset) -> str:
    """The A/A test at the ratio where AdamW was tuned."""
    results = pool.results(finals(settled.run, preset, RUNS, steps_of(pool, preset.tuned)))
    losses = [r.test for r in results if r.test is not None]
    share = rejection_share(losses)
    spread = (sum((x - sum(losses) / RUNS) ** 2 for x in losses) / (RUNS - 1)) ** 0.5
    return (
        f"A/A: {RUNS} runs of AdamW, sd {spread:.4f} nats; rejected in {share:.1%} of 2,000 random 4 + 4 splits at 5%"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="gpt-100k")
    parser.add_argument("--preset", choices=CONTROLLED, default="standard")
    parser.add_argument("--rules", nargs="*", default=[], metavar="RULE", help="catalogued rules, finds among them")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    use_one_thread()
    console, preset = Console(), CONTROLLED[given.preset]

    def tell(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    record = Record(RESULTS / "targets" / f"{given.target}.jsonl")
    with TargetPool(given.target, record, workers=given.workers) as pool:
        derived = {
            **{f"{rule} tuned again": partial(again, pool, rule, preset, tell) for rule in ("adamw", *given.rules)},
            "lion at adamw's decay": with_decay_of_adamw,
            "adamw at lr / 3": at_a_third,
        }
        rivals = {name: load(name) for name in ("muon", "lion", *given.rules)}
        found = validate(pool, rivals, preset, given.preset, tell, derived)
        console.print(validation_table(found))
        write_page(found, RESULTS / f"controls-{given.target}-{given.preset}")
        tell(rejections(pool, freeze(pool, load("adamw"), preset)[preset.tuned], preset))


if __name__ == "__main__":
    in_one_line(main)
