"""What the compiled engines of a population share: encoded programs, and a step in two parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .encode import encode
from .program import Program

if TYPE_CHECKING:
    from torch import Tensor


class CompiledEngine:
    """Interprets P encoded programs in place; a child gives `write_numbers` and `launch`.

    A step writes its numbers to memory that stays, then launches what reads them there. So a launch can be recorded
    once and replayed with other numbers.
    """

    def __init__(self, programs: Sequence[Program]) -> None:
        self.count = len(programs)
        self.slots = max(len(p.states) for p in programs)
        self.codes = [encode(p, self.slots) for p in programs]
        self.peaks = np.array([p.peak for p in programs])

    def most(self, what: str) -> int:
        """The largest number of scalars, locals or kept tensors of a program; at least 1."""
        return max([1, *(getattr(code, what) for code in self.codes)])

    def globals_table(self, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
        """(P, most) single numbers before the first step."""
        table = np.zeros((self.count, max(len(c.globals) for c in self.codes)), dtype)
        with np.errstate(over="ignore"):  # a number too large for float32 is infinite there
            for row, code in zip(table, self.codes, strict=True):
                row[: len(code.globals)] = code.globals
        return table

    def write_numbers(self, schedule: Any, t: int, progress: float) -> None:
        """Sets what a step reads of single numbers: (P,) multipliers of the peaks, the count, the progress."""
        raise NotImplementedError

    def launch(self, params: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
        """Runs the programs once."""
        raise NotImplementedError

    def step(
        self, params: Sequence[Tensor], grads: Sequence[Tensor], schedule: Any, t: int, progress: float,
        oracles: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """One step in place."""
        self.write_numbers(schedule, t, progress)
        self.launch(params, grads)
