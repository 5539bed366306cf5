"""A ledger of a million rows: what an append, a resume and the best program cost, and the memory they take.

Rows are those of a search in their sizes: programs of forty lines at most, a fifth of them scored on all stages.
Resuming and reading run in processes of their own, so that their memory is theirs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
from measure import Check, Report

from stepsmith.discovered import load
from stepsmith.search.config import DEFAULT_STAGES, SearchConfig
from stepsmith.search.ledger import Child, Ledger
from stepsmith.search.run import create_run

TITLE = "a ledger of a million rows"
ROWS, ROUND = 1_000_000, 68  # a default round: 48 trainable children, rejects and repeats
_RESUME = """
import json, resource, sys, time
from pathlib import Path
from stepsmith.evaluator.dispatcher import Dispatcher
from stepsmith.evaluator.executors import Inline
from stepsmith.search.run import open_run, run_search
import torch
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
begin = time.perf_counter()
ledger, config, _ = open_run(Path(sys.argv[1]))
fold = run_search(ledger, config, Dispatcher(Inline()))
seconds = time.perf_counter() - begin
assert fold.children == ledger.count(), fold.counts
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"seconds": seconds, "megabytes": peak / 1024, "before": before / 1024}))
"""
_BEST = """
import json, resource, sys, time
from stepsmith.search.programs import load_any
begin = time.perf_counter()
load_any(sys.argv[1] + ":best")
seconds = time.perf_counter() - begin
print(json.dumps({"seconds": seconds, "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


def measure(rows: int = ROWS) -> Report:
    """Fills a ledger and reads it back."""
    report = Report(("what", "seconds", "peak MB"))
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        # No step is left, so that resuming replays and ends.
        config = SearchConfig(start=("adamw",), steps=1)
        with closing(create_run(run, config)) as ledger:
            each = _fill(ledger, rows)
            size = ledger.path.stat().st_size / 2**20
        report.rows.append((f"append {rows:,} rows ({size:,.0f} MB)", float(np.sum(each)) * ROUND, "-"))
        resumed, best = _in_a_process(_RESUME, run), _in_a_process(_BEST, run)
    report.rows += [("resume", resumed["seconds"], resumed["megabytes"])]
    report.rows += [("best program", best["seconds"], best["megabytes"])]
    report.notes.append(f"a round of {ROUND} rows is one transaction, synced to the disk")
    report.notes.append(f"resuming began at {resumed['before']:.0f} MB, which is Python with torch")
    report.checks = [
        Check("append, median of rounds, ms a row", float(np.median(each)) * 1e3, 1.0),
        Check("resume, seconds", resumed["seconds"], 30.0),
        Check("best program, seconds", best["seconds"], 30.0),
        Check("memory, MB", max(resumed["megabytes"], best["megabytes"]), 2000.0),
    ]
    return report


def _fill(ledger: Ledger, rows: int) -> list[float]:
    """Seconds a row, of every round."""
    seconds = []
    for number, children in enumerate(_rounds(rows)):
        begin = time.perf_counter()
        ledger.commit_round(children, [(number, stage, 1, "host", 0.1, "") for stage in range(9)])
        seconds.append((time.perf_counter() - begin) / len(children))
    return seconds


def _rounds(rows: int) -> Iterator[list[Child]]:
    random = np.random.default_rng(0)
    text = str(load("exadam"))
    for first in range(0, rows, ROUND):
        yield [_row(k, first // ROUND, text, random) for k in range(first, min(rows, first + ROUND))]


def _row(number: int, round_: int, text: str, random: np.random.Generator) -> Child:
    """A row: rejected, an alias of a start, dropped at some stage, or scored."""
    program = text.replace("def exadam(", f"def found_{number}(")
    parent = int(random.integers(number)) if number else None
    draw = random.random() if number else 1.0
    state, elastic = (int(random.integers(3)) for _ in range(2))
    common = Child(number, round_, parent, "wire+insert", program, statements=30, state=state, elastic=elastic)
    if draw < 0.25:
        return replace(common, reason="rejected: no update")
    common = replace(common, skeleton=f"{int(random.integers(4 * number + 1)):016x}")
    identity = f"{int(random.integers(2**62)):032x}:{int(random.integers(9))}"
    if draw < 0.3:
        return replace(common, identity=identity, alias_of=0, rms=1.0)
    stages = len(DEFAULT_STAGES) if draw > 0.8 else int(random.integers(1, len(DEFAULT_STAGES)))
    fitness = float(random.random())
    scores = tuple(
        {"fitness": fitness, "speedups": ((fitness, fitness),), "losses": ((2.5, 2.5),), "dropped": False}
        for _ in range(stages)
    )
    done = stages == len(DEFAULT_STAGES)
    return replace(
        common, identity=identity, rms=1.0, scores=scores, final=program, steps=400, operations=30.0,
        fitness=fitness if done else None, reason="" if done else f"dropped: stage {stages}",
    )  # fmt: skip


def _in_a_process(script: str, run: Path) -> dict[str, float]:
    done = subprocess.run([sys.executable, "-c", script, str(run)], capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found
