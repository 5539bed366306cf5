"""Whether clip and arcsin can go from Program 4 of the search that found Lion: python benchmarks/program4.py

The program is docs/program4.opt after the algebraic level, tuned in two ways. "peak": the peak learning rate that is
best on each task, which moves the clip and the step together. "step": lr peaks at 1, as in the search, so that the
gradient is clipped to the schedule itself, and the factor 0.0002 of the step is tuned. Each of clip and arcsin is taken
out, in both orders, and judged by paired losses (stepsmith.evaluator.shorten). Appends lines to
benchmarks/results/program4.jsonl.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from stepsmith.dsl import Program
from stepsmith.dsl.simplify import simplify
from stepsmith.evaluator.cuts import cuts
from stepsmith.evaluator.dispatcher import Dispatcher
from stepsmith.evaluator.executors import make_executor
from stepsmith.evaluator.fitness import Trial
from stepsmith.evaluator.json_lines import JsonLines
from stepsmith.evaluator.shorten import Judge, at_its_lr, orders, subsets
from stepsmith.evaluator.trials import scores
from stepsmith.evaluator.tune import PICK_SEEDS

ROOT = Path(__file__).parent
RECORD = ROOT / "results" / "program4.jsonl"
WANTED = ("clip(g, lr) is g", "arcsin(t0) is t0", "arcsin(g) is g")


def main() -> None:
    """Judges both cuts on every task asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", default=["digits", "bytes_b64"])
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    with closing(make_executor(given.workers)) as executor, JsonLines(RECORD, parsed) as record:
        for task, tuned in itertools.product(given.tasks, (peak_tuned, step_tuned)):
            row = judged(task, tuned, Dispatcher(executor))
            record.append(row)
            print(json.dumps(row, indent=1), flush=True)


def parsed(row: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    return f"{row['date']} {row['task']} {row['tuned']}", row


def peak_tuned(text: str, task: str, dispatcher: Dispatcher) -> Program:
    """At the best peak learning rate."""
    return at_its_lr(simplify(Program.parse(text)), (task,), dispatcher)


def step_tuned(text: str, task: str, dispatcher: Dispatcher) -> Program:
    """At the best factor of the step, to a factor of two."""
    assert text.count("0.0002") == 1
    each = [simplify(Program.parse(text.replace("0.0002", f"{0.0002 * 2**n:g}"))) for n in range(-3, 13)]
    found = scores(dispatcher, each, Trial((task,), seeds=PICK_SEEDS))
    return max(found, key=lambda score: score.fitness).program


def judged(task: str, tuned: Callable[[str, str, Dispatcher], Program], dispatcher: Dispatcher) -> dict[str, object]:
    """The verdicts on one task."""
    program = tuned((ROOT.parent / "docs" / "program4.opt").read_text("utf-8"), task, dispatcher)
    chosen = [cut for cut in cuts(program) if cut.what in WANTED]
    assert len(chosen) == 2, [cut.what for cut in cuts(program)]
    judge = Judge(program, (task,), dispatcher, tell=lambda runs, text: print(task, runs, text, file=sys.stderr))
    verdicts = subsets(judge, program, chosen)
    paths = [[cut.what for cut in path] for path in orders(verdicts, chosen)]
    return {
        "date": date.today().isoformat(),
        "task": task,
        "tuned": tuned.__name__.removesuffix("_tuned"),
        "program": str(replace(program, doc="")),
        "runs": judge.runs,
        "verdicts": [str(v) for v in verdicts.values()],
        "orders": paths,
    }


if __name__ == "__main__":
    main()
