"""The AdamW curve of a task: tuned AdamW's final loss at horizons from 1/8 to 4 times the budget.

Each horizon is a run with full decay at its own tuned settings; a candidate's loss is read off the curve as
AdamW-equivalent steps. Made by `stepsmith tune`, stored as small text in `proxies/curves`, or beside the file that
defines the task.
"""

from __future__ import annotations

import hashlib
import json
import math
import shlex
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
from scipy.optimize import isotonic_regression

from ..dsl import Program
from ..proxies import Task
from ..proxies import task as task_named
from .train import Run

HORIZONS: tuple[float, ...] = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0)  # of the task's budget
MOST_SHARE = 1e6  # of a task's budget: no run of that length would come to its end
LOWEST, HIGHEST = 1 / 32, 4.0  # a speedup is clipped to these; a diverged run scores the lowest


@dataclass(frozen=True)
class Point:
    """Tuned AdamW at one horizon.

    `losses` are final validation losses in nats on `seeds`, which picked nothing; `runs` is how many runs
    the tuning took, so that a rival can be given as many.
    """

    steps: int
    losses: tuple[float, ...]
    seeds: tuple[int, ...]
    program: str
    warmup: float
    decay: str
    runs: int
    finalists: tuple[dict[str, float | str], ...] = ()  # settings from which the next horizon is tuned, best first

    @property
    def loss(self) -> float:
        """Mean final loss in nats."""
        return float(np.mean(self.losses))

    def run(self) -> Run:
        """The tuned AdamW as a run."""
        return Run(Program.parse(self.program), self.warmup, self.decay)


class NoCurve(LookupError):
    """A task has no AdamW curve, or one made on other data."""


@dataclass(frozen=True)
class Curve:
    """Points of one task in order of steps, and its fingerprint when they were made."""

    task: str
    fingerprint: str
    points: tuple[Point, ...]

    def point(self, steps: int) -> Point:
        """The point at a horizon; raises NoCurve where there is none."""
        for p in self.points:
            if p.steps == steps:
                return p
        have = ", ".join(str(p.steps) for p in self.points)
        raise NoCurve(f"the AdamW curve of {self.task!r} has no point at {steps} steps (it has {have}); "
                      "make it with stepsmith tune and --horizons, as shares of the task's steps")  # fmt: skip

    def equivalent_steps(self, loss: float) -> float:
        """Steps that tuned AdamW needs to reach a final loss: isotonic, straight in log2 steps, extended at
        both ends by the slope of the end segment. NaN counts as no step at all.
        """
        if math.isnan(loss):
            return 0.0
        x, y = self._fit()
        if loss > y[0]:
            return float(2 ** (x[0] - (loss - y[0]) * _slope(x[:2], y[:2])))
        if loss < y[-1]:
            return float(2 ** (x[-1] + (y[-1] - loss) * _slope(x[-2:], y[-2:])))
        return float(2 ** np.interp(-loss, -y, x))

    def _fit(self) -> tuple[np.ndarray, np.ndarray]:
        """log2 steps and losses that fall strictly, so that flat stretches have one answer."""
        y = np.asarray(isotonic_regression([p.loss for p in self.points], increasing=False).x)
        return np.log2([p.steps for p in self.points]), y - 1e-9 * np.arange(len(y))

    def fitted(self, steps: int) -> float:
        """The curve's own loss in nats at one of its points."""
        return float(self._fit()[1][self.points.index(self.point(steps))])

    def speedup(self, loss: float, steps: int) -> float:
        """AdamW-equivalent steps over own steps, clipped to [1/32, 4].

        >>> def at(steps, loss):
        ...     return Point(steps, (loss,), (0,), "", 0.0, "linear", 1)
        >>> curve = Curve("t", "", (at(100, 3.0), at(200, 2.0), at(400, 1.5)))
        >>> round(curve.speedup(2.0, 100), 6), curve.speedup(float("nan"), 100)
        (2.0, 0.03125)
        """
        return float(np.clip(self.equivalent_steps(loss) / steps, LOWEST, HIGHEST))


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    """log2 steps per nat of an end segment; at most one octave a hundredth of a nat."""
    return float((x[1] - x[0]) / max(y[0] - y[1], 0.01))


def dump(curve: Curve) -> str:
    """A curve as text: one JSON line a point."""
    head = {"task": curve.task, "fingerprint": curve.fingerprint}
    return "".join(json.dumps(head | asdict(p)) + "\n" for p in curve.points)


def parse(lines: Iterable[str]) -> Curve:
    """The curve that `dump` wrote."""
    rows = [json.loads(line) for line in lines if line.strip()]
    heads = {(r.pop("task"), r.pop("fingerprint")) for r in rows}
    (name, fingerprint), *_ = heads
    points = [Point(**r | {name: tuple(r.get(name, ())) for name in ("losses", "seeds", "finalists")}) for r in rows]
    return Curve(name, fingerprint, tuple(sorted(points, key=lambda p: p.steps)))


def curve_path(task: Task) -> Path:
    """Where the curve of a task is stored: for a task of a file, beside it.

    >>> from ..proxies import task
    >>> curve_path(task("bytes")).name
    'bytes.jsonl'
    """
    if task.file:
        file = Path(task.file)
        return file.with_name(f"{file.stem}.{task.name.rpartition(':')[2]}.curve.jsonl")
    return Path(str(resources.files("stepsmith.proxies").joinpath("curves", f"{task.name}.jsonl")))


@cache
def curves_digest(tasks: tuple[str, ...]) -> str:
    """A hash of the AdamW curves of tasks, which name the data and settings that they were made on."""
    each = (dump(curve_of(task_named(name))) for name in sorted(set(tasks)))
    return hashlib.blake2b("".join(each).encode(), digest_size=6).hexdigest()


def stored_curve(task: Task) -> Curve | None:
    """What is stored under the task's name, whatever it was made on; None where nothing is.

    Raises:
        NoCurve: The file is damaged.
    """
    path = curve_path(task)
    try:
        return parse(path.read_text("utf-8").splitlines())
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        raise NoCurve(
            f"{path} is damaged; remove it, and make it anew: stepsmith tune {shlex.quote(task.name)}"
        ) from None


@cache
def curve_of(task: Task) -> Curve:
    """The stored curve of a task. Raises NoCurve when there is none, or it was made on other data or settings."""
    command = f"stepsmith tune {shlex.quote(task.name)}"
    curve = stored_curve(task)
    if curve is None:
        raise NoCurve(f"task {task.name!r} has no AdamW curve; make one: {command}")
    if curve.fingerprint != task.fingerprint():
        raise NoCurve(f"the AdamW curve of {task.name!r} was made on other data or settings; make it anew: {command}")
    return curve
