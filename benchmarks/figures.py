"""What the search does, drawn: python benchmarks/figures.py [--start momentum]

Reads benchmarks/results/rediscovery.jsonl, which benchmarks/rediscovery.py appends to, and writes docs/figures: fitness
over training steps by strategy, what children came to, which edits paid, and the search's fitness beside that on seeds
that it never saw.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rediscovery import RECORD, Outcome, longest, parsed

from stepsmith.cli import in_one_line
from stepsmith.evaluator.json_lines import JsonLines
from stepsmith.report.validation_plots import drawing, svg_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FIGURES = Path(__file__).parents[1] / "docs" / "figures"
_COLOURS = {"evolution": "#3b82c4", "random": "#e07b39", "constants": "#2f9e6e"}
_ENOUGH = 30.0  # tries of a kind of edit below which its share says nothing


def fitness_over_steps(axes: Axes, rows: Sequence[Outcome]) -> None:
    """Median over seeds of the best fitness so far, and the band from least to largest."""
    for strategy, colour in _COLOURS.items():
        some = [r for r in rows if r.strategy == strategy]
        if not some:
            continue
        steps = np.linspace(0, min(r.course.looks[-1].steps for r in some), 41)[1:]
        each = np.array([_best_at(r, steps) for r in some])
        axes.fill_between(steps, each.min(0), each.max(0), color=colour, alpha=0.15, lw=0)
        axes.plot(steps, np.median(each, 0), color=colour, label=f"{strategy}, {len(some)} seeds")
    axes.axhline(1, color="black", lw=0.6)
    axes.set(xlabel="training steps", ylabel="best fitness so far")
    axes.legend(frameon=False)


def _best_at(row: Outcome, steps: np.ndarray) -> np.ndarray:
    """As of the last look until then; before the first score NaN, which a band leaves out."""
    looks = [(0, np.nan), *((look.steps, np.nan if look.best is None else look.best) for look in row.course.looks)]
    when, best = map(np.array, zip(*looks, strict=True))
    return np.asarray(best[np.searchsorted(when, steps, side="right") - 1])


def children_over_steps(axes: Axes, rows: Sequence[Outcome]) -> None:
    """Between looks: shares of children seen before, refused and dropped on the way; all seeds of evolution."""
    names = {"seen_before": "seen before", "rejected": "refused", "dropped": "dropped on the way"}
    counts = [
        [[look.children, *(getattr(look, name) for name in names)] for look in r.course.looks]
        for r in rows if r.strategy == "evolution"
    ]  # fmt: skip
    if not counts:
        return
    length = min(map(len, counts))
    added = np.diff(np.sum([c[:length] for c in counts], axis=0), axis=0, prepend=0)  # (L, 4)
    at = np.arange(1, length + 1) / length
    for column, label in enumerate(names.values(), 1):
        axes.plot(at, added[:, column] / np.maximum(added[:, 0], 1), label=label)
    axes.set(xlabel="share of the training steps", ylabel="share of children", ylim=(0, 1))
    axes.legend(frameon=False)


def edits_that_paid(axes: Axes, rows: Sequence[Outcome]) -> None:
    """Of each kind of edit the share of trained children that were fitter than their parent."""
    totals: defaultdict[str, np.ndarray] = defaultdict(lambda: np.zeros(2))
    for row in rows:
        for name, counts in row.course.edits.items() if row.strategy == "evolution" else ():
            totals[name] += counts
    shown = sorted((wins / tries, name, tries) for name, (tries, wins) in totals.items() if tries >= _ENOUGH)
    axes.barh([f"{name} ({tries:,.0f})" for _, name, tries in shown], [share for share, _, _ in shown], color="#3b82c4")
    axes.set(xlabel="fitter than the parent, share of trained children")


def unseen_against_search(axes: Axes, rows: Sequence[Outcome]) -> None:
    """Of the first of a hall of fame, and of each family there, what the search saw and the speedup on fresh seeds."""
    ends = []
    for strategy, colour in _COLOURS.items():
        fame = [of for r in rows if r.strategy == strategy for of in r.hall]
        pairs = [(fitness, seen) for _, fitness, seen in fame if seen is not None]
        if pairs:
            axes.plot(*zip(*pairs, strict=True), ".", color=colour, label=strategy)
            ends += [x for pair in pairs for x in pair]
    if ends:
        axes.plot([min(ends), max(ends)], [min(ends), max(ends)], ":", color="black", lw=0.8)
        axes.legend(frameon=False)
    axes.set(xlabel="fitness in the search", ylabel="speedup on fresh seeds")


DRAWN: dict[str, Callable[[Axes, Sequence[Outcome]], None]] = {
    "fitness": fitness_over_steps, "children": children_over_steps, "edits": edits_that_paid,
    "unseen": unseen_against_search,
}  # fmt: skip


def latest(rows: Iterable[Outcome], start: str) -> list[Outcome]:
    """Of runs in the order of their record those of the last configuration that has runs of every strategy, or of the
    last of all where none has; each at its longest.
    """
    some = [row for row in rows if row.start == start]
    strategies = defaultdict[str, set[str]](set)
    for row in some:
        strategies[row.digest].add(row.strategy)
    whole = [row.digest for row in some if strategies[row.digest] >= _COLOURS.keys()]
    of = (whole or [row.digest for row in some])[-1:]
    return [row for row in longest(some).values() if row.digest in of]


def draw(rows: Sequence[Outcome], folder: Path, start: str) -> list[Path]:
    """Writes a file for each figure: equal rows give equal bytes."""
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, fill in DRAWN.items():
        with drawing():
            figure = Figure(figsize=(5.0, 3.4), layout="constrained")
            fill(figure.add_subplot(), rows)
            written.append(folder / f"search_{start}_{name}.svg")
            written[-1].write_text(svg_file(figure), "utf-8")
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", default="momentum")
    given = parser.parse_args()
    with JsonLines(RECORD, parsed) as record:
        rows = latest(record.rows.values(), given.start)
    if not rows:
        parser.error(f"{RECORD} holds no finished run from {given.start}; benchmarks/rediscovery.py makes them")
    print("\n".join(map(str, draw(rows, FIGURES, given.start))))


if __name__ == "__main__":
    in_one_line(main)
