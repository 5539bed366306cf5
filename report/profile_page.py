"""Time to target over several targets: performance profiles (Dolan and More 2002), as a table and as a page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

from ..evaluator.validation.profile import Profile, profiles
from ..evaluator.validation.validate import Validation
from ..proxies.whole_file import replace_file
from .page import rendered
from .table import plain_table
from .validation_plots import drawing, glyphs, looks, ratios, svg_of

_WITHIN = (1.0, 1.5, 2.0, 4.0)


def target_profiles(found: Mapping[str, Validation], ratio: float | None = None) -> dict[str, Profile]:
    """A profile for each contender that all targets have: steps to AdamW's final loss, over the fastest's on a target.

    Args:
        found: Validations by target.
        ratio: The data ratio; by default each validation's largest.
    """
    rules = set.intersection(*(set(v.contenders) for v in found.values()))
    reached = {
        rule: {name: v.contenders[rule].outcomes[ratio or ratios(v)[-1]].to_target for name, v in found.items()}
        for rule in next(iter(found.values())).contenders
        if rule in rules
    }
    return profiles({rule: {n: math.inf if t is None else t for n, t in of.items()} for rule, of in reached.items()})


def profile_rows(found: Mapping[str, Profile]) -> list[list[str]]:
    """A row for each contender, the largest area first: shares of targets within factors of the fastest, area to 4."""
    order = sorted(found, key=lambda rule: -found[rule].score())
    return [[rule, *(f"{found[rule].rho(tau):.2f}" for tau in _WITHIN), f"{found[rule].score():.2f}"] for rule in order]


def columns() -> list[str]:
    """Of the table."""
    return ["contender", *(f"within {tau:g}x" for tau in _WITHIN), "area"]


def profile_table(found: Mapping[str, Profile]) -> Table:
    """Shares of targets on which a contender gets to AdamW's final loss within a factor of the fastest's steps."""
    title = "share of targets on which AdamW's final loss is reached within so many times the fastest's steps"
    return plain_table(title, columns(), profile_rows(found))


def write_profile(found: Mapping[str, Validation], path: Path) -> None:
    """Writes the page."""
    from markupsafe import Markup

    of, first = target_profiles(found), next(iter(found.values()))
    rows = [dict(zip(columns(), row, strict=True)) for row in profile_rows(of)]
    shown = [look for look in glyphs(first) if look[0] in of]
    page = rendered(
        "profile_page", targets=list(found), columns=columns(), rows=rows, plot=Markup(_plot(first, of)), looks=shown
    )
    replace_file(path, page)


def _plot(first: Validation, found: Mapping[str, Profile], limit: float = 4.0) -> str:
    from matplotlib.figure import Figure

    with drawing():
        figure = Figure(figsize=(5.0, 3.2), layout="constrained")
        axes = figure.add_subplot()
        for name, look in looks(first).items():
            if name in found:
                rises = [(1.0, 0.0), *((t, rho) for t, rho in found[name].steps() if t <= limit)]
                line = [*rises, (limit, rises[-1][1])]
                axes.step(*zip(*line, strict=True), where="post", color=look.colour, marker=look.marker)
        axes.set(xlabel="steps over the fastest's", ylabel="share of targets", xscale="log", xlim=(0.97, limit))
        axes.set_xticks([1, 1.5, 2, 3, 4], ["1x", "1.5x", "2x", "3x", "4x"])
        axes.set_xticks([], minor=True)
        axes.set_ylim(-0.03, 1.03)
        return svg_of(figure, "profile", "share of targets within a factor of the fastest")
