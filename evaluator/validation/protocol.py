"""How much is trained to validate a program, and the tuning that every contender gets alike."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from ...discovered.arguments import with_named_constants
from ...dsl import Program
from ..settings import Settings, as_run, ranges_of, written_settings
from ..train import Run
from ..tune import PICK_SEEDS, SHOWN_SEEDS, Budget, pick
from .pool import TargetPool
from .training import Result, Training

_T = TypeVar("_T")
_SWEEP = range(-4, 5)  # powers of 4 on the learning rate that is written
_FURTHEST = 12
_SWEEP_RATIO = 1 / 16  # data ratio of the sweep's short runs


@dataclass(frozen=True)
class Preset:
    """How much is trained.

    Attributes:
        tuned: Data ratio at which every contender is tuned from nothing.
        compared: Data ratios at which contenders are compared.
        curve: Data ratios of AdamW's curve.
        budget: Runs of a tuning from nothing.
        again: Runs of a tuning at another ratio, from the settings of the nearest.
        seeds: Paired seeds of a comparison.
        curve_seeds: Seeds of the curve's other points.
        sensitivity: Factors on the tuned learning rate, a run each.
        first_seed: The first of the seeds that are compared.
        held_out: Whether the test documents are compared; else those that settings are chosen on, on other seeds.
    """

    tuned: float
    compared: tuple[float, ...]
    curve: tuple[float, ...]
    budget: Budget
    again: Budget
    seeds: int
    curve_seeds: int
    sensitivity: tuple[float, ...] = ()
    first_seed: int = SHOWN_SEEDS[0]
    held_out: bool = True

    def sides(self, others: int) -> float:
        """Data at ratio 1 that a validation of so many contenders beside AdamW takes, in runs of ratio 1."""
        of_adamw = self.tuning() + sum(r * self._again(r) for r in self.curve)
        of_adamw += sum(r * (self.seeds if r in self.compared else self.curve_seeds) for r in self.curve)
        each = self.tuning() + sum(r * (self._again(r) + self.seeds) for r in self.compared)
        each += self.tuned * len(self.sensitivity)
        return of_adamw + others * each + self.tuned * len(self.sensitivity)

    def tuning(self) -> float:
        """The same of one contender's tuning from nothing."""
        return len(_SWEEP) * _SWEEP_RATIO + self.tuned * self.budget.cost()

    def _again(self, ratio: float) -> float:
        return 0 if ratio == self.tuned else self.again.cost()


def _budget(first: int, descent: int, finalists: int, seeds: int, short: int = 0) -> Budget:
    return Budget(first, 0, 0, descent, finalists, PICK_SEEDS[:seeds], short)


#: For many rules on one target: one data ratio, four seeds.
TABLE = Preset(1 / 2, (1 / 2,), (1 / 4, 1 / 2, 1.0), _budget(6, 24, 2, 2, short=40), _budget(1, 9, 1, 1), 4, 4)
PRESETS = {
    "quick": Preset(1 / 4, (1 / 4,), (1 / 8, 1 / 4, 1 / 2), _budget(4, 10, 2, 2, short=24), _budget(1, 6, 1, 1), 4, 2),
    "standard": Preset(
        1 / 2, (1 / 2, 1.0), (1 / 4, 1 / 2, 1.0, 2.0), _budget(6, 24, 2, 2, short=40), _budget(1, 9, 1, 1), 8, 4,
        (1 / 4, 1 / 2, 2.0, 4.0),
    ),
    "full": Preset(
        1.0, (1 / 2, 1.0, 2.0), (1 / 4, 1 / 2, 1.0, 2.0, 4.0), _budget(12, 52, 4, 4, short=64), _budget(1, 16, 2, 2),
        8, 4, (1 / 8, 1 / 4, 1 / 2, 2.0, 4.0, 8.0),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Settled:
    """A contender's frozen settings at a data ratio.

    Attributes:
        run: The program with its constants and its schedule.
        settings: The same by name.
        runs: Training runs that choosing them took, short ones too, those of the sweep apart.
    """

    run: Run
    settings: Settings
    runs: int


def settle(
    pool: TargetPool,
    program: Program,
    ratio: float,
    budget: Budget,
    near: Sequence[Settings] = (),
    tell: Callable[[str], None] = lambda text: None,
    salt: str = "",
) -> Settled:
    """Tunes a program at a data ratio: every contender the same way, with as many runs.

    Without `near`: the learning rate is swept over powers of 4 in short runs, then all hyperparameters and the schedule
    are searched at random together and by coordinate descent, see `pick`. Another `salt` draws other settings.

    Raises:
        TaskError, ProgramError: As `TargetPool.results`.
    """
    steps = steps_of(pool, ratio)
    program = with_named_constants(program)
    peak = float(near[0]["lr"]) if near else working_peak(pool, program, budget.seeds[0])
    ranges = ranges_of(program, peak)
    start = list(near) or [written_settings(program, pool.target.warmup, pool.target.decay, peak)]
    text = f"{replace(program, doc='')} {pool.target.name} {steps} {salt}"
    key = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
    random = np.random.Generator(np.random.Philox(key=[13, key]))
    order, runs = pick(pool, program, steps, random, budget, start, ranges, tell)
    return Settled(as_run(program, order[0]), order[0], runs)


def working_peak(pool: TargetPool, program: Program, seed: int = PICK_SEEDS[0]) -> float:
    """The learning rate with the least loss in short runs, swept further where that is the last; as written, if none
    trains.
    """
    steps, exponents = steps_of(pool, _SWEEP_RATIO), list(_SWEEP)
    tried: dict[int, Result] = {}
    while exponents:
        runs = [Run(program.with_lr(program.peak * 4.0**k)) for k in exponents]
        results = pool.results([Training(run, seed, steps) for run in runs])
        tried |= dict(zip(exponents, results, strict=True))
        trained = [k for k in tried if not tried[k].reason]
        best = min(trained, key=lambda k: (tried[k].validation, k), default=0)
        further = [best + way * i for way in (-1, 1) for i in (1, 2)]
        exponents = [k for k in further if k not in tried and abs(k) <= _FURTHEST and trained]
    return program.peak * 4.0**best


def steps_of(pool: TargetPool, ratio: float) -> int:
    """Steps at a data ratio."""
    return max(1, round(pool.target.steps * ratio))


def finals(run: Run, preset: Preset, seeds: int, steps: int) -> list[Training]:
    """Runs at frozen settings on the seeds that are compared."""
    return [Training(run, preset.first_seed + i, steps, final=preset.held_out) for i in range(seeds)]


def side_by_side(pool: TargetPool, work: Callable[[str], _T], names: Sequence[str]) -> dict[str, _T]:
    """What `work` gives for each name, as many at once as the pool has workers; the order changes no result."""
    if pool.workers < 2:
        return {name: work(name) for name in names}
    threads = ThreadPoolExecutor(pool.workers)
    try:
        ends = {name: threads.submit(work, name) for name in names}
        wait(ends.values(), return_when=FIRST_EXCEPTION)
        for end in ends.values():
            if end.done():
                end.result()  # raises what went wrong, before the others have to end
        return {name: end.result() for name, end in ends.items()}
    except BaseException:  # an interrupt too: the other threads must not wait for their runs
        pool.close()
        raise
    finally:
        threads.shutdown(cancel_futures=True)
