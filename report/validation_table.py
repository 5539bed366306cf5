"""What a validation found, as a table."""

from __future__ import annotations

from rich.table import Table

from ..evaluator.validation.power_law import HIGHEST, LOWEST
from ..evaluator.validation.speedup import Comparison
from ..evaluator.validation.validate import ADAMW, Contender, Outcome, Validation
from .table import plain_table

COLUMNS = ("contender", "data", "speedup", "gap, nats", "sigmas", "p", "test loss", "metric", "to target", "diverged",
           "step", "state bytes")  # fmt: skip
_ON_PAGE_ALONE = ("gap, nats", "sigmas", "to target", "diverged")  # a terminal is 80 characters wide


def validation_rows(found: Validation) -> list[dict[str, str]]:
    """A row for each contender and data ratio, by the names of `COLUMNS`: text for the table and for the page alike."""
    reference = found.contenders[ADAMW].cost.seconds
    return [
        _row(contender, ratio, outcome, reference)
        for contender in found.contenders.values()
        for ratio, outcome in sorted(contender.outcomes.items())
    ]


def _row(contender: Contender, ratio: float, outcome: Outcome, reference: float) -> dict[str, str]:
    compared, own = outcome.comparison, contender.name == ADAMW
    gap = compared.gap
    values = (
        contender.name,
        f"{ratio:g}x",
        "1" if own else shown_speedup(compared),
        "" if own else f"{gap.mean:+.4f} ({gap.low:+.4f} to {gap.high:+.4f})",
        "" if own else f"{compared.sigmas:+.1f}",
        "" if own else f"{outcome.p:.3f}{'*' if outcome.differs else ''}",
        f"{outcome.test:.4f}",
        "" if outcome.metric is None else f"{outcome.metric:.3f}",
        "never" if outcome.to_target is None else f"{outcome.to_target:.2f}",
        f"{outcome.diverged}",
        f"{contender.cost.seconds / reference:.2f}",
        f"{contender.cost.state_bytes:.3g}",
    )
    return dict(zip(COLUMNS, values, strict=True))


def shown_speedup(compared: Comparison, factor: float = 1.0) -> str:
    """With its interval; + where it lies beyond AdamW's longest runs, - where there is none to read.

    `factor` makes a speedup in data one in time. What is clipped is shown as beyond what it is clipped to.
    """
    if compared.flat:
        return "-"
    ends = (compared.speedup.mean, compared.speedup.low, compared.speedup.high)
    mean, low, high = (beyond(x, factor) or f"{x * factor:.3f}" for x in ends)
    return f"{mean} ({low}-{high}){'+' if compared.extrapolated else ''}"


def beyond(x: float, factor: float = 1.0) -> str:
    """A clipped speedup as beyond what it is clipped to; "" for one that is not.

    >>> beyond(32.0), beyond(1 / 32), beyond(32.0, 0.5), beyond(1.5)
    ('>32', '<1/32', '>16', '')
    """
    if x <= LOWEST:
        return "<1/32" if factor == 1 else f"<{x * factor:.3g}"
    return f">{x * factor:.3g}" if x >= HIGHEST else ""


def validation_table(found: Validation) -> Table:
    """Speedup: AdamW's data for a contender's loss over its own data, 1 is tuned AdamW."""
    title = (
        f"{found.target}, {found.preset}: speedup over tuned AdamW on the same seeds (95% interval)\n"
        "p: paired test, corrected for all contenders; step: time over AdamW's; state bytes: a parameter"
    )
    table = plain_table(title)
    rows = validation_rows(found)
    shown = [n for n in COLUMNS if n not in _ON_PAGE_ALONE and (n != "metric" or found.metric)]
    for name in shown:
        label = found.metric if name == "metric" else name
        width = max([len(row[name]) for row in rows], default=1)  # numbers are never cut
        table.add_column(label, overflow="fold", min_width=1 if name == "contender" else width)
    for row in rows:
        table.add_row(*(row[name] for name in shown))
    return table
