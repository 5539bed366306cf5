"""Which part of floored_nadam makes the difference? python benchmarks/parts.py [TARGET ...]

Rules of benchmarks/parts, written by hand, which have some of the find's parts, on targets, tuned as all rules are
(benchmarks/targets.py, whose record goes on). They are no finds, and chose nothing; the table is printed and its page
written to benchmarks/results/targets/TARGET-parts/.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from targets import RECORDS, TARGETS, measure

from stepsmith.cli import in_one_line
from stepsmith.discovered import load
from stepsmith.evaluator.train import use_one_thread

PARTS = Path(__file__).parent / "parts"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"[default: {TARGETS[0]}]")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    use_one_thread()
    console = Console()
    programs = {name: load(name) for name in ("nadamw", "floored_nadam")}
    programs |= {path.stem: load(path) for path in sorted(PARTS.glob("*.opt"))}
    for target in given.targets or TARGETS[:1]:
        measure(target, programs, RECORDS / f"{target}-parts", given.workers, console)


if __name__ == "__main__":
    in_one_line(main)
