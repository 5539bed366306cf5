"""A program as instructions over registers: what the compiled engines of a population interpret.

A register is a place for a value: one number, one number per tensor, a tile of scratch, or a whole tensor in memory.
Instructions stand in passes. Within a pass each tile of each tensor runs through all its instructions on tensors, and
reductions add up; between passes the reductions are finished and the instructions on single numbers run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .flow import Flow, flow
from .kind import Kind
from .ops import OPCODE, OPS
from .program import FIRST, LR, PROGRESS, Arg, Const, G, Program, T, W

TILE = 1024  # elements; as in population.c
GLOBAL, SCALAR, LOCAL, MEMORY = range(4)  # where a value lives
ON_GLOBAL, ON_SCALAR, ON_TENSOR, REDUCE_SCALAR, REDUCE_GLOBAL = range(5)  # what an instruction does
STATES = 2  # MEMORY index of the first state, after weights and gradients
_WHERE = {Kind.GLOBAL: GLOBAL, Kind.SCALAR: SCALAR, Kind.TENSOR: MEMORY}


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
IDLE = Program.parse("def idle(w, g, lr):\n    return where(g < g, g, 0)")


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
        return self._new(GLOBAL, len(self.done.globals) - 1)

    def _scalar(self) -> int:
        self.done.scalars += 1
        return self._new(SCALAR, self.done.scalars - 1)

    def _inputs(self) -> None:
        self.register = {W: self._new(MEMORY, 0), G: self._new(MEMORY, 1)}
        self.register |= {LR: self._new(GLOBAL, 0), T: self._new(GLOBAL, 1), PROGRESS: self._new(GLOBAL, 2)}
        for index, _ in self.flow.states:
            kind = self.flow.kinds[FIRST + index]
            if kind is Kind.TENSOR:
                self.register[FIRST + index] = self._new(MEMORY, STATES + index)
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
                    self.register[value] = self._new(MEMORY, STATES + self.slots + self.done.kept)
                    self.done.kept += 1
                else:
                    self.register[value] = self._new(LOCAL, free.pop() if free else self._local())
            else:
                self.register[value] = self._scalar() if node.kind is Kind.SCALAR else self._global(0.0)
            for arg in set(node.args):  # after the value has its own tile: no instruction works in place
                place = self.done.places[self.register[arg]] if arg in self.register else (GLOBAL, 0)
                if place[0] == LOCAL and last[arg] == position:
                    free.append(place[1])

    def _local(self) -> int:
        self.done.locals += 1
        return self.done.locals - 1

    def _write(self, value: int) -> None:
        node = self._node(value)
        if not OPS[node.op].elementwise:
            unit = REDUCE_SCALAR if node.kind is Kind.SCALAR else REDUCE_GLOBAL
        else:
            unit = {Kind.GLOBAL: ON_GLOBAL, Kind.SCALAR: ON_SCALAR, Kind.TENSOR: ON_TENSOR}[node.kind]
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
        return last is not None and last.unit == ON_TENSOR and last.number == self.top

    def _owned(self, end: Arg, always: bool = False) -> int:
        computed = isinstance(end, int) and end >= self.flow.first_node and self.flow.kind(end) is Kind.TENSOR
        if computed and not always:
            return self._of(end)
        dest = self._new(LOCAL, self._local())
        self._instruction("identity", ON_TENSOR, self.top, dest, (end,))
        return dest
