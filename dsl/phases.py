"""The phases of an encoded program: what the Triton kernel goes through.

A phase is a range of instructions over a range of tiles. Instructions on single numbers go over one element, of one
tensor or of each; those on tensors over all tiles. Storing states and weights is written as instructions too: copies
and a subtraction at the end of the last pass. Registers become rows of one table of places.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from .encode import (
    GLOBAL,
    LOCAL,
    MEMORY,
    ON_GLOBAL,
    ON_SCALAR,
    ON_TENSOR,
    REDUCE_GLOBAL,
    REDUCE_SCALAR,
    SCALAR,
    STATES,
    Encoded,
    Instruction,
)
from .ops import OPCODE

_UNITS = {ON_GLOBAL: 0, ON_SCALAR: 0, ON_TENSOR: 0, REDUCE_SCALAR: 1, REDUCE_GLOBAL: 2}  # in the kernel


class Layout(NamedTuple):
    """Rows of the table of places: where each kind of value begins. Rows from `kept` on are scratch."""

    globals: int
    scalars: int
    memory: int  # weights, gradients, states
    scalar_states: int
    global_states: int
    kept: int
    locals: int
    end: int

    def row(self, place: tuple[int, int]) -> int:
        """The row of a register."""
        where, index = place
        if where == MEMORY and index >= self.scalar_states - self.memory:
            return self.kept + index - (self.scalar_states - self.memory)
        return {GLOBAL: self.globals, SCALAR: self.scalars, LOCAL: self.locals, MEMORY: self.memory}[where] + index


def phases(code: Encoded, layout: Layout) -> Iterator[tuple[int, list[tuple[int, ...]]]]:
    r"""The phases of a program: the unit of what they go over, and their instructions as rows of the kernel's table.

    >>> from stepsmith.dsl import OPS, Program
    >>> from stepsmith.dsl.encode import encode
    >>> names = list(OPS)
    >>> code = encode(Program.parse("def f(w, g, lr):\n  return lr * g / rms(g)"), slots=0)
    >>> for unit, lines in phases(code, Layout(0, 3, 4, 6, 6, 6, 6, 8)):
    ...     print(unit, [names[opcode] for opcode, *_ in lines])
    2 ['multiply', 'rms']
    2 ['divide', 'subtract']
    """

    def line(c: Instruction) -> tuple[int, ...]:
        registers = (layout.row(code.places[r]) if r >= 0 else 0 for r in (c.dest, c.x, c.y, c.z))
        return c.opcode, _UNITS[c.unit], *registers

    singles = [store for store in code.stores if store[2] != MEMORY]
    kept = {GLOBAL: layout.global_states, SCALAR: layout.scalar_states}
    units = {GLOBAL: ON_GLOBAL, SCALAR: ON_SCALAR}
    for _, state, where, target in singles:
        yield units[where], [_copy(layout.row(code.places[target]), kept[where] + state)]
    runs = [(unit, list(some)) for (_, unit), some in groupby(_sorted(code), key=lambda c: (c.number, _domain(c)))]
    for number, (unit, some) in enumerate(runs):
        last = number == len(runs) - 1
        yield unit, [line(c) for c in some] + (_stores(code, layout) if last else [])
    for source, state, where, _ in singles:
        yield units[where], [_copy(kept[where] + state, layout.row(code.places[source]))]


def _domain(c: Instruction) -> int:
    """What an instruction goes over: one number, one per tensor, or all tiles."""
    return min(c.unit, ON_TENSOR)


def _sorted(code: Encoded) -> list[Instruction]:
    """By pass, and in a pass by domain; a number of all tensors needs none per tensor of its own pass."""
    return sorted(code.instructions, key=lambda c: (c.number, _domain(c)))


def _copy(to: int, source: int) -> tuple[int, ...]:
    return OPCODE["identity"], 0, to, source, 0, 0


def _stores(code: Encoded, layout: Layout) -> list[tuple[int, ...]]:
    """States that are tensors take their new values, then w takes the update."""
    states = [
        _copy(layout.memory + STATES + state, layout.row(code.places[source]))
        for source, state, where, _ in code.stores
        if where == MEMORY
    ]
    update = layout.row(code.places[code.update])
    return [*states, (OPCODE["subtract"], 0, layout.memory, layout.memory, update, 0)]
