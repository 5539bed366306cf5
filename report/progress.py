"""A bar of training steps with the time that is left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .session import say

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID


class Clock:
    """Counts training steps against those that are planned."""

    def __init__(self, bar: Progress, shown: TaskID, console: Console) -> None:
        self.bar, self.shown, self.console = bar, shown, console

    def expect(self, steps: int) -> None:
        """How many steps are planned from here on."""
        self.bar.reset(self.shown, total=steps)

    def ran(self, steps: int, seconds: float) -> None:
        """A run of so many steps has ended; in 0 seconds where a record had it, which tells no speed."""
        if seconds:
            self.bar.advance(self.shown, steps)
        else:
            [task] = self.bar.tasks
            self.bar.update(self.shown, total=max(task.completed, (task.total or 0) - steps))

    def say(self, text: str) -> None:
        """A line above the bar."""
        say(self.console, text)


@contextmanager
def clock(console: Console) -> Iterator[Clock]:
    """A bar that is shown until the block ends."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("training"), BarColumn(), TextColumn("{task.percentage:3.0f}%"),
        TimeRemainingColumn(compact=True), TextColumn("left"),
    )  # fmt: skip
    with Progress(*columns, console=console, speed_estimate_period=600) as bar:
        yield Clock(bar, bar.add_task("training", total=None), console)
