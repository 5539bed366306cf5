"""Everything that a program computes on the steps of the probe, value by value, with all steps in one call of numpy.

The steps are open loop: weights and gradients do not depend on the program. So a value waits for the step before only
where it feeds a state that it reads; all others take their steps side by side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .flow import Flow, Node, flow, needs_matrices
from .interpret import Part, Value
from .kind import Kind
from .ops import OPS
from .probe import probe, views
from .program import FIRST, LR, NOISE, ORACLES, PROGRESS, RESERVED, Arg, Const, G, Program, T, W

Floats = NDArray[np.float64]  # (steps, elements): of all tensors end to end; one a tensor; or one
Shapes = tuple[tuple[int, ...], ...]

_COMPARED = ("max", "min")


class Trace(NamedTuple):
    """The live code of a program, and by node what it was given and what it gave; rows are steps.

    Arguments of max and min are written out as the result is, so that they can be compared.
    """

    flow: Flow
    arguments: tuple[tuple[Floats, ...], ...]
    results: tuple[Floats, ...]
    updates: Floats


def trace(program: Program, shapes: Shapes) -> Trace:
    """Runs the probe on a program without its route.

    >>> sgd = Program.parse("def sgd(w, g, lr=0.5):\\n  return lr * g")
    >>> trace(sgd, ((12,), (3, 3), (5,))).updates.shape
    (12, 26)
    """
    live = flow(program, expand=True)
    alone = needs_matrices(program, live) or any(s.codec for s in program.states) or live.reads(NOISE)
    return _step_by_step(program, shapes) if alone else _Together(program, live, shapes).done()


# --- all steps at once ----------------------------------------------------------------------------------


@cache
def _inputs(shapes: Shapes) -> dict[int, Floats]:
    """The probe's inputs by slot, but for lr, which depends on the program's peak."""
    steps = probe(shapes)

    def column(numbers: Sequence[Any]) -> Floats:
        return np.array(numbers, np.float64).reshape(-1, 1)

    def joined(tensors: Sequence[Value]) -> Floats:
        return np.stack([np.concatenate(each, axis=None) for each in tensors])

    found = {W: joined([s.w for s in steps]), G: joined([s.g for s in steps]), T: column([s.t for s in steps]),
             PROGRESS: column([s.progress for s in steps])}  # fmt: skip
    for slot in ORACLES:
        each = [s.oracles[RESERVED[slot]] for s in steps]
        found[slot] = joined(each) if isinstance(each[0], list) else column(each)
    return found


class _Together:
    """The values of one program on all steps, in the order in which they can be had."""

    def __init__(self, program: Program, live: Flow, shapes: Shapes) -> None:
        self.flow, steps = live, probe(shapes)
        self.steps, self.sizes = len(steps), [math.prod(shape) for shape in shapes]
        self.slices = [slice(end - size, end) for size, end in zip(self.sizes, accumulate(self.sizes), strict=True)]
        self.values: dict[int, Floats] = dict(_inputs(shapes))
        self.values[LR] = np.array([[program.peak * step.schedule] for step in steps])
        self.values |= {slot: np.full((self.steps, 1), x) for slot, x in live.hypers.items()}
        with np.errstate(all="ignore"):
            self._run()

    def done(self) -> Trace:
        """What was found."""
        arguments = tuple(tuple(self._argument(node, a) for a in node.args) for node in self.flow.nodes)
        results = tuple(self.values[n] for n in range(self.flow.first_node, self.flow.first_node + len(arguments)))
        return Trace(self.flow, arguments, results, self._as(self._read(self.flow.update), Kind.TENSOR))

    def _run(self) -> None:
        """What reads no state; then states and what they are made of, step by step; then the rest."""
        numbers = range(self.flow.first_node, self.flow.first_node + len(self.flow.nodes))
        read, feed = self._reading_states(), self._feeding_states()
        for number in numbers:
            if number not in read:
                self._find(number)
        self._recur([number for number in numbers if number in read and number in feed])
        for number in numbers:
            if number in read and number not in feed:
                self._find(number)

    def _find(self, number: int) -> None:
        node = self.flow.nodes[number - self.flow.first_node]
        self.values[number] = self._apply(node, [self._read(a) for a in node.args])

    def _read(self, arg: Arg) -> Floats:
        return np.full((self.steps, 1), arg.value) if isinstance(arg, Const) else self.values[arg]

    def _argument(self, node: Node, arg: Arg) -> Floats:
        value = self._read(arg)
        return self._as(value, node.kind) if node.op in _COMPARED else value

    def _reading_states(self) -> set[int]:
        read = {FIRST + index for index, _ in self.flow.states}
        for number, node in enumerate(self.flow.nodes, self.flow.first_node):
            if any(isinstance(a, int) and a in read for a in node.args):
                read.add(number)
        return read

    def _feeding_states(self) -> set[int]:
        feed = {end for _, end in self.flow.states if isinstance(end, int)}
        for number in reversed(range(self.flow.first_node, self.flow.first_node + len(self.flow.nodes))):
            if number in feed:
                feed |= {a for a in self.flow.nodes[number - self.flow.first_node].args if isinstance(a, int)}
        return feed

    def _recur(self, numbers: list[int]) -> None:
        """Fills in these values and the states, as they were read, a step at a time."""
        nodes = [self.flow.nodes[number - self.flow.first_node] for number in numbers]
        ends = [(FIRST + index, self.flow.kinds[FIRST + index], end) for index, end in self.flow.states]
        for slot, kind, _ in ends:
            self.values[slot] = np.zeros((self.steps, self._size(kind)))
        for number, node in zip(numbers, nodes, strict=True):
            self.values[number] = np.empty((self.steps, self._size(node.kind)))
        for step in range(self.steps):
            row = slice(step, step + 1)
            for number, node in zip(numbers, nodes, strict=True):
                self.values[number][row] = self._apply(node, [self._read(a)[row] for a in node.args])
            if step + 1 < self.steps:
                for slot, kind, end in ends:
                    self.values[slot][step + 1] = self._as(self._read(end)[row], kind)[0]

    def _size(self, kind: Kind) -> int:
        return sum(self.sizes) if kind is Kind.TENSOR else len(self.sizes) if kind is Kind.SCALAR else 1

    def _as(self, value: Floats, kind: Kind) -> Floats:
        """A value written out as one of a larger kind."""
        size = self._size(kind)
        if value.shape[1] == size:
            return value
        if value.shape[1] == 1:
            return np.repeat(value, size, axis=1)
        return np.repeat(value, self.sizes, axis=1)

    def _apply(self, node: Node, args: list[Floats]) -> Floats:
        """A row on some steps."""
        row = OPS[node.op]
        steps = max((len(a) for a in args), default=self.steps)
        if row.name == "worker_mean":  # of one worker
            return args[0]
        assert row.meaning is not None
        if row.elementwise:
            if node.kind is Kind.TENSOR:
                args = [a if a.shape[1] == 1 else self._as(a, Kind.TENSOR) for a in args]
            result = np.asarray(row.meaning(*args), np.float64)
            return result if result.ndim == 2 else np.full((steps, self._size(node.kind)), result)
        kinds = [self.flow.kind(a) for a in node.args]
        found = np.empty((steps, self._size(node.kind)))
        for step in range(steps):
            given = [self._apart(a[step], kind) for a, kind in zip(args, kinds, strict=True)]
            if node.kind is Kind.GLOBAL:
                found[step] = row.meaning(*given)
            else:
                each = zip(*(a if isinstance(a, list) else [a] * len(self.sizes) for a in given), strict=True)
                found[step] = [row.meaning(*one) for one in each]
        return found

    def _apart(self, value: Floats, kind: Kind) -> Value:
        """A value of one step as the interpreter has it: tensor by tensor, or one number."""
        if kind is Kind.TENSOR:
            return [value[s] for s in self.slices]
        return list(value) if kind is Kind.SCALAR else value[0]


# --- step by step: matrices, codecs, noise --------------------------------------------------------------


class _Witness(Part):
    """The interpreter, which keeps what every node was given and gave."""

    def __init__(self, program: Program, shapes: Shapes) -> None:
        super().__init__(program, views(shapes))
        self.seen: dict[Node, list[tuple[list[Value], Value]]] = {}

    def _apply(self, node: Node, args: list[Value]) -> Value:
        result = super()._apply(node, args)
        shown = [_as_result(a, result) for a in args] if node.op in _COMPARED else args
        self.seen.setdefault(node, []).append((shown, result))
        return result


def _step_by_step(program: Program, shapes: Shapes) -> Trace:
    witness = _Witness(program, shapes)
    updates = np.stack([_row(witness.step(*step)) for step in probe(shapes)])
    steps = [witness.seen[node] for node in witness.flow.nodes]
    arguments = tuple(
        tuple(np.stack([_row(args[i]) for args, _ in seen]) for i in range(len(node.args)))
        for node, seen in zip(witness.flow.nodes, steps, strict=True)
    )
    results = tuple(np.stack([_row(result) for _, result in seen]) for seen in steps)
    return Trace(witness.flow, arguments, results, updates)


def _as_result(value: Value, result: Value) -> Value:
    if not isinstance(result, list):
        return value
    each = value if isinstance(value, list) else [value] * len(result)
    return [np.broadcast_to(x, np.shape(r)) for x, r in zip(each, result, strict=True)]


def _row(value: Value) -> Floats:
    """A value of any kind as one vector."""
    return np.concatenate(value if isinstance(value, list) else [value], axis=None, dtype=np.float64)
