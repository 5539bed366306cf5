"""The meaning of programs, in float64 numpy: the living definition that every lowering is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .flow import Flow, Node, flow
from .ops import OPS, Kind
from .program import FIRST, LR, PROGRESS, Arg, Const, G, Program, T, W

Tensors = list[NDArray[np.float64]]
Value = Any  # a list of arrays (tensor), a list of numbers (scalar), or one number (global)


class Interpreter:
    r"""Runs a program step by step on a list of parameter tensors, keeping its states.

    >>> sgd = Program.parse("def sgd(w, g, lr=0.5):\n  return lr * g")
    >>> Interpreter(sgd, [(2,)]).step([np.ones(2)], [np.array([2.0, 4.0])])
    [array([1., 2.])]
    """

    def __init__(
        self,
        program: Program,
        shapes: Sequence[tuple[int, ...]],
        disturb: Callable[[Value], Value] | None = None,
    ) -> None:
        self.flow: Flow = flow(program, expand=True)
        self.peak = program.peak
        self.count = len(shapes)
        self.disturb = disturb  # tests perturb every intermediate value to learn how well conditioned it is
        self.states: dict[int, Value] = {}
        for index, _ in self.flow.states:
            kind = self.flow.kinds[FIRST + index]
            self.states[index] = _zero(kind, shapes)

    def step(
        self,
        w: Tensors,
        g: Tensors,
        schedule: float = 1.0,
        t: int = 1,
        progress: float = 0.0,
    ) -> Tensors:
        """The update of one step, one array per tensor; states move on.

        `schedule` multiplies the peak learning rate, `t` counts steps from 1, `progress` is t over the run.
        """
        values: dict[int, Value] = {
            W: w, G: g, LR: np.float64(self.peak * schedule), T: np.float64(t), PROGRESS: np.float64(progress),
        }  # fmt: skip
        values.update({v: np.float64(x) for v, x in self.flow.hypers.items()})
        values.update({FIRST + index: state for index, state in self.states.items()})
        with np.errstate(all="ignore"):
            for number, node in enumerate(self.flow.nodes, self.flow.first_node):
                result = self._apply(node, [self._read(values, a) for a in node.args])
                values[number] = self.disturb(result) if self.disturb else result
        for index, end in self.flow.states:
            kind = self.flow.kinds[FIRST + index]
            self.states[index] = self._spread(self._read(values, end), self.flow.kind(end), kind, w)
        return self._read(values, self.flow.update)

    @staticmethod
    def _read(values: dict[int, Value], arg: Arg) -> Value:
        return np.float64(arg.value) if isinstance(arg, Const) else values[arg]

    def _apply(self, node: Node, args: list[Value]) -> Value:
        row = OPS[node.op]
        assert row.meaning is not None
        if row.elementwise:
            if node.kind is Kind.GLOBAL:
                return row.meaning(*args)
            lists = [a if isinstance(a, list) else [a] * self.count for a in args]
            return [row.meaning(*each) for each in zip(*lists, strict=True)]
        if row.result is Kind.SCALAR:
            return [row.meaning(x) for x in args[0]]
        return row.meaning(*args)

    def _spread(self, value: Value, kind: Kind, wanted: Kind, like: Tensors) -> Value:
        """A value of a smaller kind, written out as its state's kind."""
        if kind is wanted:
            return value
        each = value if isinstance(value, list) else [value] * self.count
        return each if wanted is Kind.SCALAR else [np.full_like(x, v) for x, v in zip(like, each, strict=True)]


def _zero(kind: Kind, shapes: Sequence[tuple[int, ...]]) -> Value:
    if kind is Kind.TENSOR:
        return [np.zeros(shape) for shape in shapes]
    return [np.float64(0)] * len(shapes) if kind is Kind.SCALAR else np.float64(0)
