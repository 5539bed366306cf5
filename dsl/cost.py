r"""What a program costs its user, counted on live code without running anything.

All numbers are per parameter (element of a tensor) and step. Values that are one number per tensor or per model cost
nothing. What depends on the shape of a tensor is a function of it, (fan_out, fan_in); where one number is shown the
shape is (1024, 1024). A program with a route costs what its own part costs; its fallbacks are in `Program.parts`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .flow import Flow, flow, needs_matrices
from .kind import Kind
from .ops import OPS
from .parameter import extent
from .program import GAUSS_NEWTON, HUTCHINSON, TWO_POINT, Arg, Const, G, Program, State, T

Shape: TypeAlias = tuple[int, ...]
SHAPE: Shape = (1024, 1024)
FLOAT = 4  # bytes of a number that no codec keeps

#: One forward and backward of the model is 1, a forward alone a third of it. See `evaluator.oracles` for what is run:
#: the gradient at two points for H z, a gradient at drawn labels, two losses.
_ORACLE_FORWARDS = {HUTCHINSON: 6, GAUSS_NEWTON: 3, TWO_POINT: 2}
_FORWARDS, _BACKWARD = 3, 2  # of the usual pass, and of its backward, in forwards

_SINGLE = (Kind.GLOBAL, Kind.SCALAR)


@dataclass(frozen=True)
class Cost:
    """What a search counts: cost of one step, per parameter.

    `state` tensors kept (for a matrix program their floats, to the nearest whole number), `operations` (a row of the
    op table says how many), `bytes` moved when the step is fused, and the number of live `statements`.
    """

    state: int
    operations: float
    bytes: float
    statements: int


@dataclass(frozen=True)
class StepCost:
    """What a person is shown; the function that makes each number says what it is."""

    state_floats: float
    state_bytes: float
    operations: float
    bytes: float
    passes: int
    oracle_passes: float


def cost(program: Program, live: Flow | None = None) -> Cost:
    r"""The cost that a search counts. `live` saves making the program's flow again.

    >>> cost(Program.parse("def sgd(w, g, m, lr):\n  m = interp(g, m, 0.9)\n  return lr * m, m"))
    Cost(state=1, operations=4.0, bytes=20, statements=2)
    """
    live = live or flow(program)
    kept = [program.states[index] for index, _ in live.states]
    if all(s.kind.plain and s.codec is None for s in kept):
        state = sum(s.kind is Kind.TENSOR for s in kept)
        moved: float = FLOAT * (3 + 2 * state)
    else:
        state = round(sum(_floats(s, SHAPE) for s in kept if s.kind not in _SINGLE) / math.prod(SHAPE))
        moved = 3 * FLOAT + 2 * sum(_bytes(s, SHAPE) for s in kept if s.kind not in _SINGLE) / math.prod(SHAPE)
    if program.periods:  # rare
        moved = bytes_moved(program, live=live)
    return Cost(state, _operations(live, SHAPE), int(moved) if moved == int(moved) else moved, len(live.nodes))


def step_cost(program: Program, shape: Shape = SHAPE) -> StepCost:
    r"""All costs of a step on a tensor of this shape. Raises ValueError as `state_floats` does.

    >>> step_cost(Program.parse("def f(w, g, m, lr):\n  m = interp(clip(g, 1), m, 0.9)\n  return lr * m, m")).passes
    2
    """
    live = flow(program)
    return StepCost(
        state_floats(program, shape, live), state_bytes(program, shape, live), operations(program, shape, live),
        bytes_moved(program, shape, live), passes(program), oracle_passes(program, live),
    )  # fmt: skip


# --- states -------------------------------------------------------------------------------------------------


def state_floats(program: Program, shape: Shape = SHAPE, live: Flow | None = None) -> float:
    r"""Numbers kept between steps, per parameter.

    The sum over live states of rows x columns, over m n: a tensor is 1, `[fan_out, 1]` 1 / n, `[short, 4]`
    4 / max(m, n), one number per tensor 1 / (m n), one per model 0. A state in `low_rank(r)` is its two factors,
    r (m + n); the other codecs change bytes, not numbers.

    Args:
        program: Its own part counts.
        shape: (fan_out, fan_in); more axes than two join the second, and one will do for elementwise programs.
        live: The program's flow, where it is at hand.

    Raises ValueError where the program needs matrices and the shape has one axis.

    >>> state_floats(Program.parse("def f(w, g, m, n: scalar, lr):\n  return lr * m * n, g, rms(g)"), (8, 4))
    1.03125
    """
    kept = _kept(program, live or flow(program), shape)
    return sum(_floats(s, _matrix(shape)) for s in kept) / math.prod(shape)


def state_bytes(program: Program, shape: Shape = SHAPE, live: Flow | None = None) -> float:
    r"""Bytes kept between steps, per parameter: 4 a number, or what a state's codec takes.

    Arguments and errors are those of `state_floats`.

    >>> state_bytes(Program.parse("def f(w, g, m: bf16, v: int8, lr):\n  return lr * m * v, g, g * g"))
    3.015625
    """
    kept = _kept(program, live or flow(program), shape)
    return sum(_bytes(s, _matrix(shape)) for s in kept) / math.prod(shape)


def bytes_moved(program: Program, shape: Shape = SHAPE, live: Flow | None = None) -> float:
    r"""Bytes that one fused pass moves, per parameter.

    w is read and written, g read if it is read at all, every state read and written in its codec, a tensor from an
    oracle read at its period. A second pass (see `passes`) reads again what it needs; that is not counted.
    Arguments and errors are those of `state_floats`.

    >>> bytes_moved(Program.parse("def f(w, g, m, lr):\n  m = interp(g, m, 0.9)\n  return lr * m, m"))
    20.0
    """
    live = live or flow(program)
    kept = [s for s in _kept(program, live, shape) if s.kind not in _SINGLE]
    states = sum(_bytes(s, _matrix(shape)) for s in kept) / math.prod(shape)
    given = sum(1 / k for slot, k in program.periods if slot != TWO_POINT and live.reads(slot))
    return FLOAT * (2 + live.reads(G) + given) + 2 * states


def _kept(program: Program, live: Flow, shape: Shape) -> list[State]:
    """The live states, but those that are one number for the model."""
    if len(shape) < 2 and needs_matrices(program, live):
        raise ValueError(f"{program.name} needs a matrix; a shape of {shape} has one axis")
    states = [program.states[index] for index, _ in live.states]
    return [s for s in states if s.kind is not Kind.GLOBAL]


def _matrix(shape: Shape) -> tuple[int, int]:
    return (shape[0] if shape else 1), math.prod(shape[1:])


def _extents(kind: Kind, shape: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a value."""
    return (1, 1) if kind in _SINGLE else (extent(kind.rows, shape), extent(kind.columns, shape))


def _floats(state: State, shape: Shape) -> float:
    rows, columns = _extents(state.kind, _matrix(shape))
    low_rank = state.codec is not None and state.codec.needs_matrix
    return _bytes(state, shape) / FLOAT if low_rank else float(rows * columns)


def _bytes(state: State, shape: Shape) -> float:
    extents = _extents(state.kind, _matrix(shape))
    return float(FLOAT * math.prod(extents)) if state.codec is None else state.codec.bytes(extents)


# --- operations ---------------------------------------------------------------------------------------------


def _quintic(short: int, long: int) -> float:
    """X X', its square, their sum, that times X, and the last sum."""
    return 4.0 * short * short * long + 2.0 * short**3 + 3.0 * short * short + 2.0 * short * long


#: Operations of a matrix row from the shapes of its arguments; the usual leading terms (Golub and Van Loan, Matrix
#: Computations): 2 k per element of a product, 9 n^3 for a symmetric eigenproblem with vectors, 8/3 n^3 for QR with
#: its factor written out, 6 l s^2 + 20 s^3 for a thin SVD.
_FLOPS: dict[str, Callable[[Sequence[tuple[int, int]]], float]] = {
    "matmul": lambda x: 2.0 * x[0][0] * x[0][1] * x[1][1],
    "newton_schulz": lambda x: _quintic(*sorted(x[0])),
    "orthogonalize": lambda x: 3.0 * x[0][0] * x[0][1] + 5 * _quintic(*sorted(x[0])),
    "inverse_sqrt": lambda x: 11.0 * x[0][0] ** 3,
    "eigh_basis": lambda x: 9.0 * x[0][0] ** 3,
    "qr_basis": lambda x: 8.0 / 3.0 * x[0][0] ** 3,
    "svd_basis": lambda x: 6.0 * max(x[0]) * min(x[0]) ** 2 + 20.0 * min(x[0]) ** 3,
}


def operations(program: Program, shape: Shape = SHAPE, live: Flow | None = None) -> float:
    r"""Arithmetic operations, per parameter.

    A row of the op table says what it costs per element of its result, or of its argument where it reduces; a matrix
    product costs 2 k per element over an inner axis of k. A value that is read every k steps alone, as
    `every(k, x, y)` reads x, counts 1 / k; what the first steps alone read counts nothing.
    Arguments and errors are those of `state_floats`.

    >>> text = "def f(w, g, s: [fan_out, fan_out], lr) for matrix else h:\n  s = every(4, g @ transpose(g), s)\n"
    >>> operations(Program.parse(text + "  return lr * s @ g, s\ndef h(w, g, lr):\n  return lr * g"), (8, 8))
    22.0
    """
    live = live or flow(program)
    _kept(program, live, shape)
    return _operations(live, _matrix(shape))


def _operations(live: Flow, shape: Shape) -> float:
    shares = _shares(live)
    total = 0.0
    for number, node in enumerate(live.nodes, live.first_node):
        row = OPS[node.op]
        if node.kind is Kind.TENSOR or Kind.TENSOR in row.args:
            if not row.needs_matrix and number not in shares:  # all that a search of elementwise programs meets
                total += row.cost
                continue
        elif node.kind in _SINGLE and not row.needs_matrix:
            continue
        total += shares.get(number, 1.0) * _flops(live, number, _matrix(shape)) / math.prod(shape)
    return total


def _flops(live: Flow, number: int, shape: tuple[int, int]) -> float:
    """Operations of one node on one tensor."""
    node = live.nodes[number - live.first_node]
    row = OPS[node.op]
    args = [_extents(live.kind(a), shape) for a in node.args]
    if node.op in _FLOPS:
        return _FLOPS[node.op](args)
    made = _extents(node.kind, shape)
    return row.cost * math.prod(args[0] if row.axis or row.args else made)


def _shares(live: Flow) -> dict[int, float]:
    """The share of steps at which a value is read, in the long run; of those that are not read at every step."""
    chosen = [n for n in live.nodes if n.op in ("every", "first") or (n.op == "where" and _is_single(live, n.args[0]))]
    if not chosen:
        return {}
    steps = _steps(live)
    when = _told_by_time(live, steps)
    read: dict[Arg, Any] = {}
    for end in (live.update, *(e for _, e in live.states)):
        read[end] = np.True_
    for number in reversed(range(live.first_node, live.first_node + len(live.nodes))):
        node = live.nodes[number - live.first_node]
        own, sides = read[number], _sides(node.op, node.args, when, steps)
        for position, arg in enumerate(node.args):
            side = sides.get(position, np.True_)
            read[arg] = read.get(arg, np.False_) | (own & side)
    shares = {v: float(np.mean(x)) for v, x in read.items() if isinstance(v, int) and v >= live.first_node}
    return {v: x for v, x in shares.items() if x < 1}


def _sides(op: str, args: tuple[Arg, ...], when: dict[Arg, Any], steps: NDArray[np.float64]) -> dict[int, Any]:
    """By position of an argument, the steps at which it is read."""
    condition: Any = None
    if op == "every" and args[0] in when:
        mod = OPS["mod"].meaning
        assert mod is not None
        condition = mod(steps - 1, when[args[0]]) < 1
    elif op == "first":
        condition = steps <= 1
    elif op == "where" and args[0] in when:
        condition = np.not_equal(when[args[0]], 0)
    if condition is None:
        return {}
    return {len(args) - 2: condition, len(args) - 1: ~condition}


def _steps(live: Flow) -> NDArray[np.float64]:
    """Whole periods of everything that the program names, long after the first step."""
    count = 5040  # of 1 to 10
    for node in live.nodes:
        if node.op in ("every", "mod"):
            period = _number(live, node.args[0 if node.op == "every" else 1])
            if period and period == int(period) and math.lcm(count, int(period)) <= 200_000:
                count = math.lcm(count, int(period))
    return np.arange(1.0, count + 1.0) + 10 * count


def _number(live: Flow, arg: Arg) -> float | None:
    return arg.value if isinstance(arg, Const) else live.hypers.get(arg)


def _is_single(live: Flow, arg: Arg) -> bool:
    return live.kind(arg) is Kind.GLOBAL


def _told_by_time(live: Flow, steps: NDArray[np.float64]) -> dict[Arg, Any]:
    """The values, step by step, that depend on t and on numbers of the text alone."""
    known: dict[Arg, Any] = {T: steps}
    known.update(live.hypers.items())
    known.update({a: a.value for n in live.nodes for a in n.args if isinstance(a, Const)})
    with np.errstate(all="ignore"):
        for number, node in enumerate(live.nodes, live.first_node):
            row = OPS[node.op]
            if row.elementwise and row.meaning is not None and all(a in known for a in node.args):
                known[number] = row.meaning(*(known[a] for a in node.args))
    return known


# --- passes -------------------------------------------------------------------------------------------------

_MOVES = ("transpose", "wide", "unwide", "eye", "size")  # read or write no element in an order of their own
_CHAINED = {"newton_schulz": 3, "orthogonalize": 16}  # products, and a norm, one after another


def passes(program: Program) -> int:
    r"""Passes over memory that a fused step needs.

    1 + the longest chain of reductions and matrix products between g and what is written: a norm must be finished
    before what it divides. A reduction of which only a number is kept adds none.

    >>> passes(Program.parse("def f(w, g, lr):\n  return lr * g / norm(g)"))
    2
    """
    live = flow(program, expand=True)
    level: dict[Arg, int] = {}
    top = 0
    for number, node in enumerate(live.nodes, live.first_node):
        ready = max((level.get(a, 0) for a in node.args), default=0)
        waits = not OPS[node.op].elementwise and node.op.partition(":")[0] not in _MOVES
        if waits:
            top = max(top, ready)
        level[number] = ready + (_CHAINED.get(node.op, 1) if waits and node.op != "worker_mean" else 0)
    ends = [live.update, *(e for i, e in live.states if program.states[i].kind not in _SINGLE)]
    return 1 + max(top, *(level.get(e, 0) for e in ends))


# --- oracles ------------------------------------------------------------------------------------------------


def oracle_passes(program: Program, live: Flow | None = None) -> float:
    r"""Passes of the model beside the usual one, per step; 1 is a forward and backward, a forward 1/3 of it.

    The sum over declared oracles of their passes over their period: hutchinson 2 (a Hessian-vector product),
    gauss_newton 1 (a backward at drawn labels), two_point 2/3 (two losses). A program that never reads g saves a
    backward, 2/3, so that with two_point at every step the balance is 0.

    >>> oracle_passes(Program.parse("def f(w, g, lr, hutchinson: every 4):\n  return lr * g / hutchinson"))
    0.5
    """
    live = live or flow(program)
    asked = sum(_ORACLE_FORWARDS[slot] / period for slot, period in program.periods)
    return (asked - (0 if live.reads(G) else _BACKWARD)) / _FORWARDS
