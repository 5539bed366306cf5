"""Passes: in which a fused kernel goes over the elements of all tensors, and what is worked out between.

A reduction must be finished before what reads it can start. So a rule takes one pass over its tensors for each
reduction that stands behind another, and one more that writes; what elements need in a later pass is worked out again
rather than kept, because weights, gradients and states stand as they were until the last pass writes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from .flow import Flow, Node, flow
from .kind import Kind
from .ops import OPS
from .program import NOISE, ORACLES, Arg, Program

_SIZE = "size"  # known without a look at the elements


class Pass(NamedTuple):
    """One pass; values are numbers of the flow's nodes, in an order in which they can be worked out.

    `numbers` and `scalars` are ready once, and once per tensor, before the pass begins; `elements` at each element;
    `reductions` are summed up in it.
    """

    numbers: tuple[int, ...]
    scalars: tuple[int, ...]
    elements: tuple[int, ...]
    reductions: tuple[int, ...]


class Passes:
    r"""The passes of a program without matrix rows.

    >>> def counts(line):
    ...     made = Passes(Program.parse(f"def f(w, g, lr):\n  return lr * {line}"))
    ...     return [(len(each.elements), len(each.reductions)) for each in made.passes]
    >>> counts("sign(g)"), counts("g / rms(g)"), counts("clip(g, 1.0)")
    ([(2, 0)], [(0, 1), (2, 0)], [(0, 1), (2, 0)])
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.flow: Flow = flow(program, expand=True)
        self._level = self._levels()
        top = max((self._level[end] for end in self._ends() if isinstance(end, int)), default=0)
        self.passes = tuple(self._pass(number, top) for number in range(top + 1))

    def node(self, value: int) -> Node:
        """The node that makes a value."""
        return self.flow.nodes[value - self.flow.first_node]

    def reduces(self, value: int) -> bool:
        """Whether a value needs a look at all elements."""
        op = self.node(value).op
        return not OPS[op].elementwise and op != _SIZE

    def reads(self, one: Pass) -> list[int]:
        """The tensors that stand in memory and that the elements of a pass are made of: w, g and states."""
        values = (*one.elements, *one.reductions)
        args = [a for v in values for a in self.node(v).args]
        if not one.reductions:
            args += [end for end in self._ends() if self.flow.kind(end) is Kind.TENSOR]
        inputs = {a for a in args if isinstance(a, int) and a < self.flow.first_node}
        return sorted(a for a in inputs if self.flow.kind(a) is Kind.TENSOR)

    def _ends(self) -> list[Arg]:
        return [self.flow.update, *(end for _, end in self.flow.states)]

    def _levels(self) -> dict[Arg, int]:
        """How many passes must be over before a value can be worked out."""
        level: dict[Arg, int] = {slot: 0 for slot in range(self.flow.first_node)}
        for value, node in enumerate(self.flow.nodes, self.flow.first_node):
            ready = max((level[a] for a in node.args if isinstance(a, int)), default=0)
            level[value] = ready + self.reduces(value)
        return level

    def _pass(self, number: int, top: int) -> Pass:
        values = range(self.flow.first_node, self.flow.first_node + len(self.flow.nodes))
        single = [v for v in values if self.node(v).kind is not Kind.TENSOR and not self.reduces(v)]
        here = [v for v in single if self._level[v] == number]
        reductions = [v for v in values if self.reduces(v) and self._level[v] == number + 1]
        wanted = [a for v in reductions for a in self.node(v).args] if number < top else self._ends()
        reach = self._elements(wanted)
        return Pass(
            numbers=tuple(v for v in here if self.node(v).kind is Kind.GLOBAL),
            scalars=tuple(v for v in here if self.node(v).kind is Kind.SCALAR),
            elements=tuple(v for v in values if v in reach),
            reductions=tuple(reductions),
        )

    def _elements(self, wanted: Iterable[Arg]) -> set[int]:
        """The nodes on tensors that these values are made of."""
        reach: set[int] = set()
        todo = [a for a in wanted if isinstance(a, int)]
        while todo:
            value = todo.pop()
            if value >= self.flow.first_node and value not in reach and self.node(value).kind is Kind.TENSOR:
                reach.add(value)
                todo += [a for a in self.node(value).args if isinstance(a, int)]
        return reach


def fusable(program: Program) -> bool:
    """Whether a fused kernel can step a program: no route, matrix row, codec, oracle or noise."""
    if program.fallback is not None or any(s.codec or not s.kind.plain for s in program.states):
        return False
    live = flow(program, expand=True)
    return all(OPS[node.op].c for node in live.nodes) and not any(live.reads(v) for v in (NOISE, *ORACLES))
