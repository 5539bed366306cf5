"""Making the AdamW curve of a task: AdamW is tuned at one horizon after another, and each is stored at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ..discovered import load
from ..proxies import Task, TaskError, tasks
from ..proxies.whole_file import replace_file
from .curve import HORIZONS, Curve, Point, curve_path, dump, stored_curve
from .run_pool import RunPool
from .settings import Settings, settings_of
from .smoketest import step_seconds, validation_seconds
from .tune import SHOWN_SEEDS, Budget, tune

#: More than rules get, since all are measured by it: short runs, descent, and many finalists on eight seeds, because
#: what is best on one seed is so by luck (of three tunings two were behind the third by a sixth of the steps).
WHOLE = Budget(first=48, each=24, descent=40, finalists=24, seeds=tuple(range(9_000, 9_008)), short=128)
#: A first try: a fifteenth of the work of a whole curve, enough for the stages of a search.
QUICK = Budget(first=16, rounds=1, each=16, finalists=4)
_STARTING = 10.0  # seconds of processes that load, and of drawing data
_FINALISTS = 4  # that the next horizon starts from
QUICK_HORIZONS: tuple[float, ...] = (1 / 8, 1 / 4, 1.0, 2.0)


def make_curve(
    task: Task,
    budget: Budget = WHOLE,
    horizons: Sequence[float] = HORIZONS,
    workers: int = 0,
    tell: Callable[[str], None] = lambda text: None,
) -> Curve:
    """Tunes adamw_clip at each horizon, shortest first; a horizon starts from its neighbour's finalists.

    The curve is written to `curve_path(task)` as each horizon ends. Horizons that are stored already, for the same
    task and by no fewer runs, stay; so a tuning that was interrupted goes on, and a quick curve can be made whole.

    Args:
        task: What is trained.
        budget: Runs a horizon.
        horizons: Shares of the task's budget; at least two, with those that are stored.
        workers: Processes that train; 0: this one.
        tell: Is told of progress, a line each.

    Raises:
        TaskError: In one line, where fewer than two horizons would be there, or no run of AdamW came to an end.
    """
    if not task.file and task.name not in tasks():
        raise TaskError(
            f"{task.name}: a curve is stored beside its task's file; put the task in one, my_task.py:MyTask"
        )
    stored, note = _stored(task)
    points = {p.steps: p for p in stored}
    wanted = sorted({max(1, round(task.steps * share)) for share in horizons})
    if len(points.keys() | set(wanted)) < 2:
        raise TaskError(f"{task.name}: a curve has two horizons or more, and this would be one, {wanted[0]} steps")
    due = [steps for steps in wanted if steps not in points or points[steps].runs < budget.runs()]
    renewed = len(points.keys() & set(due))
    _tell_of_time(task, due, renewed, budget, workers, lambda text: tell(f"{note}{text}"))
    with RunPool(task, workers) as pool:
        for steps in due:
            random = np.random.Generator(np.random.Philox(key=[7, steps]))
            near = _near(list(points.values()), steps)
            point, finalists = tune(task, load("adamw_clip"), steps, random, budget, near, tell=tell, pool=pool)
            if not math.isfinite(point.loss):
                raise TaskError(
                    f"{task.name}: AdamW comes to no lower loss in {steps} steps than it begins with; raise the task's "
                    f"`steps`, {task.steps} now, or leave out horizons that are too short: --horizons"
                )
            points[steps] = replace(point, finalists=tuple(finalists[:_FINALISTS]))
            _write(task, points)
    tell(f"{task.name}: {len(points)} horizons in {curve_path(task)}")
    return Curve(task.name, task.fingerprint(), tuple(points[steps] for steps in sorted(points)))


def _stored(task: Task) -> tuple[tuple[Point, ...], str]:
    """The points that are there for this very task; and what is said where there are others."""
    stored = stored_curve(task)
    if stored is None:
        return (), ""
    if stored.fingerprint != task.fingerprint():
        return (), f"{curve_path(task)} was made on other data or settings, and is made anew; "
    return stored.points, ""


def _tell_of_time(
    task: Task, due: Sequence[int], renewed: int, budget: Budget, workers: int, tell: Callable[[str], None]
) -> None:
    if not due:
        tell(f"{task.name}: the curve has these horizons already")
        return
    if renewed:
        fewer = f"{task.name}: {renewed} of them are stored with fewer runs and are tuned anew"
        tell(f"{fewer}, one after another; until all are, the curve is of two kinds")
    runs = budget.runs() + len(SHOWN_SEEDS)
    steps = round((budget.cost() + len(SHOWN_SEEDS)) * sum(due))
    seconds = steps * step_seconds(task) + runs * len(due) * validation_seconds(task) + _STARTING
    minutes = seconds / max(1, workers) / 60
    time = f"{minutes:.0f} min" if minutes > 1.5 else f"{max(1, 60 * minutes):.0f} s"
    tell(f"{task.name}: {len(due)} horizons, {budget.runs()} runs at each, {steps:,} steps: about {time}")


def _near(points: list[Point], steps: int) -> list[Settings]:
    """The finalists of the nearest shorter horizon, so that a tuning that was interrupted starts where it would."""
    shorter = [p for p in points if p.steps <= steps]
    if not shorter:
        return []
    nearest = max(shorter, key=lambda p: p.steps)
    return list(nearest.finalists) or [settings_of(nearest)]


def _write(task: Task, points: dict[int, Point]) -> None:
    path = curve_path(task)
    curve = Curve(task.name.rpartition("/")[2], task.fingerprint(), tuple(points[steps] for steps in sorted(points)))
    path.parent.mkdir(exist_ok=True)
    replace_file(path, dump(curve))
