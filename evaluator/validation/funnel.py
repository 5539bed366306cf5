"""The funnel: programs go through targets of growing size, tuned anew at each, as long as they beat tuned AdamW."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...discovered import load
from ...dsl import Program
from ...proxies.targets import target
from ..statistics import Interval
from ..tune import PICK_SEEDS, Budget
from .fits import check_target_fits
from .pool import TargetPool
from .protocol import Preset
from .rank import kendall_tau
from .record import Record
from .training import check_trainable
from .validate import ADAMW, Frozen, validate

#: What a stage trains for each program. It compares on seeds and texts that no later validation is judged by.
SCREEN = Preset(
    1 / 4, (1 / 4,), (1 / 8, 1 / 4, 1 / 2),
    Budget(3, 0, 0, 9, 2, PICK_SEEDS[:2], short=16), Budget(1, 0, 0, 4, 1, PICK_SEEDS[:1]), 4, 2,
    first_seed=9_200, held_out=False,
)  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """A target that programs must pass. `name` says how many times the proxies' parameters it has.

    Its text is one that no search reads, or fitness that is luck on a text would be taken for what holds elsewhere.
    """

    name: str
    target: str
    preset: Preset = SCREEN


STAGES = {
    "10x": Stage("10x", "gpt-60k-stdlib"),
    "100x": Stage("100x", "gpt-600k-stdlib"),
    "target": Stage("target", "gpt-10m-stdlib"),
}


@dataclass(frozen=True)
class Passed:
    """What a program did at a stage: its speedup there, whether it went on, and the constants that it had.

    `reason` says why there is no speedup, where the program cannot be trained on targets.
    """

    stage: str
    target: str
    speedup: Interval | None
    promoted: bool
    frozen: Frozen | None = None
    reason: str = ""


@dataclass(frozen=True)
class Candidate:
    """A program that enters: its name, text, search fitness where it comes from a search, and its row there."""

    name: str
    program: str
    fitness: float | None = None
    child: int | None = None


@dataclass(frozen=True)
class Journey:
    """A program's whole path through the stages."""

    candidate: Candidate
    passed: list[Passed] = field(default_factory=list)


@dataclass(frozen=True)
class Funnel:
    """All paths, and how stage scores go with search fitness.

    Attributes:
        agreement: Kendall's tau of search fitness and the first stage's speedup, over the programs that have both, with
            a 90% interval; None for fewer than three, or where one side ties them all. Over a narrow range of fitness
            it is low, whatever the proxies.
    """

    paths: list[Journey]
    agreement: Interval | None = None


def funnel(
    candidates: Sequence[Candidate],
    stages: Sequence[Stage],
    home: Path,
    workers: int = 0,
    device: str = "cpu",
    tell: Callable[[str], None] = lambda text: None,
    ran: Callable[[int, float], None] = lambda steps, seconds: None,
    planned: Callable[[int], None] = lambda steps: None,
) -> Funnel:
    """Sends programs through stages: at each all that are left are tuned anew, and what beats AdamW goes on.

    A loss below AdamW's in the mean is enough to go on, since early stages have few seeds; what is claimed of a find
    needs `validate`, whose interval says more. Each stage's finished runs are lines of `home / TARGET.jsonl`.

    Args:
        candidates: What enters.
        stages: In their order.
        home: Folder of the records.
        workers: Processes; 0: this one.
        device: Where runs train.
        tell: Is told of progress, a line each.
        ran: As `tell` of `TargetPool`.
        planned: Is told how many steps a stage is about to train.

    Raises:
        TaskError, TargetTooLarge: In one line, where a target cannot be trained, before the first is.
    """
    for stage in stages:
        check_target_fits(target(stage.target), load("adamw"), device, workers)
    paths = [Journey(candidate, list(_refused(candidate, stages[:1]))) for candidate in candidates]
    left = {path.candidate.name: path for path in paths if not path.passed}
    for stage in stages:
        if not left:
            break
        planned(round(stage.preset.sides(len(left)) * target(stage.target).steps))
        found = _stage(stage, {n: Program.parse(p.candidate.program) for n, p in left.items()}, home, workers, device,
                       tell, ran)  # fmt: skip
        for name, passed in found.items():
            left[name].passed.append(passed)
        left = {name: path for name, path in left.items() if found[name].promoted}
        tell(f"{stage.name} ({stage.target}): {len(left)} of {len(found)} go on")
    return Funnel(paths, agreement(paths))


def _refused(candidate: Candidate, stages: Sequence[Stage]) -> list[Passed]:
    """The end of a path that cannot begin."""
    try:
        check_trainable(Program.parse(candidate.program))
    except ValueError as error:
        return [Passed(stage.name, stage.target, None, False, reason=str(error)) for stage in stages]
    return []


def _stage(
    stage: Stage,
    programs: Mapping[str, Program],
    home: Path,
    workers: int,
    device: str,
    tell: Callable[[str], None],
    ran: Callable[[int, float], None],
) -> dict[str, Passed]:
    record, ratio = Record(home / f"{stage.target}.jsonl"), stage.preset.tuned
    with TargetPool(stage.target, record, workers=workers, device=device, tell=ran) as pool:
        found = validate(pool, programs, stage.preset, "screen", lambda text: tell(f"{stage.name}: {text}"))
    return {
        name: Passed(stage.name, stage.target, beside.speedup, beside.gap.mean < 0 and not beside.flat,
                     contender.frozen[ratio])
        for name, contender in found.contenders.items()
        if name != ADAMW
        for beside in [contender.outcomes[ratio].comparison]
    }  # fmt: skip


def agreement(paths: Sequence[Journey]) -> Interval | None:
    """See `Funnel.agreement`."""
    both = {
        p.candidate.name: (p.candidate.fitness, p.passed[0].speedup.mean)
        for p in paths
        if p.candidate.fitness is not None and p.passed and p.passed[0].speedup is not None
    }
    if len(both) < 3 or min(len(set(side)) for side in zip(*both.values(), strict=True)) < 2:
        return None
    return kendall_tau(
        {name: math.log(fitness) for name, (fitness, _) in both.items()},
        {name: math.log(speedup) for name, (_, speedup) in both.items()},
    )
