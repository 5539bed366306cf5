"""Rules of the zoo on a target, tuned alike: python benchmarks/targets.py gpt-100k [NAME ...] [--workers N]

Every finished run appends a line to benchmarks/results/targets/TARGET.jsonl; the same command goes on from there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from stepsmith.discovered import load
from stepsmith.evaluator.train import use_one_thread
from stepsmith.evaluator.validation.pool import TargetPool
from stepsmith.evaluator.validation.protocol import PRESETS, Settled, finals, settle, side_by_side, steps_of
from stepsmith.evaluator.validation.record import Record

RECORDS = Path(__file__).parent / "results" / "targets"
PRESET = PRESETS["table"]
RULES = (
    "adamw", "muon", "lion", "sgd", "momentum", "signum", "rmsprop", "nadamw", "c_adamw", "c_lion", "adabelief",
    "scale", "swan", "sinkgd", "adafactor", "adagrad", "exadam", "signsgd", "soap", "root",
)  # fmt: skip


def say(text: str) -> None:
    print(text, flush=True)


def measure(pool: TargetPool, name: str) -> Settled:
    """Tunes a rule, then trains it on the seeds that are compared; AdamW at the other points of its curve too."""
    program = load(name)
    settled = settle(pool, program, PRESET.tuned, PRESET.budget, tell=lambda text: say(f"{name}: {text}"))
    results = pool.results(finals(settled.run, PRESET.seeds, steps_of(pool, PRESET.tuned)))
    say(f"{name}: test {sum(r.test for r in results) / len(results):.4f} nats after {settled.runs} runs")
    for ratio in PRESET.curve if name == "adamw" else ():
        if ratio != PRESET.tuned:
            again = settle(pool, program, ratio, PRESET.again, [settled.settings])
            pool.results(finals(again.run, PRESET.curve_seeds, steps_of(pool, ratio)))
    return settled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("rules", nargs="*", default=RULES)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    use_one_thread()
    with TargetPool(given.target, Record(RECORDS / f"{given.target}.jsonl"), workers=given.workers) as pool:
        side_by_side(pool, lambda name: measure(pool, name), given.rules)


if __name__ == "__main__":
    main()
