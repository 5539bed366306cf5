"""Whether clip and arcsin can go from Program 4 of the search that found Lion: python benchmarks/program4.py

The program is docs/program4.opt after the algebraic level, at the peak learning rate that is best on each task. Each of
the two is taken out, in both orders, and judged by paired losses (stepsmith.evaluator.shorten). Appends a line per task
to benchmarks/results/program4.jsonl.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import date
from pathlib import Path

from stepsmith.dsl import Program
from stepsmith.dsl.simplify import simplify
from stepsmith.evaluator.cuts import cuts
from stepsmith.evaluator.executors import Dispatcher, make_executor
from stepsmith.evaluator.shorten import Judge, at_its_lr, orders, subsets

ROOT = Path(__file__).parent
RECORD = ROOT / "results" / "program4.jsonl"
WANTED = ("clip(g, lr) is g", "arcsin(t0) is t0", "arcsin(g) is g")


def main() -> None:
    """Judges both cuts on every task asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", default=["digits", "bytes_b64"])
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    executor = make_executor(given.workers)
    try:
        for task in given.tasks:
            row = judged(task, Dispatcher(executor))
            with RECORD.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row, indent=1), flush=True)
    finally:
        executor.close()


def judged(task: str, dispatcher: Dispatcher) -> dict[str, object]:
    """The verdicts on one task."""
    program = simplify(Program.parse((ROOT.parent / "docs" / "program4.opt").read_text("utf-8")))
    program = at_its_lr(program, (task,), dispatcher)
    chosen = [cut for cut in cuts(program) if cut.what in WANTED]
    assert len(chosen) == 2, [cut.what for cut in cuts(program)]
    judge = Judge(program, (task,), dispatcher, tell=lambda runs, text: print(task, runs, text, file=sys.stderr))
    verdicts = subsets(judge, program, chosen)
    paths = [[cut.what for cut in path] for path in orders(verdicts, chosen)]
    return {"date": date.today().isoformat(), "task": task, "peak": program.peak, "runs": judge.runs,
            "verdicts": [str(v) for v in verdicts.values()], "orders": paths}  # fmt: skip


if __name__ == "__main__":
    main()
