"""The engine of populations for what the compiled engines do not know: torch forms of programs, one by one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .program import Program
from .to_torch import compile_step, zero_states

if TYPE_CHECKING:
    from torch import Tensor


class TorchEngine:
    """The torch forms of some of the programs, or of parts of them, each on its own slice.

    `which` gives the parts that step of each such program, by number (default: all of all).
    """

    def __init__(
        self, programs: Sequence[Program], params: Sequence[Tensor], which: Mapping[int, Collection[int]] | None = None,
        roles: Sequence[str] | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        which = {i: range(len(p.parts())) for i, p in enumerate(programs)} if which is None else which
        self.which = list(which)
        self.steps = [compile_step(programs[i], roles, seed, only=parts) for i, parts in which.items()]
        self.states = [zero_states(programs[i], [w[i] for w in params], roles, parts) for i, parts in which.items()]

    def step(
        self, params: Sequence[Tensor], grads: Sequence[Tensor], schedule: Any, t: int, progress: float,
        oracles: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """One step in place."""
        for number, (index, step) in enumerate(zip(self.which, self.steps, strict=True)):
            w, g = [p[index] for p in params], [x[index] for x in grads]
            given = {name: _slice(value, index) for name, value in (oracles or {}).items()}
            update, self.states[number] = step(w, g, self.states[number], float(schedule[index]), t, progress, given)
            for p, u in zip(w, update, strict=True):
                if u is not None:  # else a compiled engine steps it
                    p.sub_(u)


def _slice(value: Any, index: int) -> Any:
    return [x[index] for x in value] if isinstance(value, list) else value[index]
