"""Measures: python benchmarks/run.py [SECTION ...] [--json FILE]

Each section prints a table and says of each bar whether it is met. One thread, processor time. A missed bar
is a result; only a broken benchmark ends with an error.
"""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

from measure import Report, machine

from stepsmith.evaluator.train import use_one_thread

#: Section -> the file beside this one that measures it.
SECTIONS = {
    "population": "population",
    "agreement": "agreement",
    "child": "child",
    "update": "update",
    "optimizers": "optimizers",
    "ledger": "ledger",
    "throughput": "throughput",
    "tuning": "tuning",
}


def run(name: str) -> dict[str, Any]:
    """Runs and prints one section."""
    section = importlib.import_module(SECTIONS[name])
    print(f"\n{name}: {section.TITLE}", flush=True)
    report: Report = section.measure()
    print(report.as_text(), flush=True)
    return report.as_json()


def describe(facts: dict[str, Any]) -> str:
    """The machine in one line.

    >>> describe({"cores": 2, "load": 0.1})
    'cores 2, load 0.1'
    """
    return ", ".join(f"{name} {fact}" for name, fact in facts.items())


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; default: all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured there too")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"unknown section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    use_one_thread()
    before = machine()
    print(describe(before))
    sections = {name: run(name) for name in arguments.sections or SECTIONS}
    after = machine()
    print(f"\nload {before['load']} at the start, {after['load']} at the end")
    if arguments.json:
        found = {"machine": before, "load at the end": after["load"], "sections": sections}
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
