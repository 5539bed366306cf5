"""The plots of a validation, as SVG to stand in a page: equal input gives equal bytes."""

from __future__ import annotations

import io
import math
import re
import statistics
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

from ..evaluator.statistics import Interval
from ..evaluator.validation.power_law import HIGHEST, LOWEST, fit_power_law
from ..evaluator.validation.training import Result
from ..evaluator.validation.validate import ADAMW, Contender, Validation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#010203"  # becomes the colour of the page's text
_COLOURS = ("#3b82c4", "#e07b39", "#2f9e6e", "#c2569b", "#8b6fd0", "#b8932b", "#d0504f", "#2aa3b0", "#8a9a3b",
            "#a0725a")  # fmt: skip
_MARKERS = (("s", "■"), ("^", "▲"), ("D", "◆"), ("v", "▼"), ("P", "✚"), ("h", "⬢"), ("*", "★"), ("<", "◀"), (">", "▶"))
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "stepsmith", "text.parse_math": False, "axes.unicode_minus": False,
    "axes.formatter.useoffset": False,
    "font.size": 9.0, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": INK,
    "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK, "lines.markersize": 4.5,
}  # fmt: skip
_TICKS = (
    [k / 20 for k in range(10, 41)],
    [k / 10 for k in range(2, 41)],
    [0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10],
    [2.0**k for k in range(-12, 13)],
    [8.0**k for k in range(-8, 9)],
)
_ABOUT = {
    "loss": "test loss over the data ratio",
    "speedup": "speedup of each contender with its interval",
    "curves": "validation loss over steps",
    "sensitivity": "validation loss over the factor on the learning rate",
    "time": "speedup in data and in time",
}
_SHOWN = 8.0  # the axis of speedups ends at this factor unless a mean lies beyond; intervals that go on have arrows


@dataclass(frozen=True)
class Look:
    """How a contender is drawn: `glyph` is its marker as text."""

    colour: str
    marker: str
    glyph: str


def looks(found: Validation) -> dict[str, Look]:
    """A look for each contender; AdamW has the colour of the text."""
    found_looks = {}
    others = [name for name in found.contenders if name != ADAMW]
    for i, name in enumerate(others):
        marker, glyph = _MARKERS[i % len(_MARKERS)]
        found_looks[name] = Look(_COLOURS[i % len(_COLOURS)], marker, glyph)
    return {ADAMW: Look(INK, "o", "●"), **found_looks}


def glyphs(found: Validation) -> list[tuple[str, str, str]]:
    """Name, glyph and colour of each contender, "" for that of the text: a key that pages write out."""
    return [(name, look.glyph, "" if look.colour == INK else look.colour) for name, look in looks(found).items()]


def ratios(found: Validation) -> list[float]:
    """Data ratios at which contenders were compared."""
    return sorted({ratio for c in found.contenders.values() for ratio in c.outcomes})


def wall_clock(found: Validation, contender: Contender) -> float:
    """What a speedup in data is multiplied with to be one in time: AdamW's seconds a step over the contender's."""
    own = contender.cost.seconds
    return found.contenders[ADAMW].cost.seconds / own if own > 0 else math.nan


def plots(found: Validation) -> dict[str, str]:
    """SVG by name, "" where there is nothing to draw: loss, speedup, curves, sensitivity, time."""
    drawers: dict[str, Callable[[Validation], Figure | None]] = {
        "loss": loss_over_data, "speedup": speedups, "curves": curves, "sensitivity": sensitivity, "time": times,
    }  # fmt: skip
    drawn = {}
    for name, draw in drawers.items():
        with drawing():
            figure = draw(found)
            drawn[name] = "" if figure is None else svg_of(figure, name, _ABOUT[name])
    return drawn


@contextmanager
def drawing() -> Iterator[None]:
    """Matplotlib's defaults with ours, whatever a user has set; as it was afterwards."""
    import matplotlib

    with warnings.catch_warnings(), matplotlib.rc_context():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser has its own fonts
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def loss_over_data(found: Validation) -> Figure | None:
    """Test losses of all seeds over the data ratio, and AdamW's law."""
    figure, axes = _figure(3.2)
    drawn, failed = [], 0
    for i, (name, look) in enumerate(looks(found).items()):
        shift = 1.06 ** ((i - len(found.contenders) / 2) / max(1, len(found.contenders) / 2)) if i else 1.0
        for ratio, results in sorted(found.contenders[name].results.items()):
            good = [r.test for r in results.values() if _is_number(r.test) and not r.reason]
            failed += len(results) - len(good)
            if len(good) < len(results):
                _mark_failed(axes, [ratio * shift], look.colour)
            axes.plot([ratio * shift] * len(good), good, ".", color=look.colour, alpha=0.45, ms=4, mew=0)
            if good:
                axes.plot(ratio * shift, statistics.fmean(good), look.marker, color=look.colour, mfc=look.colour)
            drawn += good
    if not drawn:
        return None
    law = _law(found.contenders[ADAMW].results)
    if law:
        axes.plot(*law, color=INK, lw=1, alpha=0.7, zorder=1)
        drawn += law[1]
    _fit_y(axes, drawn)
    at = sorted({ratio for c in found.contenders.values() for ratio in c.results})
    _log_axis(axes, at[0] / 1.15, at[-1] * 1.15, at)
    axes.set_xlabel("data ratio")
    axes.set_ylabel("test loss, nats")
    return figure


def speedups(found: Validation) -> Figure | None:
    """Speedup with its interval, a line for each contender and data ratio."""
    lines = [(c, r, o) for c in _others(found) for r, o in sorted(c.outcomes.items()) if not o.comparison.flat]
    if not lines:
        return None
    figure, axes = _figure(0.75 + 0.25 * len(lines))
    low, high = _extent([o.comparison.speedup for _, _, o in lines])
    for row, (contender, _, outcome) in enumerate(lines):
        look = looks(found)[contender.name]
        _interval(axes, row, outcome.comparison.speedup, (low, high), look, outcome.differs)
    _rows(axes, [f"{_short(c.name)}, {ratio:g}x" for c, ratio, _ in lines])
    _speedup_axis(axes, low, high, "speedup in data")
    return figure


def curves(found: Validation) -> Figure | None:
    """Validation losses during the final runs at the largest data ratio: mean, and from the least to the largest."""
    compared = ratios(found)
    if not compared:
        return None
    figure, axes = _figure(3.2)
    tops, bottoms = [], []
    for name, look in looks(found).items():
        steps, runs = _common(found.contenders[name].results.get(compared[-1], {}))
        if not steps:
            continue
        means = [statistics.fmean(each) for each in runs]
        axes.plot(steps, means, color=look.colour, lw=1.3)
        axes.plot(steps[-1], means[-1], look.marker, color=look.colour, clip_on=False)
        lows, highs = [min(each) for each in runs], [max(each) for each in runs]
        axes.fill_between(steps, lows, highs, color=look.colour, alpha=0.15, lw=0)
        late = [h for s, h in zip(steps, highs, strict=True) if s >= 0.15 * steps[-1]]
        tops.append(max(late))
        bottoms.append(min(lows))
    if not tops:
        return None
    _fit_y(axes, [min(bottoms), max(tops)])
    axes.set_xlim(0, None)
    axes.set_xlabel("step")
    axes.set_ylabel("validation loss, nats")
    _grid(axes, "y")
    return figure


def sensitivity(found: Validation) -> Figure | None:
    """Validation loss over the factor on the tuned learning rate; a cross at the top for runs that came to nothing."""
    factors = sorted({f for c in found.contenders.values() for f in c.sensitivity})
    if not factors:
        return None
    figure, axes = _figure(3.2)
    good: list[float] = []
    for name, look in looks(found).items():
        runs = found.contenders[name].sensitivity
        if not runs:
            continue
        line = [(f, math.nan if run.reason else run.validation) for f, run in sorted(runs.items())]
        axes.plot(*zip(*line, strict=True), marker=look.marker, color=look.colour, lw=1.2)
        _mark_failed(axes, sorted(f for f, run in runs.items() if run.reason), look.colour)
        good += [loss for _, loss in line if math.isfinite(loss)]
    _fit_y(axes, good or [0.0, found.start if math.isfinite(found.start) else 1.0])
    _log_axis(axes, factors[0] / 1.2, factors[-1] * 1.2, factors)
    axes.set_xlabel("factor on the tuned learning rate")
    axes.set_ylabel("validation loss, nats")
    return figure


def times(found: Validation) -> Figure | None:
    """Speedup in data, filled, and in time, hollow, at the largest data ratio."""
    compared = ratios(found)
    lines = [
        c for c in _others(found)
        if compared and compared[-1] in c.outcomes and not c.outcomes[compared[-1]].comparison.flat
    ]  # fmt: skip
    if not lines:
        return None
    pairs = []
    for contender in lines:
        data = contender.outcomes[compared[-1]].comparison.speedup.mean
        pairs.append((data, data * wall_clock(found, contender)))
    figure, axes = _figure(0.75 + 0.25 * len(lines))
    ends = [x for pair in pairs for x in pair if _is_number(x) and x > 0]
    low, high = _extent([Interval(x, x, x) for x in ends])
    for row, (contender, pair) in enumerate(zip(lines, pairs, strict=True)):
        look, shown = looks(found)[contender.name], [x for x in pair if _is_number(x) and x > 0]
        axes.plot(shown, [row] * len(shown), color=look.colour, lw=1.2)
        for x, face in zip(pair, (look.colour, "none"), strict=True):
            if x in shown:
                axes.plot(x, row, look.marker, color=look.colour, mfc=face, ms=6)
    _rows(axes, [_short(c.name) for c in lines])
    _speedup_axis(axes, low, high, "speedup: in data (filled), in time (hollow)")
    return figure


def _others(found: Validation) -> list[Contender]:
    return [c for name, c in found.contenders.items() if name != ADAMW]


def _figure(height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0, height), layout="constrained")
    figure.patch.set_visible(False)
    axes = figure.add_subplot()
    axes.patch.set_visible(False)
    return figure, axes


def _law(results: Mapping[float, Mapping[int, Result]]) -> tuple[list[float], list[float]] | None:
    """AdamW's law through its mean test losses: the fit does not depend on the unit of data, so ratios will do."""
    tests = {ratio: [r.test for r in runs.values() if _is_number(r.test)] for ratio, runs in results.items()}
    means = {ratio: statistics.fmean(each) for ratio, each in sorted(tests.items()) if each}
    if len(means) < 2:
        return None
    law = fit_power_law(list(means), list(means.values()))
    low, high = min(means), max(means)
    data = [low * (high / low) ** (k / 40) for k in range(41)]
    return data, [law.loss(d) for d in data]


def _common(results: Mapping[int, Result]) -> tuple[list[int], list[list[float]]]:
    """Steps at which all runs that came to something were looked at, and their validation losses there."""
    runs = [{step: loss for step, _, loss in r.curve if _is_number(loss)} for r in results.values() if not r.reason]
    steps = sorted(set.intersection(*map(set, runs))) if runs else []
    return steps, [[run[step] for run in runs] for step in steps]


def _interval(axes: Axes, row: int, speedup: Interval, extent: tuple[float, float], look: Look, differs: bool) -> None:
    low, high = extent
    left = speedup.low if low < speedup.low < high else low
    right = speedup.high if low < speedup.high < high else high
    axes.plot([left, right], [row, row], color=look.colour, lw=1.6, alpha=0.8)
    for end, beyond, arrow in ((low, not speedup.low > low, "<"), (high, not speedup.high < high, ">")):
        if beyond:
            axes.plot(end, row, arrow, color=look.colour, clip_on=False, ms=5)
    if _is_number(speedup.mean) and speedup.mean > 0:
        axes.plot(speedup.mean, row, look.marker, color=look.colour, mfc=look.colour if differs else "none", ms=6)


def _extent(intervals: Sequence[Interval]) -> tuple[float, float]:
    """Ends of an axis of speedups: all means, and of the intervals what lies within a factor of `_SHOWN`."""
    means = [i.mean for i in intervals if _is_number(i.mean) and i.mean > 0]
    ends = [e for i in intervals for e in (i.low, i.high) if _is_number(e) and LOWEST < e < HIGHEST]
    near = [min(max(e, 1 / _SHOWN), _SHOWN) for e in ends]
    return min([*means, *near, 0.9]) / 1.08, max([*means, *near, 1.1]) * 1.08


def _speedup_axis(axes: Axes, low: float, high: float, label: str) -> None:
    ticks = next((fine for t in _TICKS if 2 <= len(fine := [x for x in t if low <= x <= high]) <= 8), [1.0])
    _log_axis(axes, low, high, ticks)
    axes.axvline(1, color=INK, lw=0.9, zorder=0)
    axes.set_xlabel(label)


def _log_axis(axes: Axes, low: float, high: float, ticks: Sequence[float]) -> None:
    while len(ticks) > 9:
        ticks = ticks[::2]
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_xticks(list(ticks), [f"{t:.3g}x" for t in ticks])
    axes.set_xticks([], minor=True)
    _grid(axes, "both")


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), list(names))
    axes.tick_params("y", length=0, pad=8)
    axes.spines["left"].set_visible(False)


def _fit_y(axes: Axes, values: Iterable[float]) -> None:
    each = list(values)
    room = 0.06 * (max(each) - min(each)) or 0.05 * abs(max(each)) or 1.0
    axes.set_ylim(min(each) - room, max(each) + 2 * room)


def _mark_failed(axes: Axes, at: Sequence[float], colour: str) -> None:
    axes.plot(at, [0.98] * len(at), "x", color=colour, mew=1.6, ms=6, transform=axes.get_xaxis_transform())


def _grid(axes: Axes, axis: Any) -> None:
    axes.grid(axis=axis, color=INK, alpha=0.12, lw=0.6)
    axes.set_axisbelow(True)


def _is_number(x: float | None) -> TypeGuard[float]:
    return x is not None and math.isfinite(x)


def _short(name: str) -> str:
    """A name that leaves room for the plot."""
    name = " ".join(name.split())
    return name if len(name) <= 22 else f"{name[:10]}…{name[-11:]}"


def svg_file(figure: Figure) -> str:
    """The figure as a file's text: equal figures give equal texts."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return text.getvalue()


def svg_of(figure: Figure, name: str, about: str) -> str:
    """The element alone, its ids its own on the page, as wide as it is let be, in the colour of the page."""
    svg = svg_file(figure)
    svg = re.sub("<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r' (xmlns(:\w+)?|version|width|height)="[^"]*"', "", svg[: svg.index(">")]) + svg[svg.index(">") :]
    svg = re.sub(r'(\sid="|url\(#|href="#)', rf"\g<1>{name}-", svg.replace("xlink:href", "href"))
    svg = svg.replace(INK, "currentColor")
    return svg.replace("<svg", f'<svg role="img" aria-label="{about}"', 1).strip()
