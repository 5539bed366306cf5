"""A byte GPT of 0.6M parameters, one epoch of the speeches, tuned AdamW: python benchmarks/byte_gpt.py [--workers N]

AdamW begins with what was tuned on gpt-100k, and descends in runs of a sixteenth of the data; then one run reads every
window once. Finished runs are lines of benchmarks/results/targets/gpt-600k.jsonl, from which the same command goes on.
An n-gram model of order 3 has 2.32 bits a byte.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from stepsmith.discovered import load
from stepsmith.evaluator.settings import Settings
from stepsmith.evaluator.train import use_one_thread
from stepsmith.evaluator.tune import PICK_SEEDS, SHOWN_SEEDS, Budget
from stepsmith.evaluator.validation.pool import TargetPool
from stepsmith.evaluator.validation.protocol import settle
from stepsmith.evaluator.validation.record import Record
from stepsmith.evaluator.validation.training import Training

RECORD = Path(__file__).parent / "results" / "targets" / "gpt-600k.jsonl"
BUDGET = Budget(1, 0, 0, 4, 1, PICK_SEEDS[:1])
#: What `stepsmith validate` chose for AdamW on gpt-100k at half of its data.
NEAR: Settings = {
    "lr": 0.004, "beta1": 0.85, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.1, "schedule.warmup": 0.1,
    "schedule.decay": "constant_linear",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    use_one_thread()
    with TargetPool("gpt-600k", Record(RECORD), workers=given.workers) as pool:
        tell = partial(print, flush=True)
        settled = settle(pool, load("adamw"), 1 / 16, BUDGET, [NEAR], tell)
        print(f"settings {settled.settings}", flush=True)
        epoch = pool.target.data.epoch(pool.target.batch)
        [result] = pool.results([Training(settled.run, SHOWN_SEEDS[0], epoch, final=True)])
        assert result.test is not None
        bits = pool.target.bits_per_byte(result.test)
        print(f"one epoch, {epoch} steps: {bits:.3f} bits a byte on unseen speeches, {result.seconds:.0f} s")


if __name__ == "__main__":
    main()
