"""Strategies and variants of evolution at equal training steps: python benchmarks/strategies.py

Each finished search appends a line to benchmarks/results/strategies.jsonl; the same command goes on from there and
prints the table. A search's result is the program that picking seeds choose among its eight fittest, shown on
further seeds, and which families its hall of fame holds (benchmarks/rediscovery.py).
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

from measure import positive
from rediscovery import FAMILIES, HALL, names_of

from stepsmith.cli import in_one_line
from stepsmith.dsl import Program
from stepsmith.dsl.keys import Behaviour, structural_key
from stepsmith.evaluator.dispatcher import Dispatcher
from stepsmith.evaluator.executors import make_executor
from stepsmith.evaluator.json_lines import JsonLines
from stepsmith.search import breed
from stepsmith.search.config import SearchConfig, valid_config
from stepsmith.search.elites import best_on_fresh_seeds, hall_of_fame
from stepsmith.search.run import SEARCH_VERSION, create_run, run_search

_FITNESS = SearchConfig().stages[-1].model_copy(update={"drop": 0.0})


def _by_text(program: Program, seen: Behaviour) -> str:
    """Repeats are found by live code and scale, not by what it does on the probe."""
    return breed.at_rms(structural_key(program.with_own_lr(1.0)), seen.rms)


def _never(*given: object) -> bool:
    return False


#: Name -> what stands in for a function of `breed`: parts of the search that no user would want to do without. Where
#: scale is not kept or repeats are known by text, what acts as its parent is bred all the time and would be refused:
#: "ornaments", which refuses none of them, is beside what those two are seen.
REPLACED: dict[str, dict[str, Callable[..., object]]] = {
    "no scale": {"kept_scale": lambda now, scale: now, "is_ornament": _never},
    "key of text": {"identity": _by_text, "is_ornament": _never},
    "ornaments": {"is_ornament": _never},
}
#: Name -> what differs from the default configuration, which restarts after 30 rounds without a better program: a
#: search of a million steps has a dozen rounds in all, so restarts are tried where they come rather than left out.
VARIANTS: dict[str, dict[str, object]] = {
    "evolution": {},
    "random": {"strategy": "random"},
    "constants": {"strategy": "constants"},
    "islands": {"niches": False, "islands": 4, "population": 25},
    "one population": {"niches": False},
    "no hurdles": {"stages": (_FITNESS,)},
    "every seed": {"stages": (*SearchConfig().stages[:-1], _FITNESS)},
    "no ageing": {"population": 1_000_000},
    "restarts": {"patience": 4},
    "no dead code": {"tidy": 1.0},
    "no tuning": {"tune": 0.0},
    "no front": {"front": 0.0},
    "no mixing": {"mix": 0.0},
    "no parsimony": {"parsimony": 0.0},
    "adapt": {"adapt": True},
    "edits 4": {"edits": 4.0},
    **{name: {} for name in REPLACED},
}
RECORD = Path(__file__).parent / "results" / "strategies.jsonl"


def one(strategy: str, seed: int, steps: int, start: str, dispatcher: Dispatcher) -> dict[str, object]:
    """One search and what it found, as a row of the record."""
    config = valid_config({"seed": seed, "steps": steps, "start": (start,)} | VARIANTS[strategy])
    with tempfile.TemporaryDirectory() as folder:
        ledger = create_run(Path(folder), config)
        with replaced(strategy):
            fold = run_search(ledger, config, dispatcher)
        seconds = ledger.seconds()
        ledger.close()
    found = best_on_fresh_seeds(fold, dispatcher)
    families = {name for row in hall_of_fame(fold, HALL) for name in names_of(row.final)}
    return {
        "strategy": strategy, "seed": seed, "budget": steps, "start": start, "version": SEARCH_VERSION,
        "steps": fold.steps, "rounds": fold.rounds, "restarts": fold.restarts,
        "children": fold.children, "repeats": fold.counts["alias"], "worker_seconds": round(seconds),
        "in_search": fold.best.fitness if fold.best else None,
        "unseen": found.fitness if found else None, "program": str(found.program) if found else None,
        "families": sorted(families),
    }  # fmt: skip


def replaced(strategy: str) -> AbstractContextManager[object]:
    """The search with the functions of a variant in the place of its own; children are bred in this process."""
    functions = REPLACED.get(strategy)
    return mock.patch.multiple(breed, **functions) if functions else nullcontext()


def key(strategy: str, seed: int, steps: int, start: str, version: int = SEARCH_VERSION) -> str:
    return f"{strategy} {seed} {steps} {start} {version}"


def parsed(row: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    return key(row["strategy"], row["seed"], row["budget"], row["start"], row.get("version", 0)), row


def table(rows: Collection[Mapping[str, Any]], budget: int, start: str, version: int) -> str:
    """Medians over seeds of a version's searches, as text."""
    header = f"{'strategy':14} {'seeds':>5} {'median':>7} {'Lion':>5} {'cautious':>8} {'steps':>6} {'children':>8}"
    lines = [f"{header} {'repeats':>7}  speedup over tuned AdamW on unseen seeds, each search"]
    for strategy in dict.fromkeys([*VARIANTS, *(r["strategy"] for r in rows)]):  # an earlier version had others
        wanted = (strategy, budget, start, version)
        some = [r for r in rows if (r["strategy"], r["budget"], r["start"], r.get("version")) == wanted]
        values = sorted(float(str(r["unseen"])) for r in some if r["unseen"] is not None)
        if values:
            each = " ".join(f"{v:.3f}" for v in values)
            lines.append(f"{strategy:14} {len(some):5} {statistics.median(values):7.3f} {_counts(some)}  {each}")
    return "\n".join(lines)


def _counts(rows: Sequence[Mapping[str, Any]]) -> str:
    """Families, steps, children and repeats: blank for searches of the first versions, which did not record them."""
    if not all("families" in r for r in rows):
        return " " * 38
    lion, cautious = (sum(name in r["families"] for r in rows) for name in FAMILIES)
    steps, children = (statistics.median(r[name] for r in rows) for name in ("steps", "children"))
    repeats = sum(r["repeats"] for r in rows) / sum(r["children"] for r in rows)
    return f"{lion:5} {cautious:8} {steps / 1e6:5.2f}M {children:8.0f} {repeats:7.0%}"


def main() -> None:
    """Reads the command line, runs what is missing, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=positive, default=1_000_000, help="of each search [default: 1,000,000]")
    parser.add_argument("--seeds", type=positive, default=3, help="from 101 on [default: 3]")
    parser.add_argument("--start", default="momentum")
    parser.add_argument("--only", choices=sorted(VARIANTS), nargs="+", default=list(VARIANTS), help="of the variants")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--version", type=positive, default=SEARCH_VERSION, help="an earlier one's table; runs nothing")
    arguments = parser.parse_args()
    wanted = range(101, 101 + arguments.seeds) if arguments.version == SEARCH_VERSION else ()
    dispatcher = Dispatcher(make_executor((arguments.workers or 0) if wanted else 0))
    with closing(dispatcher.executor), JsonLines(RECORD, parsed) as record:
        for seed in wanted:
            for strategy in arguments.only:
                search = (strategy, seed, arguments.steps, arguments.start)
                if key(*search) not in record.rows:
                    row = one(*search, dispatcher)
                    record.append(row)
                    print(strategy, seed, row["unseen"], flush=True)
    print(table(record.rows.values(), arguments.steps, arguments.start, arguments.version))


if __name__ == "__main__":
    in_one_line(main)
