"""Does the search find Lion and the Cautious family? python benchmarks/rediscovery.py [--starts momentum] [--seeds N]

Runs the search of benchmarks/rediscovery.toml from each start with each seed, and says which families (`stepsmith
inspect` names them too) the simplified programs of its hall of fame belong to, and when the first of each came. With
`--strategy random constants` the same steps go to those. Each finished run is a line of
benchmarks/results/rediscovery.jsonl, each unfinished one a folder of runs/rediscovery; the same command goes on. A run
of fewer steps (`--steps`) goes on from there when more are asked for, and is then what it would have been with them.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from measure import positive
from pydantic import TypeAdapter

from stepsmith.cli import in_one_line
from stepsmith.discovered.families import families
from stepsmith.dsl import Program
from stepsmith.dsl.simplify import simplify
from stepsmith.evaluator.dispatcher import Dispatcher
from stepsmith.evaluator.executors import make_executor
from stepsmith.evaluator.json_lines import JsonLines
from stepsmith.search.config import SearchConfig, read_config
from stepsmith.search.course import Course, course
from stepsmith.search.elites import hall_of_fame, on_fresh_seeds
from stepsmith.search.ledger import Child
from stepsmith.search.run import SEARCH_VERSION, Progress, commit, create_run, open_run, run_search

HERE = Path(__file__).parent
RECORD = HERE / "results" / "rediscovery.jsonl"
RUNS = Path("runs", "rediscovery")
FAMILIES = ("lion", "cautious")
SEED = 511  # the first
STARTS = {"momentum": "momentum", "adamw": "adamw@bytes_b64"}
HALL = 20  # programs that differ in structure and act unlike, each niche with its share
_HALL_VERSION = 4  # changes with what a hall shows of a run, and with what the families are


@dataclass(frozen=True)
class First:
    """The first row of a family that came through all stages, and the steps and seconds until it was folded."""

    child: int
    steps: int
    seconds: float
    program: str


@dataclass(frozen=True)
class Outcome:
    """A finished run.

    Attributes:
        found: Family -> how the simplified text of the first program of the hall of fame in it reads.
        first: Family -> its first row.
        hall: Simplified programs of the hall of fame, best first, with the fitness in the search and, of the first of
            all and the first of each family, the speedup on unseen seeds.
        course: How the search went over its steps.
    """

    start: str
    strategy: str
    seed: int
    digest: str
    commit: str
    children: int
    steps: int
    seconds: float
    found: dict[str, str]
    first: dict[str, First]
    hall: tuple[tuple[str, float, float | None], ...]
    course: Course


def names_of(text: str) -> list[str]:
    """The families of a program that the machine simplifies."""
    return [family.name for family in families(simplify(Program.parse(text)))]


def run(start: str, strategy: str, seed: int, config: SearchConfig, dispatcher: Dispatcher) -> Outcome:
    """One search, begun or gone on with, and what its hall of fame holds."""
    folder = RUNS / key(start, strategy, seed, digest(config)).replace(" ", "-")
    clock = JsonLines(folder / "clock.jsonl", lambda held: (str(held["round"]), float(held["seconds"])))
    before = max(clock.rows.values(), default=0.0)
    begun = (folder / "ledger.sqlite").exists()
    ledger, _, changed = open_run(folder) if begun else (create_run(folder, config), config, [])
    for what in changed:
        print(f"{folder} goes on elsewhere than it was begun: {what}", flush=True)

    def ticks(now: Progress) -> None:
        clock.append({"round": now.fold.rounds, "seconds": round(before + now.seconds, 1)})

    with closing(ledger), clock:
        fold = run_search(ledger, config, dispatcher, progress=ticks)
        rows, code = list(ledger.children()), ledger.meta()["commit"]
    fame = hall_of_fame(fold, HALL)
    texts = {row.child: str(simplify(Program.parse(row.final))) for row in fame}
    of = {f.name: row.child for row in reversed(fame) for f in families(Program.parse(texts[row.child]))}
    shown = [row for row in fame if row.child in {fame[0].child, *of.values()}]
    seen = {row.child: round(s.mean, 4) for row, s in zip(shown, on_fresh_seeds(fold, dispatcher, shown), strict=True)}
    hall = tuple((texts[row.child], round(row.fitness or 0.0, 4), seen.get(row.child)) for row in fame)
    found = {name: texts[child] for name, child in of.items()}
    return Outcome(
        start, strategy, seed, digest(config), code, len(rows), sum(r.steps for r in rows),
        max(clock.rows.values(), default=0.0), found, first_of_each(rows, clock.rows), hall, course(rows, fold.credit),
    )  # fmt: skip


def first_of_each(rows: list[Child], seconds: Mapping[str, float]) -> dict[str, First]:
    """Of each family the first row that came through all stages."""
    first: dict[str, First] = {}
    steps = 0
    for row in rows:
        steps += row.steps
        if not row.scored:
            continue
        for name in names_of(row.final):
            when = min((s for r, s in seconds.items() if int(r) > row.round), default=math.nan)
            first.setdefault(name, First(row.child, steps, when, row.final))
    return first


def digest(config: SearchConfig) -> str:
    """Tells apart what was run, search and hall of fame; start, seed, strategy and steps stand beside it."""
    text = config.model_copy(update={"seed": 0, "start": (), "strategy": "", "steps": None}).model_dump_json()
    text += f"{SEARCH_VERSION} {HALL} {_HALL_VERSION}"
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def parsed(held: Mapping[str, Any]) -> tuple[str, Outcome]:
    """A run that went on has a line for each length."""
    row = TypeAdapter(Outcome).validate_python(held)
    return f"{key_of(row)} {row.steps}", row


def longest(rows: Iterable[Outcome]) -> dict[str, Outcome]:
    """Of each run the line of most steps."""
    return {key_of(row): row for row in sorted(rows, key=lambda row: row.steps)}


def key_of(row: Outcome) -> str:
    return key(row.start, row.strategy, row.seed, row.digest)


def key(start: str, strategy: str, seed: int, of: str) -> str:
    return f"{start} {strategy} {seed} {of}"


def table(rows: list[Outcome]) -> Iterator[str]:
    """Successes of seeds, and when the first came."""
    yield f"{'start':10} {'strategy':10} {'family':10} {'found':>7}  first row of each seed: children, steps, minutes"
    for start, strategy in dict.fromkeys((r.start, r.strategy) for r in rows):
        some = [r for r in rows if (r.start, r.strategy) == (start, strategy)]
        for name in FAMILIES:
            when = "; ".join(
                f"{f.child:,} {f.steps:,} {f.seconds / 60:.0f}" if (f := r.first.get(name)) else "none" for r in some
            )
            yield f"{start:10} {strategy:10} {name:10} {sum(name in r.found for r in some):3} of {len(some)}  {when}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=list(STARTS))
    parser.add_argument("--strategy", nargs="+", choices=("evolution", "random", "constants"), default=["evolution"])
    parser.add_argument("--seeds", type=positive, default=5, help="[default: 5]")
    parser.add_argument("--first-seed", type=int, default=SEED, help=f"[default: {SEED}]")
    parser.add_argument("--steps", type=positive, help="of each run [default: those of the configuration]")
    parser.add_argument("--config", type=Path, default=HERE / "rediscovery.toml")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    given = parser.parse_args()
    commit()  # later seeds begin hours after the code was loaded
    dispatcher = Dispatcher(make_executor(given.workers or 0))
    wanted = [(start, strategy, seed) for seed in range(given.first_seed, given.first_seed + given.seeds)
              for start in given.starts for strategy in given.strategy]  # fmt: skip
    with closing(dispatcher.executor), JsonLines(RECORD, parsed) as record:
        shown = []
        for start, strategy, seed in wanted:
            options = {"start": (STARTS[start],), "strategy": strategy, "seed": seed, "steps": given.steps}
            config = read_config(given.config, options)
            name = key(start, strategy, seed, digest(config))
            done = longest(record.rows.values())
            if name not in done or done[name].steps < (config.steps or 0):
                done[name] = run(start, strategy, seed, config, dispatcher)
                record.append(asdict(done[name]))
                print(f"{name}: {sorted(done[name].found)}", flush=True)
            shown.append(done[name])
    print("\n".join(table(shown)))


if __name__ == "__main__":
    in_one_line(main)
