"""What went through a funnel: a table, a page with the search's fitness against the stages', and the numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter
from rich.table import Table

from ..evaluator.statistics import Interval
from ..evaluator.validation.funnel import Funnel, Journey, Stage
from ..proxies.whole_file import replace_file
from .page import rendered
from .table import plain_table
from .validation_plots import INK, drawing, svg_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOUR = "#3b82c4"


def write_funnel(found: Funnel, stages: Sequence[Stage], folder: Path) -> None:
    """Writes `funnel.json` and `funnel.html`, each whole."""
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / "funnel.json", TypeAdapter(Funnel).dump_json(found, indent=1).decode() + "\n")
    replace_file(folder / "funnel.html", funnel_page(found, stages))


def funnel_page(found: Funnel, stages: Sequence[Stage]) -> str:
    """The page as HTML, with nothing beside it."""
    from markupsafe import Markup

    names = columns(stages)
    plots = [
        Markup(svg) for svg in (_plot("fitness", found, _against_fitness), _plot("time", found, _over_time)) if svg
    ]
    rows = [dict(zip(names, funnel_row(journey, stages), strict=True)) for journey in found.paths]
    return rendered(
        "funnel_page", columns=names, rows=rows, plots=plots, agreement=found.agreement,
        programs=[journey.candidate for journey in found.paths],
    )  # fmt: skip


@dataclass(frozen=True)
class _Point:
    """A program of a search at the first stage."""

    run: str
    place: int
    fitness: float
    speedup: Interval


def _points(found: Funnel) -> list[_Point]:
    return [
        _Point(j.candidate.name.rpartition(":")[0], j.candidate.child, j.candidate.fitness, j.passed[0].speedup)
        for j in found.paths
        if j.candidate.child is not None and j.candidate.fitness is not None
        if j.passed and j.passed[0].speedup is not None
    ]


def _plot(name: str, found: Funnel, draw: Callable[[Axes, list[_Point]], None]) -> str:
    """SVG; "" where fewer than two programs come from a search and were trained."""
    from matplotlib.figure import Figure

    points = _points(found)
    if len(points) < 2:
        return ""
    with drawing():
        figure = Figure(figsize=(4.6, 3.2), layout="constrained")
        draw(figure.add_subplot(), points)
        return svg_of(figure, name, "search fitness and speedup at the first stage")


def _against_fitness(axes: Axes, points: list[_Point]) -> None:
    for p in points:
        ends = [[p.speedup.mean - p.speedup.low], [p.speedup.high - p.speedup.mean]]
        axes.errorbar(p.fitness, p.speedup.mean, ends, fmt="o", color=_COLOUR, lw=1)
    span = [min(p.fitness for p in points), max(p.fitness for p in points)]
    axes.plot(span, span, color=INK, lw=0.8, ls=":")
    axes.axhline(1, color=INK, lw=0.6)
    axes.set(xlabel="search fitness", ylabel="speedup at the first stage")


def _over_time(axes: Axes, points: list[_Point]) -> None:
    labels: tuple[str, ...] = ("search fitness", "speedup at the first stage")
    for run in dict.fromkeys(p.run for p in points):
        own = [p for p in points if p.run == run]
        places = [p.place for p in own]
        axes.plot(places, [p.fitness for p in own], "o", color=INK, label=labels[0])
        axes.plot(places, [p.speedup.mean for p in own], "s", color=_COLOUR, label=labels[1])
        labels = ("", "")  # those of the first run stand for all
    axes.axhline(1, color=INK, lw=0.6)
    axes.set(xlabel="row of the run", ylabel="over tuned AdamW")
    axes.legend(frameon=False)


def funnel_table(found: Funnel, stages: Sequence[Stage]) -> Table:
    """A row for each path: speedup over tuned AdamW at each stage."""
    title = "speedup over AdamW, both tuned at each stage (95% interval); what is better in the mean goes on"
    return plain_table(title, columns(stages), [funnel_row(journey, stages) for journey in found.paths])


def columns(stages: Sequence[Stage]) -> list[str]:
    """Of the table."""
    return ["program", "search", *(f"{s.name} {s.target}" for s in stages)]


def funnel_row(journey: Journey, stages: Sequence[Stage]) -> list[str]:
    """A program's cells: its search fitness, then its speedup at each stage that it reached."""
    own, by_stage = journey.candidate, {passed.stage: passed for passed in journey.passed}
    cells = [own.name, "" if own.fitness is None else f"{own.fitness:.3f}"]
    for stage in stages:
        passed = by_stage.get(stage.name)
        cells.append("" if passed is None else str(passed.speedup) if passed.speedup else passed.reason)
    return cells
