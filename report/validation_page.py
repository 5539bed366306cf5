"""What a validation found, as one page and as data."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..evaluator.tune import PICK_SEEDS
from ..evaluator.validation.power_law import HIGHEST, LOWEST, PowerLaw
from ..evaluator.validation.validate import ADAMW, LEVEL, Contender, Frozen, Outcome, Validation
from ..proxies.whole_file import replace_file
from .page import rendered
from .validation_plots import glyphs, plots, ratios, wall_clock
from .validation_table import COLUMNS, beyond, shown_speedup, validation_rows

if TYPE_CHECKING:
    from pydantic import RootModel

DATA, PAGE = "validation.json", "report.html"


class DamagedValidation(ValueError):
    """A file that holds no whole validation, in one line."""


def write_page(found: Validation, folder: Path) -> None:
    """Writes `validation.json`, then `report.html`, which needs nothing beside it; each is replaced whole.

    Equal validations give equal bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / DATA, _model()(found).model_dump_json(indent=1) + "\n")
    replace_file(folder / PAGE, page(found))


def write_frozen(folder: Path, frozen: dict[str, dict[float, Frozen]]) -> None:
    """Writes `frozen.json`: the constants of all contenders, fixed before anything is compared."""
    from pydantic import TypeAdapter

    text = TypeAdapter(dict[str, dict[float, Frozen]]).dump_json(frozen, indent=1).decode()
    replace_file(folder / "frozen.json", text + "\n")


def read_validation(path: Path) -> Validation:
    """Reads a `validation.json`.

    Raises:
        DamagedValidation: Of a missing or a damaged file, in one line.
    """
    from pydantic import ValidationError

    try:
        found: Validation = _model().model_validate_json(path.read_bytes()).root
    except OSError as error:
        raise DamagedValidation(f"{path} cannot be read: {error.strerror or error}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        said = " ".join(f"{where}: {first['msg']}".removeprefix(": ").split())
        raise DamagedValidation(f"{path} is damaged ({said}); the same stepsmith validate writes it anew") from None
    if wrong := [name for name, c in found.contenders.items() if c.name != name]:
        raise DamagedValidation(f"{path} is damaged: contender {wrong[0]!r} has another name inside")
    if ADAMW not in found.contenders:
        raise DamagedValidation(f"{path} is damaged: it has no {ADAMW}")
    return found


def headline(found: Validation, name: str, ratio: float) -> str:
    """What a contender's comparison at a data ratio says, in a sentence.

    Better and worse are the paired test's words, not the interval's: the test was fixed in advance.
    """
    outcome, runs = found.contenders[name].outcomes[ratio], found.contenders[name].results[ratio]
    speedup = outcome.comparison.speedup
    seeds = len(set(runs) & set(found.contenders[ADAMW].results[ratio]))
    interval = f"{LEVEL:.0%} interval {_end(speedup.low)} to {_end(speedup.high)}"
    facts = f"{interval}, {seeds} paired seeds, {_p(outcome.p)} after Holm"
    verdict = _verdict(outcome)
    if verdict == "indistinguishable":
        said = f"{name} is not distinguishable from tuned AdamW (speedup {_number(speedup.mean)}, {facts})"
    elif outcome.comparison.flat:
        said = f"{name} is {verdict} than tuned AdamW, whose loss does not fall with data: no speedup can be read"
    elif verdict == "better" and speedup.mean < HIGHEST:
        said = f"tuned AdamW would need {_number(speedup.mean)}x the data to reach {name}'s loss ({facts})"
    elif verdict == "better":
        said = f"{name} ends at a loss that tuned AdamW would not reach with {HIGHEST:g}x the data ({facts})"
    else:
        share = f"{_number(speedup.mean)}x" if speedup.mean > LOWEST else f"1/{1 / LOWEST:g} of"
        said = f"{name} is worse than tuned AdamW, which reaches its loss with {share} the data ({facts})"
    if outcome.comparison.extrapolated and verdict == "better":
        said += ", by its fitted law: no run of it was that long"
    return f"{said}; {outcome.diverged} of {len(runs)} runs diverged" if outcome.diverged else said


def headlines(found: Validation) -> list[str]:
    """A sentence for each contender, at the largest data ratio; the page's and the terminal's."""
    compared = ratios(found)
    others = [c for c in found.contenders.values() if c.name != ADAMW]
    return [headline(found, c.name, compared[-1]) for c in others if compared and compared[-1] in c.outcomes]


def page(found: Validation) -> str:
    """The page as HTML."""
    from markupsafe import Markup

    svg = {name: Markup(drawn) for name, drawn in plots(found).items()}  # of matplotlib, which escapes its texts
    return rendered("validation_page", **_context(found), svg=svg)


def _context(found: Validation) -> dict[str, Any]:
    compared = ratios(found)
    sides = list(found.contenders.values())
    others = [c for c in sides if c.name != ADAMW]
    last = compared[-1] if compared else None
    told = [c for c in others if last is not None and last in c.outcomes]
    return {
        "found": found,
        "title": f"{', '.join(c.name for c in others) or ADAMW} on {found.target}",
        "headlines": headlines(found) or ["Nothing was compared with tuned AdamW."],
        "beside": _beside(found, told[0], compared[-1]) if told else "",
        "others": _other_ratios(others, compared),
        "last": last,
        "looks": glyphs(found),
        "columns": [c for c in COLUMNS if c != "metric" or found.metric],
        "rows": validation_rows(found),
        "law": _law(found.law),
        "lost": _lost(found),
        "lost_rates": any(run.reason for c in sides for run in c.sensitivity.values()),
        "costs": [_cost(found, c, last) for c in sides],
        "frozen": [_settings(c.name, ratio, f) for c in sides for ratio, f in sorted(c.frozen.items())],
        "fixed": _fixed(found, len(others)),
    }  # fmt: skip


def _verdict(outcome: Outcome) -> str:
    if not outcome.differs:
        return "indistinguishable"
    return "better" if outcome.comparison.gap.mean < 0 else "worse"


def _beside(found: Validation, contender: Contender, ratio: float) -> str:
    """Time and memory of the first contender, which the headline does not count."""
    factor, state = wall_clock(found, contender), contender.cost.state_bytes
    compared = contender.outcomes[ratio].comparison
    mean = compared.speedup.mean
    data, time = (beyond(mean, each) or f"{mean * each:.2f}" for each in (1.0, factor))
    in_time = "" if compared.flat else f", so that {data} in data is {time} in time"
    return (
        f"A step of {contender.name} takes {1 / factor:.2f}x the time of AdamW's{in_time}; its state takes {state:.3g} "
        f"bytes a parameter, AdamW's {found.contenders[ADAMW].cost.state_bytes:.3g}."
    )


def _other_ratios(others: list[Contender], compared: list[float]) -> list[str]:
    """A line for each contender: the verdicts at the data ratios that no headline is about."""
    lines = []
    for contender in others:
        each = []
        for ratio in compared[:-1]:
            if outcome := contender.outcomes.get(ratio):
                mean = outcome.comparison.speedup.mean
                speedup = "-" if outcome.comparison.flat else beyond(mean) or _number(mean)
                each.append(f"{_verdict(outcome)} at {ratio:g}x ({speedup})")
        if each:
            lines.append(f"{contender.name}: {', '.join(each)}")
    return lines


def _lost(found: Validation) -> int:
    return sum(bool(r.reason) for c in found.contenders.values() for runs in c.results.values() for r in runs.values())


def _cost(found: Validation, contender: Contender, ratio: float | None) -> dict[str, str]:
    cost, outcome = contender.cost, contender.outcomes.get(ratio) if ratio is not None else None
    factor = wall_clock(found, contender)
    if contender.name == ADAMW:
        in_data = in_time = "1"
    elif outcome is None or outcome.comparison.flat:
        in_data = in_time = "-"
    else:
        in_data, in_time = (shown_speedup(outcome.comparison, each) for each in (1.0, factor))
    return {
        "contender": contender.name,
        "step, ms": f"{cost.seconds * 1e3:.3g}",
        "of it optimizer, ms": f"{cost.optimizer_seconds * 1e3:.3g}",
        "state bytes a parameter": f"{cost.state_bytes:.3g}",
        "memory, MB": f"{cost.memory_bytes / 1e6:.3g}",
        "speedup in data": in_data,
        "speedup in time": in_time,
    }


def _settings(name: str, ratio: float, frozen: Frozen) -> dict[str, str]:
    shown = {key: value for key, value in frozen.settings.items() if not key.startswith("schedule.")}
    each = [f"{key} {value if isinstance(value, str) else format(value, '.6g')}" for key, value in shown.items()]
    return {
        "contender": name,
        "data": f"{ratio:g}x",
        "settings": ", ".join(each),
        "schedule": f"warm-up {frozen.warmup:.3g}, decay {frozen.decay}",
        "tuning runs": str(frozen.runs),
    }


def _law(law: PowerLaw) -> str:
    if law.alpha == 0:
        return f"flat at {law.floor:.4g}"
    if law.exponent == 0:
        return f"{law.floor:.4g} - {law.alpha:.4g} log D"
    return f"{law.alpha:.4g} D^-{law.exponent:.4g} + {law.floor:.4g}"


def _fixed(found: Validation, rivals: int) -> list[str]:
    """What stood before anything was compared."""
    seeds = sorted({s for ratio in ratios(found) for s in found.contenders[ADAMW].results.get(ratio, {})})
    compared = f"Seeds {seeds[0]} to {seeds[-1]}" if seeds else "Seeds"
    corrected = f"{rivals} contender{'s' if rivals != 1 else ''}"
    if len(ratios(found)) > 1:
        corrected += f" at {len(ratios(found))} data ratios"
    return [
        "Test: Student's t, paired by seed and two-sided, on the final test losses; a difference is called at p of at "
        f"most 0.05 after Holm's correction for {corrected}; other targets are tests of their own.",
        f"{compared}, the same initial weights and order of data for both sides of a pair. They chose nothing: "
        f"settings were chosen on seeds from {PICK_SEEDS[0]} on and on validation data, and frozen before the first "
        "compared run.",
        "The test data is looked at once, at the end of a run; every run has its own full decay. No run is left out: "
        "one that diverged counts with its loss at initialisation.",
        f"Speedup: the data at which AdamW's fitted curve has a contender's loss over the contender's own data, within "
        f"1/{1 / LOWEST:g} and {HIGHEST:g}; intervals are of {LEVEL:.0%}, over seeds and fit.",
    ]


def _number(x: float) -> str:
    """Three digits behind the point where two would hide a small difference from 1."""
    return f"{x:.3f}" if 0.9 < x < 1.1 else f"{x:.2f}"


def _end(x: float) -> str:
    """A number, or what it is beyond: speedups are clipped."""
    if x <= LOWEST:
        return f"1/{1 / LOWEST:g} or less"
    return f"{HIGHEST:g} or more" if x >= HIGHEST else _number(x)


def _p(p: float) -> str:
    if math.isnan(p):
        return "p unknown"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


@cache
def _model() -> type[RootModel[Validation]]:
    from pydantic import ConfigDict, RootModel

    class Whole(RootModel[Validation]):
        model_config = ConfigDict(ser_json_inf_nan="strings")  # otherwise null, which is no number when read again

    return Whole
