"""Keys: when two programs are the same optimizer, cheaply.

`structural_key` sees through names, dead code, shared expressions and the order of commutative arguments. `key` adds
what the rules of `simplify` know: it is that of the normal form, modulo the scale of the update. `behaviour_key` is
what the program does on fixed probe steps, modulo the scale of its update. Each may miss an equality that the other
sees; neither may merge what differs. A few hundred signs of Lion's update do not tell beta 0.9 from 0.901, so what a
program compares, roots and takes signs of counts beside what it returns; and where the probe has seen only one side
of a jump, the normal form counts too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cache
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .flow import Flow, Node, flow
from .kind import Kind
from .ops import OPS
from .probe import TYPICAL, shapes_of
from .program import FIRST, LR, Arg, Const, Program
from .simplify.algebra import TooLarge
from .simplify.form import SHAPE, magnitude
from .simplify.states import normal_form
from .trace import Trace, trace

Floats: TypeAlias = NDArray[np.float64]

_DIGITS = 36  # bits kept of each update: 1.5e-11 relative, far above rounding, far below any real difference
_COARSE = 30  # bits kept of arguments at bends: cancellation has eaten more of them

# How a row may hide a difference from the probe. Rows not named here are analytic and hide nothing, or are
# spelled by other rows.
_COMPARE = {"less": "less", "less_equal": "less_equal", "greater": "less", "greater_equal": "less_equal"}
_CHOOSE = {"max", "min", "where"}
_ZEROS = {"sign", "abs", "sqrt", "cbrt", "power", "divide", "reciprocal"}  # bend or jump where an argument is 0
# fmt: off
_PLAIN = {
    "add", "subtract", "interp", "multiply", "square", "cube", "negative", "get_pi", "get_e", "get_eps",
    "norm", "global_norm", "dot", "mean", "sum", "rms",
}
_KEEP_ZERO = {  # 0 at arguments of 0
    *(row.name for row in OPS.values() if "odd" in row.traits), "add", "subtract", "interp", "max", "min", "abs",
    "square", "sqrt", "norm", "global_norm", "dot", "mean", "sum", "rms", "amax",
}
# fmt: on


def structural_key(program: Program) -> str:
    r"""A hash of the live code, seen through renaming, dead code and commutativity.

    >>> a = Program.parse("def f(w, g, m, lr=1e-3):\n  x = g * w\n  m = m + g\n  return lr * m, m")
    >>> b = Program.parse("def f(w, g, v, lr=0.001):\n  v = g + v\n  return v * lr, v")
    >>> structural_key(a) == structural_key(b)
    True
    """
    return _digest(repr(_structures(program)))


def skeleton_key(program: Program) -> str:
    r"""A hash as `structural_key` that leaves numbers out, so that tuning a program does not change it.

    Values that differ in numbers alone stay two: Lion, which has two averages of one gradient, is no tuned Signum. So
    what makes two equal values differ, or two that differ equal, does change it.

    >>> a = Program.parse("def f(w, g, m, lr=1e-3):\n  m = interp(g, m, 0.9)\n  return lr * m, m")
    >>> b = Program.parse("def f(w, g, m, lr=0.5, beta=0.99):\n  m = interp(g, m, beta)\n  return lr * m, m")
    >>> skeleton_key(a) == skeleton_key(b), structural_key(a) == structural_key(b)
    (True, False)
    """
    return _digest(repr(_structures(program, numbers=False)))


def _order(live: Flow) -> dict[int, int]:
    """States numbered in the order in which live code first reads them; unread ones are not there."""
    order: dict[int, int] = {}
    for node in live.nodes:
        for arg in node.args:
            if isinstance(arg, int) and FIRST <= arg < live.first_node and arg not in live.hypers:
                order.setdefault(arg, len(order))
    for index, _ in live.states:
        order.setdefault(FIRST + index, len(order))
    return order


def _codecs(program: Program, live: Flow) -> list[tuple[int, str]]:
    """The codecs of live states, which the probe's small tensors may not show."""
    if not any(state.codec for state in program.states):
        return []
    order = _order(live)
    kept = ((order[FIRST + index], program.states[index].codec) for index, _ in live.states)
    return sorted((number, str(codec)) for number, codec in kept if codec is not None)


def _structures(program: Program, numbers: bool = True) -> list[object]:
    return [(part.roles, part.periods, _structure(part, numbers)) for part in program.parts()]


def _structure(program: Program, numbers: bool) -> object:
    """Hashes bottom-up, so that sorting commutative arguments does not depend on numbering."""
    live, peak = flow(program), program.peak
    order = _order(live)
    names: dict[Arg, str] = {}

    def name(arg: Arg) -> str:
        if isinstance(arg, Const):
            return repr(arg.value) if numbers else "number"
        if arg in live.hypers:
            return repr(live.hypers[arg]) if numbers else "number"
        if arg == LR:
            return f"lr {peak!r}" if numbers else "lr"
        if arg < FIRST:
            return f"in {arg}"
        return names[arg] if arg in names else f"state {order[arg]} {live.kinds[arg]}"

    for number, node in enumerate(live.nodes, live.first_node):
        args = [name(a) for a in node.args]
        if "commutative" in OPS[node.op].traits:
            args.sort()
        names[number] = _digest(f"{node.op}({','.join(args)})")
    ends = sorted((order[FIRST + index], name(end)) for index, end in live.states)
    return name(live.update), ends, _codecs(program, live), () if numbers else sorted(names.values())


def _digest(text: str | bytes) -> str:
    return hashlib.blake2b(text.encode() if isinstance(text, str) else text, digest_size=16).hexdigest()


# --- behaviour ------------------------------------------------------------------------------------------


class Behaviour(NamedTuple):
    """What a program did on the probe."""

    digest: str  # equal for programs that behave alike, modulo the scale of the update
    rms: float  # root mean square of the update over the typical steps; NaN when not finite
    finite: bool
    blind: bool  # the probe may have missed something: one side of a jump, or what a zero hides


def behaviour(program: Program) -> Behaviour:
    """Runs the probe steps (open loop: weights and gradients do not depend on the program).

    Of a program with a route the parts run one by one; how much larger the one's update is counts.
    """
    if program.fallback is None:
        return _alone(program)
    parts = [_alone(part) for part in program.parts()]
    ratios = np.array([part.rms / (parts[0].rms or 1.0) for part in parts])
    said = "".join(part.digest for part in parts) + repr([part.roles for part in program.parts()])
    digest = _digest(_rounded(ratios, 1.0, _COARSE) + said.encode())
    return Behaviour(digest, parts[0].rms, all(p.finite for p in parts), any(p.blind for p in parts))


def _alone(program: Program) -> Behaviour:
    """The behaviour of a program without its route; of a schedule, which moves nothing, its text."""
    if program.schedule:
        return Behaviour(structural_key(program), float("nan"), finite=False, blind=False)
    seen = trace(program, shapes_of(program))
    flat = seen.updates
    typical, good = flat[list(TYPICAL)], np.isfinite(flat)
    with np.errstate(all="ignore"):
        rms = float(np.sqrt(np.mean(typical * typical)))
        bends, blind = _report(seen)
    finite = bool(good[list(TYPICAL)].all())
    asked = [pair for pair in program.periods if seen.flow.reads(pair[0])]
    counted = [*sorted(bends), *map(repr, _codecs(program, seen.flow)), *map(repr, asked)]
    digest = _digest(_rounded(flat, _first(flat), _DIGITS) + repr(counted).encode())
    return Behaviour(digest, rms if finite else float("nan"), finite, blind or bool(good.mean() < 0.5))


def _hides(live: Flow, node: Node) -> bool:
    """Whether what a node does at some arguments may not show at others."""
    if node.op not in ("divide", "reciprocal"):
        return node.op not in _PLAIN
    divisor = live.node(node.args[-1])  # t - 5 may be 0, and the eps of a sum may show there alone
    return divisor is not None and (divisor.kind is Kind.GLOBAL or divisor.op in ("add", "subtract"))


def _report(seen: Trace) -> tuple[set[str], bool]:
    """What counts about the nodes beside what they add to the update, and whether the probe is blind.

    It is when a node was 0 throughout, when a jump showed one of its sides in fewer than two steps, or when two jumps
    that are not one always went the same way, so that one hides the other.
    """
    bends: set[str] = set()
    paths: dict[tuple[int, str], Floats] = {}  # by numbers a step and what counts
    zero = _zero_nodes(seen.flow)
    blind = any(node not in zero and not found.any() for node, found in zip(seen.flow.nodes, seen.results, strict=True))
    for node, args, result in zip(seen.flow.nodes, seen.arguments, seen.results, strict=True):
        if not _hides(seen.flow, node):
            continue
        shown = _bend(node, args)
        bends |= shown
        path = _path(seen.flow, node, args, result)
        if path is None:
            continue
        sides = min(side.any(axis=1).sum() for side in (path > 0, path < 0))
        if sides < 2 and node.op not in ("sqrt", "cbrt", "power"):
            blind = True
        elif sides:
            paths[path.shape[1], min(shown, default="")] = path
    for x in paths.values():
        others = [y for y in paths.values() if y is not x and y.shape == x.shape]
        blind = blind or any(min((x * y > 0).sum(), (x * y < 0).sum()) < 2 for y in others)
    return bends, blind


def _path(live: Flow, node: Node, args: Sequence[Floats], result: Floats) -> Floats | None:
    """Which way a jump or bend went, 1 or -1 (0: on the edge), by step and element; None where none is."""
    if node.op in _COMPARE:
        return 2 * result - 1
    if node.op == "where":
        condition = live.node(node.args[0])
        if condition is not None and condition.op in _COMPARE:
            return None  # told by the comparison
        return 2.0 * (args[0] != 0) - 1
    if node.op in ("max", "min"):
        return np.greater(*args).astype(np.float64) - np.less(*args)
    if node.op in ("sign", "abs", "sqrt", "cbrt", "power"):
        return np.sign(args[0])
    return None


def _zero_nodes(live: Flow) -> set[Node]:
    """Nodes that are 0 by their text: weight_decay * w at a decay of 0, and what comes of an idle state."""
    idle = {FIRST + index for index, _ in live.states}
    while True:
        zero = idle | {v for v, x in live.hypers.items() if x == 0}

        def is_zero(arg: Arg, zero: set[int] = zero) -> bool:
            return arg.value == 0 if isinstance(arg, Const) else arg in zero

        for number, node in enumerate(live.nodes, live.first_node):
            zeros = [is_zero(a) for a in node.args]
            if (node.op in ("multiply", "divide") and any(zeros)) or (node.op in _KEEP_ZERO and all(zeros[:2])):
                zero.add(number)
        still = {FIRST + index for index, end in live.states if is_zero(end)} & idle
        if still == idle:
            return {node for number, node in enumerate(live.nodes, live.first_node) if number in zero}
        idle = still


def _bend(node: Node, args: Sequence[Floats]) -> set[str]:
    """What counts about a node beside what it adds to the update: its arguments, or where they are 0."""
    columns = [np.ravel(arg) for arg in args]
    if node.op in _ZEROS:
        return set(_zeros(node, columns))
    if node.op in _COMPARE or node.op in _CHOOSE or node.op == "amax":
        columns = columns[1:] if node.op == "where" else columns
        scale = max(_largest(column) for column in columns) or 1.0
        shown = [_digest(_rounded(column, scale, _COARSE)) for column in columns]
        if node.op.startswith("greater"):
            shown.reverse()
        elif node.op in ("max", "min"):
            shown.sort()
        return {" ".join([_COMPARE.get(node.op, node.op), *shown])}
    return {" ".join([node.op, *(_digest(_rounded(column, 1.0, _COARSE)) for column in columns)])}


def _zeros(node: Node, columns: list[Floats]) -> Iterator[str]:
    """The argument that bends at 0, in a form that is the same for x, c x, |x| and x ** c."""
    x = columns[-1 if node.op == "divide" else 0]
    if node.op == "power":
        power = columns[1]
        if np.equal(power, np.round(power)).all():
            return
        if (np.abs(power) < 1e-3).any():  # hardly seen in the update
            yield "power " + _digest(_rounded(power, 1.0, _COARSE))
    usual = np.isfinite(x) & (x != 0)
    if not usual.any() or np.equal(x, x[0]).all():
        return
    size = np.where(usual, np.log(np.abs(np.where(usual, x, 1.0))), 0.0)
    size = np.where(usual, size - size[usual].mean(), 0.0)
    spread = size[usual].std()
    whole = np.round(size / (spread if spread > 1e-6 else 1.0) * 2.0**_COARSE).astype(np.int64)
    yield "zeros " + _digest(whole.tobytes() + usual.tobytes() + np.isnan(x).tobytes())


def _first(flat: Floats) -> float:
    good = flat[np.isfinite(flat) & (flat != 0)]
    return float(abs(good[0])) if good.size else 1.0


def _largest(flat: Floats) -> float:
    return float(np.max(np.abs(flat), initial=0.0, where=np.isfinite(flat)))


def _rounded(flat: Floats, scale: float, bits: int) -> bytes:
    """Elements over a scale, to some bits; NaN, Inf and 0 as they are."""
    with np.errstate(all="ignore"):
        mantissa, exponent = np.frexp(flat / scale)
    usual = np.isfinite(mantissa)
    whole = np.where(usual, np.round(np.where(usual, mantissa, 0) * 2.0**bits), 0).astype(np.int64)
    carried = np.abs(whole) == 2**bits  # 0.99999... rounds up to the next power of two
    whole = np.where(carried, whole // 2, whole)
    exponent = np.where(usual, exponent + carried, 0).astype(np.int64)
    kind = np.where(np.isnan(flat), 3, np.where(np.isinf(flat), np.where(flat > 0, 1, 2), 0)).astype(np.int64)
    return b"".join(a.tobytes() for a in (whole, exponent, kind))


def key(program: Program) -> str:
    r"""The normal form of a program, modulo one positive factor on its update.

    Where the form outgrows its limits, which bound memory too, it is the structural key.

    >>> a = Program.parse("def f(w, g, m, lr):\n  m = m * 0.9 + g\n  return lr * m / sqrt(m * m), m")
    >>> b = Program.parse("def f(w, g, m, lr=0.1):\n  m = interp(g, m, 0.9)\n  return sign(m) * lr, m")
    >>> key(a) == key(b)
    True
    """
    if program.schedule:
        return structural_key(program)
    parts = program.parts()
    try:
        forms = [normal_form(part) for part in parts]
    except TooLarge:
        return structural_key(program)
    scales = [magnitude(form.primitive(form.update)[0]) for form in forms]
    said = []
    for part, form, scale in zip(parts, forms, scales, strict=True):
        update = form.scaled(form.update, 1 / Fraction(scale)).digest
        states = sorted(f"{form.state(i).digest} {part.states[i].codec} {end.digest}" for i, end in form.ends.items())
        asked = [pair for pair in part.periods if form.flow.reads(pair[0])]
        said.append((part.roles, Fraction(scale) / scales[0], update, states, asked))
    return _digest(repr(said))


def form_scale(program: Program) -> Fraction:
    """The factor on the update that `key` leaves aside, over the peak learning rate; raises TooLarge as `canonical`.

    Of programs with one key those with one scale are equal but for their peak.
    """
    form = normal_form(program.parts()[0])
    return Fraction(magnitude(form.primitive(form.update)[0])) / Fraction(repr(program.peak))


@cache
def form_shape(program: Program) -> str:
    r"""The normal form without its numbers; "" where there is none.

    >>> a = Program.parse("def f(w, g, lr):\n  return lr * (sign(g) + 0.1 * w)")
    >>> b = Program.parse("def f(w, g, lr):\n  return lr * 0.3 * w + lr * sign(g)")
    >>> form_shape(a) == form_shape(b)
    True
    """
    try:
        forms = [normal_form(part) for part in program.parts()]
    except TooLarge:
        return ""
    shapes = [(form.update.digest[:SHAPE], sorted(end.digest[:SHAPE] for end in form.ends.values())) for form in forms]
    return repr(shapes)


def behaviour_key(program: Program, seen: Behaviour | None = None, form: str | None = None) -> str:
    r"""What a program does on the probe; where that is blind, its normal form too.

    Two programs with one key differ by less than 1.5e-11 relative on every probed update up to one positive factor,
    and bend and jump alike. `seen` and `form`, the program's `key`, save making them again.

    >>> a = Program.parse("def f(w, g, m, p, lr):\n  m = 0.9 * m + g - p\n  p = g\n  return lr * m, m, p")
    >>> b = Program.parse("def f(w, g, q, lr):\n  m = q + g\n  q = 0.9 * m - g\n  return lr * m, q")
    >>> key(a) == key(b), behaviour_key(a) == behaviour_key(b)
    (False, True)
    """
    seen = seen or behaviour(program)
    return _digest(seen.digest + ((form or key(program)) if seen.blind else ""))
