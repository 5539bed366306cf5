"""Simplification of random programs, each compared with its original: python benchmarks/simplify.py --count 100000

Programs are compared over 20 steps: with the exact level's result bit for bit; that with the algebraic level's to 1e-6
in float64, and in 60-digit arithmetic where float64 disagrees. Every thousand programs appends a line to
benchmarks/results/simplify.jsonl; the same command goes on from there.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Collection, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np

from stepsmith.discovered import entries
from stepsmith.dsl import Program
from stepsmith.dsl.simplify import canonical, simplify
from stepsmith.dsl.simplify.agree import Agreement, agreement
from stepsmith.evaluator.json_lines import JsonLines
from stepsmith.search.mutate import Mutator

RECORD = Path(__file__).parent / "results" / "simplify.jsonl"
CHUNK = 1000
_TIMED = 10  # one program of so many has its canonical form timed
_PLAIN = {"lion45": Mutator("lion45"), "elementwise": Mutator("elementwise")}


def starts() -> list[Program]:
    """Catalogued rules that act on tensors of any shape and keep plain states."""
    rules = [p for e in entries() for p in e.program.parts() if not p.schedule]
    return [p for p in rules if not p.roles and len(p.statements) <= 20 and not p.periods
            and all(s.codec is None and s.kind.plain for s in p.states)
            and not any(s.op in ("repeat", "worker_mean") for s in p.statements)]  # fmt: skip


def program(number: int, roots: list[Program]) -> Program:
    """Random program `number`: one to thirty edits from a catalogued rule."""
    random = np.random.Generator(np.random.Philox(key=[7, number]))
    found = roots[number % len(roots)]
    mutator = list(_PLAIN.values())[number // len(roots) % 2]
    for _ in range(int(random.integers(1, 31))):
        found, _ = mutator.mutate(found, random)
    return found


def chunk(index: int, commit: str) -> dict[str, object]:
    """A thousand programs as a row of the record."""
    roots = starts()
    counts: Counter[str] = Counter()
    unsound: list[str] = []
    before = after = 0
    times: dict[str, list[float]] = {"simplify": [], "canonical": []}
    for number in range(index * CHUNK, (index + 1) * CHUNK):
        original = program(number, roots)
        exact = simplify(original, level="exact")
        begin = process_time()
        short = simplify(original)
        times["simplify"].append(process_time() - begin)
        if number % _TIMED == 0:
            begin = process_time()
            try:
                canonical(original)
            except Exception as error:  # a fault to be mended, and no reason to lose the chunk
                counts["canonical failed"] += 1
                unsound.append(f"{error!r}\n{original}")
            times["canonical"].append(process_time() - begin)
        before, after = before + len(original.statements), after + len(short.statements)
        counts["grew"] += len(short.statements) > len(original.statements) or len(short.states) > len(original.states)
        counts["not idempotent"] += simplify(short) != short
        verdicts = agreement(original, exact, number), agreement(exact, short, number)  # numbers are folded in float64
        counts[f"exact {verdicts[0].name}"] += 1
        counts[f"algebraic {verdicts[1].name}"] += 1
        if verdicts[0] is not Agreement.BITWISE or verdicts[1] is Agreement.UNEQUAL:
            unsound.append(str(original))
    milliseconds = {
        name: {"median": 1e3 * float(np.median(t)), "p99": 1e3 * float(np.quantile(t, 0.99)), "most": 1e3 * max(t)}
        for name, t in times.items()
    }
    return {"commit": commit, "chunk": index, "before": before, "after": after, "counts": dict(sorted(counts.items())),
            "ms": milliseconds, "unsound": unsound}  # fmt: skip


def parsed(row: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    return f"{row['commit']} {row['chunk']}", row


def rows(record: JsonLines[Mapping[str, Any]], commits: Collection[str]) -> list[Mapping[str, Any]]:
    """What has been run on any of these commits, each chunk once."""
    return list({row["chunk"]: row for row in record.rows.values() if row["commit"] in commits}.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--label", default="now", help="what to record the rows under: a commit")
    parser.add_argument("--also", nargs="*", default=[], help="commits with the same simplifier, whose rows count too")
    given = parser.parse_args()
    labels = [*given.also, given.label]
    with JsonLines(RECORD, parsed) as record, ProcessPoolExecutor(given.workers) as pool:
        done = {row["chunk"] for row in rows(record, labels)}
        todo = [i for i in range(-(-given.count // CHUNK)) if i not in done]
        for row in pool.map(partial(chunk, commit=given.label), todo):
            record.append(row)
            print(row["chunk"], row["counts"], flush=True)
    print(summary(rows(record, labels)))


def summary(found: Collection[Mapping[str, Any]]) -> str:
    """All rows together."""
    total: Counter[str] = Counter()
    for row in found:
        total.update(row["counts"])
    statements = [sum(row[side] for row in found) / (CHUNK * len(found)) for side in ("before", "after")]
    lines = [f"{CHUNK * len(found)} programs, {statements[0]:.1f} statements before, {statements[1]:.1f} after"]
    lines += [f"  {name}: {count}" for name, count in sorted(total.items())]
    for name in ("simplify", "canonical"):
        worst = {k: max(row["ms"][name][k] for row in found) for k in ("median", "p99", "most")}
        lines.append(f"  {name}: worst chunk's median {worst['median']:.1f} ms, p99 {worst['p99']:.0f}, "
                     f"most {worst['most']:.0f}")  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    main()
