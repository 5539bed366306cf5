"""What keys save a search, and how much of what it writes is redundant: python benchmarks/repeats.py RUN

Reads the children of a run in order. "Seen before": those that share an identity with an earlier one (behaviour on the
probe, and the live text where that is blind), beside what normal forms would add. "Redundant": statements of children
that the exact and the algebraic level do without. The search that found Lion measured 89.1% and 69.8%.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from stepsmith.cli import in_one_line
from stepsmith.dsl import Program
from stepsmith.dsl.keys import behaviour, behaviour_key, key
from stepsmith.search.breed import at_rms, identity
from stepsmith.search.ledger import Ledger
from stepsmith.search.shares import SEEN_BEFORE, shares

_SIMPLIFIED = 500  # children


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    with Ledger.reading(parser.parse_args().run) as ledger:
        rows = [row for row in ledger.children() if row.identity]
    if not rows:
        parser.error("no child of this run could train")
    first: set[str] = set()
    names: set[str] = set()
    repeats = {"identity": 0, "normal form or behaviour": 0}
    for row in rows:
        program = Program.parse(row.program)
        seen = behaviour(program)
        name = identity(program, seen)
        repeats["identity"] += name in first
        first.add(name)
        form = key(program)
        new = {at_rms(form, seen.rms), at_rms(behaviour_key(program, seen, form), seen.rms)}
        repeats["normal form or behaviour"] += bool(new & names)
        names |= new
    for name, count in repeats.items():
        print(f"seen before, by {name}: {count} of {len(rows)} children, {count / len(rows):.1%}"
              f" (Lion's search: {SEEN_BEFORE:.1%})")  # fmt: skip
    print(shares(rows, _SIMPLIFIED))


if __name__ == "__main__":
    in_one_line(main)
