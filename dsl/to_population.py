"""P programs over P weight sets in one call: programs as rows of opcodes, and the engine that runs them.

On the CPU the engine is `population.c`, made from the op table and compiled once by the system's compiler. It knows
elementwise rows and reductions over tensors. Programs with a route, matrix rows, oracles or codecs, and all programs
without a compiler or on other devices, run one by one in their torch form, each on its own slice.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .compile_c import CompilerMissing, build_library
from .flow import Flow, flow
from .kind import Kind
from .ops import OPCODE, OPS, ROWS
from .passes import fusable
from .program import FIRST, LR, PROGRESS, Arg, Const, G, Program, T, W
from .to_torch import compile_step, zero_states

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

_TILE = 1024  # as in population.c
_GLOBAL, _SCALAR, _LOCAL, _MEMORY = range(4)
_ON_GLOBAL, _ON_SCALAR, _ON_TENSOR, _REDUCE_SCALAR, _REDUCE_GLOBAL = range(5)
_STATES = 2  # MEMORY index of the first state, after weights and gradients
_WHERE = {Kind.GLOBAL: _GLOBAL, Kind.SCALAR: _SCALAR, Kind.TENSOR: _MEMORY}


class Instruction(NamedTuple):
    """As in population.c."""

    opcode: int
    unit: int
    number: int  # of the pass
    dest: int
    x: int
    y: int
    z: int


@dataclass
class Encoded:
    """One program as instructions over registers."""

    instructions: list[Instruction] = field(default_factory=list)
    places: list[tuple[int, int]] = field(default_factory=list)
    stores: list[tuple[int, int, int, int]] = field(default_factory=list)
    update: int = 0
    globals: list[float] = field(default_factory=list)  # their values before the first step
    scalars: int = 0
    locals: int = 0
    kept: int = 0


#: Stands in the compiled engine for a program that runs elsewhere: its update is 0.
_IDLE = Program.parse("def idle(w, g, lr):\n    return where(g < g, g, 0)")


def encode(program: Program, slots: int) -> Encoded:
    """The program as instructions in passes; `slots` is the largest number of states among its neighbours."""
    return _Encoder(program, slots).done


class _Encoder:
    """Sorts live nodes into passes, gives each value a place, and writes instructions.

    The level of a value is the number of reductions that must be finished before it can be computed; a pass
    is one level.
    """

    def __init__(self, program: Program, slots: int) -> None:
        self.flow: Flow = flow(program, expand=True)
        self.slots = slots
        self.done = Encoded(globals=[program.peak, 0.0, 0.0])
        self.register: dict[Arg, int] = {}
        self.level = self._levels()
        self.top = max(self.level.values(), default=0)
        self._inputs()
        order = self._ordered()
        self._place_nodes(order)
        for value in order:
            self._write(value)
        self._ends()

    def _node(self, value: int) -> Any:
        return self.flow.nodes[value - self.flow.first_node]

    def _levels(self) -> dict[int, int]:
        level: dict[int, int] = {}
        for value, node in enumerate(self.flow.nodes, self.flow.first_node):
            ready = max((level.get(a, 0) for a in node.args if isinstance(a, int)), default=0)
            level[value] = ready + (not OPS[node.op].elementwise)
        return level

    def _pass_of(self, value: int) -> int:
        """The pass in which a node's instruction runs: a reduction runs in the pass before its level."""
        return self.level[value] - (not OPS[self._node(value).op].elementwise)

    def _ordered(self) -> list[int]:
        """By pass; within a pass single numbers first."""
        values = range(self.flow.first_node, self.flow.first_node + len(self.flow.nodes))

        def rank(value: int) -> tuple[int, bool]:
            node = self._node(value)
            return self._pass_of(value), node.kind is Kind.TENSOR or not OPS[node.op].elementwise

        return sorted(values, key=rank)  # sorted is stable: dependencies stay in order

    def _new(self, where: int, index: int) -> int:
        self.done.places.append((where, index))
        return len(self.done.places) - 1

    def _global(self, value: float) -> int:
        self.done.globals.append(value)
        return self._new(_GLOBAL, len(self.done.globals) - 1)

    def _scalar(self) -> int:
        self.done.scalars += 1
        return self._new(_SCALAR, self.done.scalars - 1)

    def _inputs(self) -> None:
        self.register = {W: self._new(_MEMORY, 0), G: self._new(_MEMORY, 1)}
        self.register |= {LR: self._new(_GLOBAL, 0), T: self._new(_GLOBAL, 1), PROGRESS: self._new(_GLOBAL, 2)}
        for index, _ in self.flow.states:
            kind = self.flow.kinds[FIRST + index]
            if kind is Kind.TENSOR:
                self.register[FIRST + index] = self._new(_MEMORY, _STATES + index)
            else:
                self.register[FIRST + index] = self._scalar() if kind is Kind.SCALAR else self._global(0.0)
        for value, default in self.flow.hypers.items():
            self.register[value] = self._global(default)

    def _of(self, arg: Arg) -> int:
        if arg not in self.register:
            assert isinstance(arg, Const)
            self.register[arg] = self._global(arg.value)
        return self.register[arg]

    def _place_nodes(self, order: list[int]) -> None:
        """Values read in a later pass live in memory; the others share tiles of scratch."""
        last: dict[Arg, int] = {}  # position of the last reader
        passes: dict[Arg, int] = {}  # pass of the last reader
        for position, value in enumerate(order):
            for arg in self._node(value).args:
                last[arg], passes[arg] = position, max(passes.get(arg, 0), self._pass_of(value))
        for end in (self.flow.update, *(e for _, e in self.flow.states)):
            last[end], passes[end] = len(order), self.top
        free: list[int] = []
        for position, value in enumerate(order):
            node = self._node(value)
            if node.kind is Kind.TENSOR:
                if passes.get(value, 0) > self._pass_of(value):
                    self.register[value] = self._new(_MEMORY, _STATES + self.slots + self.done.kept)
                    self.done.kept += 1
                else:
                    self.register[value] = self._new(_LOCAL, free.pop() if free else self._local())
            else:
                self.register[value] = self._scalar() if node.kind is Kind.SCALAR else self._global(0.0)
            for arg in set(node.args):  # after the value has its own tile: no instruction works in place
                place = self.done.places[self.register[arg]] if arg in self.register else (_GLOBAL, 0)
                if place[0] == _LOCAL and last[arg] == position:
                    free.append(place[1])

    def _local(self) -> int:
        self.done.locals += 1
        return self.done.locals - 1

    def _write(self, value: int) -> None:
        node = self._node(value)
        if not OPS[node.op].elementwise:
            unit = _REDUCE_SCALAR if node.kind is Kind.SCALAR else _REDUCE_GLOBAL
        else:
            unit = {Kind.GLOBAL: _ON_GLOBAL, Kind.SCALAR: _ON_SCALAR, Kind.TENSOR: _ON_TENSOR}[node.kind]
        self._instruction(node.op, unit, self._pass_of(value), self.register[value], node.args)

    def _instruction(self, op: str, unit: int, number: int, dest: int, args: Sequence[Arg]) -> None:
        x, y, z = ([self._of(a) for a in args] + [-1] * 3)[:3]
        self.done.instructions.append(Instruction(OPCODE[op], unit, number, dest, x, y, z))

    def _ends(self) -> None:
        """The update and new tensor states stand in tiles or memory that no state or weight shares."""
        self.done.update = self._owned(self.flow.update, always=not self._last_pass_has_tensors())
        for index, end in self.flow.states:
            kind = self.flow.kinds[FIRST + index]
            source = self._owned(end) if kind is Kind.TENSOR else self._of(end)
            self.done.stores.append((source, index, _WHERE[kind], self.register[FIRST + index]))

    def _last_pass_has_tensors(self) -> bool:
        last = self.done.instructions[-1] if self.done.instructions else None
        return last is not None and last.unit == _ON_TENSOR and last.number == self.top

    def _owned(self, end: Arg, always: bool = False) -> int:
        computed = isinstance(end, int) and end >= self.flow.first_node and self.flow.kind(end) is Kind.TENSOR
        if computed and not always:
            return self._of(end)
        dest = self._new(_LOCAL, self._local())
        self._instruction("identity", _ON_TENSOR, self.top, dest, (end,))
        return dest


# --- the engine -----------------------------------------------------------------------------------------


def _c_source(real: str) -> str:
    """population.c with the op table filled in."""
    suffix = "f" if real == "float" else ""

    def case(row_name: str, body: str) -> str:
        return f"    case {OPCODE[row_name]}: {body} break; /* {row_name} */"

    maps = [case(r.name, f"EACH{r.arity}({r.c.replace('{f}', suffix)});") for r in ROWS if r.elementwise and r.c]
    reductions = [r for r in ROWS if not r.elementwise and r.c]
    reduces = [case(r.name, "LARGEST;" if r.name == "amax" else f"SUM({r.c});") for r in reductions]
    finishes = [case(r.name, f"return {r.finish};") for r in reductions]
    text = resources.files(__package__).joinpath("population.c").read_text("utf-8")
    for mark, cases in (("@MAPS@", maps), ("@REDUCES@", reduces), ("@FINISHES@", finishes)):
        text = text.replace(mark, "\n".join(cases))
    return text.replace("typedef REAL real;", f"typedef {real} real;")


class _Space(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("tensors", "elements", "slots")),
        *((name, ctypes.c_void_p) for name in ("size", "offset", "w", "g", "states", "scalar_states",
                                               "global_states", "globals", "scalars")),
        *((name, ctypes.c_int64) for name in ("globals_each", "scalars_each")),
        *((name, ctypes.c_void_p) for name in ("scratch", "memory")),
    ]  # fmt: skip


@cache
def _engine(real: str) -> Any:
    function = build_library(_c_source(real), name=f"population_{real}").population_step
    function.restype = None
    function.argtypes = [ctypes.c_void_p, ctypes.c_int64, *[ctypes.c_void_p] * 4]
    return function


def engine_name() -> str:
    """Which engine steps populations on the CPU here: "c", or "torch" where no compiler works."""
    try:
        _engine("float")
    except CompilerMissing:
        return "torch"
    return "c"


@cache
def _notice(reason: str) -> None:
    log.warning("%s: programs run one by one through torch, several times slower", reason)


class PopulationStep:
    r"""P update programs, each with its own states, applied to P weight sets.

    `params` and `grads` are lists with one contiguous tensor (P, *shape) per parameter. A step does
    w_p <- w_p - update_p for every p, in place, and moves the states on. `roles` are those of the parameters
    (default: by their axes), `seed` that of random draws.

    >>> import torch
    >>> programs = [Program.parse(f"def sgd(w, g, lr={lr}):\n  return lr * g") for lr in (0.5, 0.25)]
    >>> w, g = [torch.zeros(2, 3)], [torch.ones(2, 3)]
    >>> PopulationStep(programs, w).step(w, g)
    >>> w[0].tolist()
    [[-0.5, -0.5, -0.5], [-0.25, -0.25, -0.25]]
    """

    def __init__(
        self, programs: Sequence[Program], params: Sequence[Tensor], roles: Sequence[str] | None = None, seed: int = 0
    ) -> None:
        for p in params:
            if p.shape[0] != len(programs) or not p.is_contiguous():
                raise ValueError(f"a parameter of shape {tuple(p.shape)}: need contiguous ({len(programs)}, ...)")
        self.programs = list(programs)
        compiled = self._compiled(params)
        self.engines: list[_CEngine | _TorchEngine] = [compiled] if compiled else []
        rest = [i for i, p in enumerate(self.programs) if compiled is None or not fusable(p)]
        if rest:
            self.engines.append(_TorchEngine(self.programs, params, rest, roles, seed))

    def _compiled(self, params: Sequence[Tensor]) -> _CEngine | None:
        """The compiled engine, where it runs here and has anything to do."""
        import torch

        real = {torch.float32: "float", torch.float64: "double"}.get(params[0].dtype)
        here = [p if fusable(p) else _IDLE for p in self.programs]
        if params[0].device.type != "cpu" or not real or all(p is _IDLE for p in here):
            return None
        try:
            return _CEngine(here, params, real)
        except CompilerMissing as missing:
            _notice(str(missing))
            return None

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
        for engine in self.engines:
            engine.step(params, grads, each, t, progress, oracles or {})


class _CEngine:
    """The compiled interpreter and the memory it works in."""

    def __init__(self, programs: Sequence[Program], params: Sequence[Tensor], real: str) -> None:
        self.function = _engine(real)
        self.count, dtype = len(programs), np.dtype(real if real == "double" else "float32")
        slots = max(len(p.states) for p in programs)
        codes = [encode(p, slots) for p in programs]
        sizes = np.array([p[0].numel() for p in params], np.int64)
        offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
        self.peaks = np.array([p.peak for p in programs])
        self.globals = np.zeros((self.count, max(len(c.globals) for c in codes)), dtype)
        with np.errstate(over="ignore"):  # a number too large for float32 is infinite there
            for row, code in zip(self.globals, codes, strict=True):
                row[: len(code.globals)] = code.globals
        scalars = max([1, *(c.scalars for c in codes)])
        self.states = [p.new_zeros(p.shape) for _ in range(slots) for p in params]
        self.pointers = np.zeros((2 + slots, len(params)), np.uintp)
        self.pointers[2:].reshape(-1)[:] = [s.data_ptr() for s in self.states]
        self.arrays = {
            "size": sizes, "offset": offsets, "globals": self.globals,
            "scalars": np.zeros((self.count, scalars, len(params)), dtype),
            "scalar_states": np.zeros((self.count, max(slots, 1), len(params)), dtype),
            "global_states": np.zeros((self.count, max(slots, 1)), dtype),
            "scratch": np.zeros((max([1, *(c.locals for c in codes)]), _TILE), dtype),
            "memory": np.zeros((max([1, *(c.kept for c in codes)]), int(sizes.sum())), dtype),
        }  # fmt: skip
        self.tables = self._tables(codes)
        self.space = _Space(
            tensors=len(params), elements=int(sizes.sum()), slots=slots, globals_each=self.globals.shape[1],
            scalars_each=scalars, w=self.pointers[0].ctypes.data, g=self.pointers[1].ctypes.data,
            states=self.pointers[2:].ctypes.data, **{k: a.ctypes.data for k, a in self.arrays.items()},
        )  # fmt: skip
        self.call = (ctypes.addressof(self.space), self.count, *(t.ctypes.data for t in self.tables))

    def _tables(self, codes: Sequence[Encoded]) -> list[np.ndarray[Any, Any]]:
        programs, instructions, places, stores = [], [], [], []  # type: ignore[var-annotated]
        for code in codes:
            programs.append((len(instructions), len(instructions) + len(code.instructions), len(places),
                             code.update, len(stores), len(stores) + len(code.stores)))  # fmt: skip
            instructions += code.instructions
            places += code.places
            stores += code.stores
        return [np.array(rows or [(0,)], np.int32) for rows in (programs, instructions, places, stores)]

    def step(
        self, params: Sequence[Tensor], grads: Sequence[Tensor], schedule: Any, t: int, progress: float,
        oracles: Mapping[str, Any],
    ) -> None:  # fmt: skip
        with np.errstate(over="ignore"):
            self.globals[:, 0] = self.peaks * schedule
        self.globals[:, 1] = t
        self.globals[:, 2] = progress
        self.pointers[0] = [p.data_ptr() for p in params]
        self.pointers[1] = [g.data_ptr() for g in grads]
        self.function(*self.call)


class _TorchEngine:
    """The torch forms of some of the programs, each on its own slice."""

    def __init__(
        self, programs: Sequence[Program], params: Sequence[Tensor], which: Sequence[int] | None = None,
        roles: Sequence[str] | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        self.which = list(range(len(programs)) if which is None else which)
        self.steps = [compile_step(programs[i], roles, seed) for i in self.which]
        self.states = [zero_states(programs[i], [w[i] for w in params], roles) for i in self.which]

    def step(
        self, params: Sequence[Tensor], grads: Sequence[Tensor], schedule: Any, t: int, progress: float,
        oracles: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        for number, (index, step) in enumerate(zip(self.which, self.steps, strict=True)):
            w, g = [p[index] for p in params], [x[index] for x in grads]
            given = {name: _slice(value, index) for name, value in (oracles or {}).items()}
            update, self.states[number] = step(w, g, self.states[number], float(schedule[index]), t, progress, given)
            for p, u in zip(w, update, strict=True):
                p.sub_(u)


def _slice(value: Any, index: int) -> Any:
    return [x[index] for x in value] if isinstance(value, list) else value[index]
