"""The live view of a search: a table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..evaluator.fitness import Trial
from ..search.config import SearchConfig
from ..search.population import Fold
from ..search.run import Progress

_LINE_EVERY = 10.0  # seconds between plain lines


class LiveView:
    """Shows progress while it is entered; call it with each Progress."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = Live(console=console, refresh_per_second=2, transient=True) if console.is_terminal else None
        self.last_line = 0.0

    def __enter__(self) -> LiveView:
        if self.live:
            self.live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.live.__exit__(kind, error, trace)

    def __call__(self, progress: Progress) -> None:
        """The state now."""
        if self.live:
            self.live.update(Group(_numbers(progress), _best_table(progress.fold), Text("Ctrl-C: save and end")))
        elif time.monotonic() - self.last_line > _LINE_EVERY:
            self.last_line = time.monotonic()
            self.console.print(line(progress), soft_wrap=True)


def line(progress: Progress) -> str:
    """What `facts` has, on one line."""
    return ", ".join(f"{name} {value}" for name, value in facts(progress))


def facts(progress: Progress) -> list[tuple[str, str]]:
    """Names and values of what a search has done so far."""
    fold = progress.fold
    counts = fold.counts
    seconds = max(progress.seconds, 1e-9)
    steps = fold.steps - progress.steps_before
    full = full_run_steps(fold.config)
    wrong = f"{fold.wrongly_dropped}/{fold.audited}" if fold.audited else "none audited yet"
    return [
        ("time", f"{seconds / 60:.1f} min"),
        ("round", str(fold.rounds)),
        ("children", str(fold.children)),
        ("trained", str(fold.judged)),
        ("in training", str(progress.in_flight)),
        ("cache hits", _share(counts["alias"], fold.children)),
        ("rejected", _share(counts["rejected"], fold.children)),
        ("failed", _share(counts["failed"] + counts["fault"], fold.children)),
        ("dropped", _share(counts["dropped"], fold.children)),
        ("evaluations/s", f"{(fold.judged - progress.trained_before) / seconds:.2f}" if steps else "-"),
        ("full runs/h", f"{steps / full / seconds * 3600:,.0f}" if steps else "-"),
        ("steps", f"{fold.steps:,}"),
        ("wrongly dropped", wrong),
        ("restarts", str(fold.restarts)),
        ("best fitness", f"{fold.best.fitness:.3f}" if fold.best else "-"),
    ]


def full_run_steps(config: SearchConfig) -> int:
    """Training steps of one whole run on the tasks of the last stage."""
    return Trial(config.stages[-1].tasks).steps_each()


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "-"


def _numbers(progress: Progress) -> Table:
    table = Table.grid(padding=(0, 2))
    rows = facts(progress)
    for i in range(0, len(rows), 5):
        table.add_row(*(f"[dim]{name}[/dim] {value}" for name, value in rows[i : i + 5]))
    return table


def _best_table(fold: Fold) -> Table:
    table = Table("states", "fitness", "statements", "child", "program", title=None)
    for child in fold.fittest.best_of_niches():
        body = child.final.split("\n", 1)[1] if "\n" in child.final else child.final
        table.add_row(str(child.state), f"{child.fitness:.3f}", str(child.statements), str(child.child),
                      Text(body.rstrip()))  # fmt: skip
    return table
