"""How large a population fits a device, so that one that does not is refused in a line rather than by a crash."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import prod

import torch

from ..dsl import Program
from ..proxies import Task
from ..proxies.data import Batch
from ..proxies.workspace import release_scratch
from .available import available
from .gradients import dtype_of

_FLOAT = 4  # bytes
_MANY = 1 << 30  # copies, of which a slice takes as many as it ever does
_MARGIN = 0.9  # the share of free memory that is counted on; kernels, tables and libraries take some too


class PopulationTooLarge(ValueError):
    """A population that the device has no memory for: what it needs, what there is, and how many copies fit."""


@dataclass(frozen=True)
class Footprint:
    """What a population takes on a device, in bytes.

    Attributes:
        resident: Of a copy, all the time: weights, gradients, states, their copies in less precision.
        passes: Of each kind of pass, for a copy of a slice, and the most copies that a slice has. There are slices of
            two sizes where the last is smaller.

    >>> rule = Footprint(resident=100, passes=((50, 4),))
    >>> rule.bytes(2), rule.bytes(10), rule.largest(1400)
    (300, 1400, 10)
    """

    resident: int
    passes: tuple[tuple[int, int], ...]

    def bytes(self, copies: int) -> int:
        """What so many copies take."""
        return copies * self.resident + sum(each * min(copies, 2 * most) for each, most in self.passes)

    def largest(self, free: int) -> int:
        """The most copies that so many bytes hold."""
        low, high = 0, max(1, free // self.resident + 1)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.bytes(middle) <= free else (low, middle)
        return low


def footprint(task: Task, programs: Sequence[Program], device: torch.device, dtype: str = "float32") -> Footprint:
    """What copies of a task's model take that these programs train, with the pass in `dtype`."""
    weights = sum(map(prod, task.model.shapes.values()))
    parts = [part for program in programs for part in program.parts()]
    # Of each way in which programs divide the weights, a compiled engine keeps states for all copies.
    divisions = len({tuple(part.roles for part in program.parts()) for program in programs})
    slots = divisions * max((len(part.states) for part in parts), default=0)
    estimates = 4 if any(part.periods for part in parts) else 0  # two sides of a difference and their gradients
    pass_dtype = dtype_of(dtype)
    low = 0 if pass_dtype is torch.float32 else 2 * pass_dtype.itemsize
    resident = weights * (_FLOAT * (2 + slots + estimates) + low)
    passes = [
        (task.model.pass_bytes(batch) * kind.itemsize // _FLOAT, task.model.slice_size(_MANY, batch, device, kind))
        for batch, kind in zip(_batches(task), (pass_dtype, torch.float32), strict=True)
    ]
    return Footprint(resident, tuple(passes))


@cache
def _batches(task: Task) -> tuple[Batch, Batch]:
    """A batch to train on and one to validate on."""
    return next(iter(task.batches(0, 1))), task.validation()[0]


def largest_population(task: Task, programs: Sequence[Program], device: str = "cpu", dtype: str = "float32") -> int:
    """How many copies of a task's model fit a device now, for programs with as many states as these.

    Scratch of earlier populations is given up.

    >>> from stepsmith.proxies import task
    >>> largest_population(task("digits"), [Program.parse("def sgd(w, g, lr):\\n  return lr * g")]) > 1000
    True
    """
    place = torch.device(device)
    return _largest(footprint(task, programs, place, dtype), available(place) + release_scratch(place))


def _largest(taken: Footprint, free: int) -> int:
    return taken.largest(int(_MARGIN * free))


def check_fits(
    task: Task, programs: Sequence[Program], device: str, dtype: str = "float32", copies: int | None = None
) -> None:
    """Raises PopulationTooLarge, in one line, where `copies` (default: one for each program) have no room.

    Scratch of earlier populations is given up where it stands in the way.
    """
    place, count = torch.device(device), len(programs) if copies is None else copies
    taken, free = footprint(task, programs, place, dtype), available(place)
    if count > _largest(taken, free):
        free += release_scratch(place)
    if count > _largest(taken, free):
        raise PopulationTooLarge(
            f"a population of {count} on {task.name} needs {taken.bytes(count) / 1e9:.2f} GB on {device}, where "
            f"{free / 1e9:.2f} GB are free: train at most {_largest(taken, free)} programs at once"
        )
