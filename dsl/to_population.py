"""P programs over P weight sets in one call: which engine runs which program.

The compiled engines interpret programs as rows of opcodes (`encode`): on CPUs `c_engine`, on GPUs `triton_engine`,
both made from the op table. They know elementwise rows and reductions over tensors. Programs with matrix rows, oracles
or codecs, and all programs without a compiler, run one by one in their torch form (`torch_engine`), each on its own
slice. Of a program with a route each part runs where it can, on the parameters that it claims.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from .c_engine import CEngine, compiled_interpreter
from .compile_c import CompilerMissing
from .compiled_engine import CompiledEngine
from .encode import IDLE
from .passes import fusable
from .program import Program
from .to_torch import claims
from .torch_engine import TorchEngine

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

_OF_DEVICE = {"cpu": "c", "cuda": "triton"}


def engine_name(device: str = "cpu") -> str:
    """Which engine steps populations on a device here: "c" or "triton", or "torch" where no compiler works.

    >>> engine_name("mps")
    'torch'
    """
    name = _OF_DEVICE.get(device.partition(":")[0], "torch")
    try:
        _check(name)
    except CompilerMissing:
        return "torch"
    return name


def _check(name: str) -> None:
    """Raises CompilerMissing where an engine cannot run."""
    if name == "c":
        compiled_interpreter("float")
    if name == "triton" and find_spec("triton") is None:
        raise CompilerMissing("triton is not installed (pip install triton)")


@cache
def _notice(reason: str) -> None:
    log.warning("%s: programs run one by one through torch, several times slower", reason)


class PopulationStep:
    r"""P update programs, each with its own states, applied to P weight sets.

    `params` and `grads` are lists with one contiguous tensor (P, *shape) per parameter. A step does
    w_p <- w_p - update_p for every p, in place, and moves the states on. `roles` are those of the parameters
    (default: by their axes), `seed` that of random draws. `engine` is "c", "triton" or "torch" (default: by the
    device); "triton" takes tensors of the CPU too where TRITON_INTERPRET=1.

    >>> import torch
    >>> programs = [Program.parse(f"def sgd(w, g, lr={lr}):\n  return lr * g") for lr in (0.5, 0.25)]
    >>> w, g = [torch.zeros(2, 3)], [torch.ones(2, 3)]
    >>> PopulationStep(programs, w).step(w, g)
    >>> w[0].tolist()
    [[-0.5, -0.5, -0.5], [-0.25, -0.25, -0.25]]
    """

    def __init__(
        self, programs: Sequence[Program], params: Sequence[Tensor], roles: Sequence[str] | None = None, seed: int = 0,
        engine: str | None = None,
    ) -> None:  # fmt: skip
        for p in params:
            if p.shape[0] != len(programs) or not p.is_contiguous():
                raise ValueError(f"a parameter of shape {tuple(p.shape)}: need contiguous ({len(programs)}, ...)")
        self.programs = list(programs)
        name = engine or _OF_DEVICE.get(params[0].device.type, "torch")
        rest: dict[int, list[int]] | None  # None: all parts of all programs
        known, rest = _divided(self.programs, [p[0] for p in params], roles)
        compiled = {mine: self._compiled(parts, [params[i] for i in mine], name) for mine, parts in known.items()}
        if None in compiled.values():  # no compiler, or another dtype
            compiled, rest = {}, None
        self.engines: list[CompiledEngine | TorchEngine] = [one for one in compiled.values() if one is not None]
        self.claims: list[Sequence[int]] = list(compiled)  # the parameters of each engine
        if rest is None or rest:
            self.engines.append(TorchEngine(self.programs, params, rest, roles, seed))
            self.claims.append(range(len(params)))

    def _compiled(self, programs: Sequence[Program], params: Sequence[Tensor], name: str) -> CompiledEngine | None:
        """The compiled engine of that name, where it runs here."""
        import torch

        real = {torch.float32: "float", torch.float64: "double"}.get(params[0].dtype)
        if name == "torch" or not real:
            return None
        try:
            _check(name)
            if name == "c":
                return CEngine(programs, params, real)
            from .triton_engine import TritonEngine

            return TritonEngine(programs, params)
        except CompilerMissing as missing:
            _notice(str(missing))
            return None

    @property
    def replayable(self) -> bool:
        """Whether all programs run in a compiled engine, so that a step is `write_numbers` and then `launch`."""
        return all(isinstance(engine, CompiledEngine) for engine in self.engines)

    def write_numbers(self, schedule: float | np.ndarray[Any, np.dtype[np.float64]], t: int, progress: float) -> None:
        """Sets what the next launch reads of single numbers; see `step`."""
        for engine in self._compiled_engines():
            engine.write_numbers(np.broadcast_to(schedule, len(self.programs)), t, progress)

    def launch(self, params: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
        """A step with the numbers that were written last; on a GPU it can be captured once it has run."""
        for engine, mine in zip(self._compiled_engines(), self.claims, strict=True):
            engine.launch([params[i] for i in mine], [grads[i] for i in mine])

    def _compiled_engines(self) -> list[CompiledEngine]:
        assert self.replayable, "a program that runs through torch takes its numbers with the step"
        return [engine for engine in self.engines if isinstance(engine, CompiledEngine)]

    def step(
        self,
        params: Sequence[Tensor],
        grads: Sequence[Tensor],
        schedule: float | np.ndarray[Any, np.dtype[np.float64]] = 1.0,
        t: int = 1,
        progress: float = 0.0,
        oracles: Mapping[str, Any] | None = None,
    ) -> None:
        """One step in place.

        `schedule` multiplies the peak learning rates; one number, or one per program. `oracles` gives what is due,
        by name, with a leading axis of programs.
        """
        each = np.broadcast_to(schedule, len(self.programs))
        for engine, mine in zip(self.engines, self.claims, strict=True):
            engine.step([params[i] for i in mine], [grads[i] for i in mine], each, t, progress, oracles or {})


def _divided(
    programs: Sequence[Program], params: Sequence[Tensor], roles: Sequence[str] | None
) -> tuple[dict[tuple[int, ...], list[Program]], dict[int, list[int]]]:
    """Parts for the compiled engines by the parameters that they claim, a place for each program; and for each other
    program the numbers of the parts that run through torch.
    """
    known: dict[tuple[int, ...], list[Program]] = {}
    rest: dict[int, list[int]] = {}
    for index, program in enumerate(programs):
        for number, (part, mine) in enumerate(zip(program.parts(), claims(program, params, roles), strict=True)):
            if mine and fusable(part):
                known.setdefault(tuple(mine), [IDLE] * len(programs))[index] = part
            elif mine:
                rest.setdefault(index, []).append(number)
    return known, rest
