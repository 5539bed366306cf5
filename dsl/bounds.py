"""Bounds of updates by interval arithmetic: between which numbers does every value stay, at all steps?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .abstract import known_numbers
from .flow import Flow, Node, flow
from .interval import ALL, Interval, elementwise, hull, product, quotient
from .kind import Kind
from .ops import OPS
from .parameter import extent
from .program import FIRST, LR, PROGRESS, Arg, Const, Program, T, W

_WIDEST = 4.0**20  # a state that grows past it is taken to be unbounded
_COMPARE = ("less", "less_equal", "greater", "greater_equal")
_SAME = ("identity", "worker_mean", "mean", "amax", "quantile", "transpose", "wide", "unwide")


def bound(program: Program, shape: tuple[int, int] = (1024, 1024)) -> tuple[float, bool]:
    r"""The largest size of an update over the peak learning rate, whatever the gradients are.

    Proved for w = 0, so that a decay, which is linear in w, stays aside, and at a schedule of 1. Intervals of states
    start at 0 and grow until a step keeps them; then they are narrowed by further steps. NaN, underflow and overflow
    stay aside.

    Args:
        program: Its own part counts.
        shape: (fan_out, fan_in) of a tensor, for rows whose bounds depend on it: norm, sum, products, size.

    Returns:
        The bound, inf where none is proved, and whether it depends on the shape.

    >>> bound(Program.parse("def f(w, g, m, lr=0.1):\n  m = 0.5 * m + tanh(g)\n  return lr * m, m"))
    (2.0, False)
    """
    solver = _Solver(program, shape)
    low, high = solver.update()
    size = max(abs(low), abs(high)) / (abs(program.peak) or 1.0)
    return float(f"{size:.12g}"), solver.sized


class _Solver:
    """Intervals of all values of a program."""

    def __init__(self, program: Program, shape: tuple[int, int]) -> None:
        self.program, self.shape, self.sized = program, shape, False
        self.live: Flow = flow(program)
        self.numbers = known_numbers(self.live)
        self.inputs: dict[Arg, Interval] = {
            W: (0.0, 0.0), LR: (program.peak, program.peak), T: (1.0, math.inf), PROGRESS: (0.0, 1.0),
        }  # fmt: skip

    def update(self) -> Interval:
        states = {FIRST + index: (0.0, 0.0) for index, _ in self.live.states}
        for turn in range(200):
            new = self._moved(states)
            new = {v: _widened(states[v], hull(states[v], x), turn) for v, x in new.items()}
            if new == states:
                break
            states = new
        else:
            states = dict.fromkeys(states, ALL)
        for _ in range(500):  # what a step makes of intervals that it keeps, it keeps too
            new = {v: _narrowed(states[v], x) for v, x in self._moved(states).items()}
            if all(_near(new[v], states[v]) for v in states):
                break
            states = new
        return self._read(self._values(states), self.live.update)

    def _moved(self, states: dict[int, Interval]) -> dict[int, Interval]:
        values = self._values(states)
        moved = {}
        for index, end in self.live.states:
            low, high = self._read(values, end)
            codec = self.program.states[index].codec
            if codec is not None and codec.needs_matrix:  # an element is no larger than the norm of all
                size = self._count(end) ** 0.5 * max(abs(low), abs(high))
                low, high = -size, size
            moved[FIRST + index] = (low, high)
        return moved

    def _values(self, states: dict[int, Interval]) -> dict[Arg, Interval]:
        values: dict[Arg, Interval] = dict(self.inputs)
        values.update(states.items())
        with np.errstate(all="ignore"):
            for number, node in enumerate(self.live.nodes, self.live.first_node):
                low, high = self._made(number, node, [self._read(values, a) for a in node.args], values)
                values[number] = (-math.inf if low != low else low, math.inf if high != high else high)
        return values

    def _read(self, values: dict[Arg, Interval], arg: Arg) -> Interval:
        if isinstance(arg, Const):
            return arg.value, arg.value
        if arg in self.live.hypers:
            return self.live.hypers[arg], self.live.hypers[arg]
        return values.get(arg, ALL)

    def _count(self, arg: Arg) -> float:
        """The elements over which a row reduces."""
        self.sized = True
        kind = self.live.kind(arg)
        if kind is Kind.GLOBAL or kind is Kind.SCALAR:
            return 1.0
        return float(extent(kind.rows, self.shape) * extent(kind.columns, self.shape))

    # --- rows -----------------------------------------------------------------------------------------------

    def _made(self, number: int, node: Node, args: Sequence[Interval], values: dict[Arg, Interval]) -> Interval:
        if number in self.numbers:
            return self.numbers[number], self.numbers[number]
        row, name = OPS[node.op], node.op.partition(":")[0]
        for word in row.traits:
            if word.startswith("bounded:"):
                return -float(word[8:]) if "arccos" not in name else 0.0, float(word[8:])
        if "rising" in row.traits:
            return _rising(node.op, args[0])
        if name in _COMPARE:
            return 0.0, 1.0
        if name in _SAME:
            return args[0]
        if name in ("size", "sum", "norm", "rms", "std", "global_norm", "dot", "cosine_sim", "clip", "matmul"):
            return self._reduced(name, node, args)
        if name == "divide":
            return self._divided(node, args, values)
        return elementwise(node.op, args)

    def _reduced(self, name: str, node: Node, args: Sequence[Interval]) -> Interval:
        low, high = args[0]
        size = max(abs(low), abs(high))
        if name == "rms":
            return 0.0, size
        if name == "std":
            return 0.0, (high - low) / 2
        if name == "cosine_sim":
            return -1.0, 1.0
        if name == "clip":  # no element is larger than the norm of all
            most = min(size, args[1][1]) if args[1][0] >= 0 else max(abs(x) for x in args[1])
            return -most, most
        if name == "global_norm":  # over a model of unknown size
            return 0.0, math.inf if size else 0.0
        if name == "dot":
            return (0.0 if node.args[0] == node.args[1] else -math.inf, math.inf) if size else (0.0, 0.0)
        if name == "matmul":
            kind = self.live.kind(node.args[0])
            self.sized = True
            most = extent(kind.columns, self.shape) * product(size, max(abs(x) for x in args[1]))
            return -most, most
        axis = OPS[node.op].axis
        count = self._count(node.args[0])
        if axis:
            axis_length = min(*self.shape) if axis == "rank" else extent(axis, self.shape)
            count = min(count, float(axis_length)) if name != "size" else float(axis_length)
        if name == "size":
            return count, count
        if name == "norm":
            return 0.0, product(math.sqrt(count), size)
        return product(min(low, 0.0), count), product(max(high, 0.0), count)

    def _divided(self, node: Node, args: Sequence[Interval], values: dict[Arg, Interval]) -> Interval:
        x, y = args
        if self._at_least(node.args[1], node.args[0], values):
            return (0.0 if x[0] >= 0 else -1.0), (0.0 if x[1] <= 0 else 1.0)
        return quotient(x, y)

    def _at_least(self, y: Arg, x: Arg, values: dict[Arg, Interval]) -> bool:
        """Whether y >= |x| by their form: |x|, a root of x * x, a norm, and what is not smaller than one."""
        node = self.live.node(y)
        if node is None:
            return False
        if node.op in ("abs", "norm", "global_norm"):
            return node.args[0] == x
        if node.op == "sqrt":
            inner = self.live.node(node.args[0])
            return inner is not None and (inner.op, inner.args) in (("square", (x,)), ("multiply", (x, x)))
        if node.op == "max":
            return any(self._at_least(a, x, values) for a in node.args)
        if node.op == "add":
            a, b = node.args
            return any(self._at_least(p, x, values) and self._read(values, q)[0] >= 0 for p, q in ((a, b), (b, a)))
        return False


def _rising(op: str, x: Interval) -> Interval:
    meaning = OPS[op].meaning
    assert meaning is not None
    if "even" in OPS[op].traits:
        x = (0.0 if x[0] <= 0 <= x[1] else min(abs(x[0]), abs(x[1])), max(abs(x[0]), abs(x[1])))
    return float(meaning(np.float64(x[0]))), float(meaning(np.float64(x[1])))


def _narrowed(old: Interval, new: Interval) -> Interval:
    """States start at 0, which stays inside."""
    return max(old[0], min(new[0], 0.0)), min(old[1], max(new[1], 0.0))


def _near(x: Interval, y: Interval) -> bool:
    return all(a == b or abs(a - b) <= 1e-14 * abs(b) for a, b in zip(x, y, strict=True))


def _widened(old: Interval, new: Interval, turn: int) -> Interval:
    """After a few turns a bound that still grows goes to the next power of 4."""
    if turn < 3:
        return new
    low = new[0] if new[0] == old[0] else -_rung(-new[0])
    return low, new[1] if new[1] == old[1] else _rung(new[1])


def _rung(x: float) -> float:
    if x <= 1e-12 or x != x:
        return 1e-12 if x == x else math.inf
    rung = 4.0 ** math.ceil(math.log(x, 4) + 1e-9) if x < _WIDEST else math.inf
    return rung if rung < _WIDEST else math.inf
