"""Times that can be compared on a busy machine, and what a section reports."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch

MICRO = 1e6


@dataclass(frozen=True)
class Check:
    """A measured value and the bar it is held against."""

    what: str
    value: float
    bar: float
    at_least: bool = False

    @property
    def passed(self) -> bool:
        """Whether the value is on the right side of the bar."""
        return self.value >= self.bar if self.at_least else self.value <= self.bar

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        return f"{'pass' if self.passed else 'FAIL'}  {self.what}: {self.value:.4g} (bar {sign} {self.bar:g})"


@dataclass
class Report:
    """What a section measured: a table, the bars, and remarks."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        rows = [dict(zip(self.columns, row, strict=True)) for row in self.rows]
        checks = [{**vars(check), "passed": check.passed} for check in self.checks]
        return {"rows": rows, "checks": checks, "notes": self.notes}

    def as_text(self) -> str:
        """An aligned table, then the bars, then the remarks."""
        cells = [self.columns, *(tuple(map(_cell, row)) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(map(str.rjust, row, widths)) for row in cells]
        return "\n".join([*lines, *map(str, self.checks), *self.notes])


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def interleave(
    actions: Mapping[str, Callable[[], object]], seconds: float = 3.0, rounds: int = 7, wall: bool = False
) -> dict[str, np.ndarray]:
    """Seconds of processor time a call, (rounds,) for each action; the actions take turns in every round.

    Processor time, because others may use the machine; turns, so that what disturbs one disturbs all. With `wall`
    the time that passes, which several threads share.
    """
    clock = perf_counter if wall else process_time
    share = seconds / rounds / len(actions)
    counts = {name: max(1, int(share / _time(action, 1, clock, warm=2))) for name, action in actions.items()}
    turns = [[_time(action, counts[name], clock) for name, action in actions.items()] for _ in range(rounds)]
    return dict(zip(actions, np.array(turns).T, strict=True))


def _time(action: Callable[[], object], count: int, clock: Callable[[], float], warm: int = 0) -> float:
    for _ in range(warm):
        action()
    begin = clock()
    for _ in range(count):
        action()
    return max(clock() - begin, 1e-9) / count


def ratio(slow: np.ndarray, fast: np.ndarray) -> float:
    """How many times faster: the median over rounds."""
    return float(np.median(slow / fast))


def best(times: np.ndarray | Sequence[float]) -> float:
    """The shortest, in microseconds."""
    return float(np.min(times)) * MICRO


def middle(times: np.ndarray | Sequence[float]) -> float:
    """The median, in microseconds."""
    return float(np.median(times)) * MICRO


def machine() -> dict[str, Any]:
    """Where this ran, and how busy it was."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def positive(text: str) -> int:
    """An option that counts."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"a whole number from 1 on, not {text!r}")
    return int(text)
