"""Keys: when two programs are the same optimizer, cheaply.

`structural_key` sees through names, dead code, shared expressions and the order of commutative arguments.
`key` adds behaviour: what the program does on fixed probe steps, modulo the scale of its update. It may miss
an equality; it must not merge what differs, so numbers at which behaviour could jump outside the probe's
range (thresholds of comparisons, clips, max and min) are part of the key.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .flow import Flow, flow
from .interpret import Interpreter, Tensors
from .ops import OPS, Kind
from .program import FIRST, LR, Arg, Const, Program

_DIGITS = 36  # bits kept of each update: 1.5e-11 relative, far above rounding, far below any real difference
_SUMS = {"add", "subtract", "interp"}
_PRODUCTS = set(
    "multiply divide square cube negative reciprocal get_pi get_e get_eps norm global_norm dot mean sum rms"
    " cosine_sim std".split()
)
_BENDS = {"sign", "abs", "sqrt", "cbrt", "power"}


def structural_key(program: Program) -> str:
    """A hash of the live code, seen through renaming, dead code and commutativity.

    >>> a = Program.parse("def f(w, g, m, lr=1e-3):\\n  x = g * w\\n  m = m + g\\n  return lr * m, m")
    >>> b = Program.parse("def f(w, g, v, lr=0.001):\\n  v = g + v\\n  return v * lr, v")
    >>> structural_key(a) == structural_key(b)
    True
    """
    return _digest(repr(_structure(flow(program), program.peak)))


def _structure(live: Flow, peak: float) -> object:
    """Hashes bottom-up, so that sorting commutative arguments does not depend on numbering.

    States are numbered in the order in which live code first reads them; unread ones are not there.
    """
    order: dict[int, int] = {}
    for node in live.nodes:
        for arg in node.args:
            if isinstance(arg, int) and FIRST <= arg < live.first_node and arg not in live.hypers:
                order.setdefault(arg, len(order))
    for index, end in live.states:
        order.setdefault(FIRST + index, len(order))
    names: dict[Arg, str] = {}

    def name(arg: Arg) -> str:
        if isinstance(arg, Const):
            return repr(arg.value)
        if arg in live.hypers:
            return repr(live.hypers[arg])
        if arg == LR:
            return f"lr {peak!r}"
        if arg < FIRST:
            return f"in {arg}"
        return names[arg] if arg in names else f"state {order[arg]} {int(live.kinds[arg])}"

    for number, node in enumerate(live.nodes, live.first_node):
        args = [name(a) for a in node.args]
        if "commutative" in OPS[node.op].traits:
            args.sort()
        names[number] = _digest(f"{node.op}({','.join(args)})")
    ends = sorted((order[FIRST + index], name(end)) for index, end in live.states)
    return name(live.update), ends


def _digest(text: str | bytes) -> str:
    return hashlib.blake2b(text.encode() if isinstance(text, str) else text, digest_size=16).hexdigest()


# --- behaviour ------------------------------------------------------------------------------------------


class ProbeStep(NamedTuple):
    """One step of the fixed probe."""

    w: Tensors
    g: Tensors
    schedule: float
    t: int
    progress: float


SHAPES: tuple[tuple[int, ...], ...] = ((12,), (3, 3), (5,))
#: Scale of the gradient at each step: rising, so that small-gradient behaviour (an eps) shows before a large
#: gradient fills the states; the plain ones in the middle set the scale of the update.
SCALES = (1e-9, 1e-6, 1e-3, 1e-2, 1.0, 1.0, 0.3, 0.1, 1e3, 30.0, 1e8)
TYPICAL = (4, 5, 6, 7)  # the steps with gradients of ordinary size


@cache
def probe() -> tuple[ProbeStep, ...]:
    """The probe: tensors of unlike shape and scale, elements of w and of g that are 0, schedule and t varied."""
    random = np.random.Generator(np.random.Philox(key=20260101))
    steps = []
    w = [random.standard_normal(s) * scale for s, scale in zip(SHAPES, (1.0, 0.1, 3.0), strict=True)]
    for x in w:
        x.reshape(-1)[-1] = 0.0
    for number, scale in enumerate(SCALES):
        g = [random.standard_normal(s) * scale * f for s, f in zip(SHAPES, (1.0, 0.03, 5.0), strict=True)]
        for x in g:
            x.reshape(-1)[:1] = 0.0  # never a gradient
            x.reshape(-1)[1 + number % 2] = 0.0  # sometimes none
        t = (1, 2, 3, 5, 9, 40, 170, 1000, 5000, 20000, 20001)[number]
        steps.append(ProbeStep(w, g, 0.35 + 0.65 * (number % 3) / 2, t, (number + 1) / (len(SCALES) + 1)))
        w = [x - 0.01 * random.standard_normal(x.shape) * (x != 0) for x in w]
    return tuple(steps)


class Behaviour(NamedTuple):
    """What a program did on the probe."""

    digest: str  # equal for programs that behave alike, modulo the scale of the update
    rms: float  # root mean square of the update over the typical steps; NaN when not finite
    finite: bool


def behaviour(program: Program) -> Behaviour:
    """Runs the probe steps (open loop: weights and gradients do not depend on the program)."""
    runner = Interpreter(program, SHAPES)
    updates = [runner.step(*step) for step in probe()]
    flat = np.stack([np.concatenate([np.ravel(np.asarray(u, np.float64)) for u in step]) for step in updates])
    typical = flat[list(TYPICAL)]
    with np.errstate(all="ignore"):
        rms = float(np.sqrt(np.mean(typical * typical)))
    finite = bool(np.isfinite(typical).all())
    return Behaviour(_digest(_rounded(flat)), rms if finite else float("nan"), finite)


def _rounded(flat: NDArray[np.float64]) -> bytes:
    """Elements over the first nonzero finite one, to _DIGITS bits; NaN, Inf and 0 as they are."""
    good = flat[np.isfinite(flat) & (flat != 0)]
    scale = abs(good[0]) if good.size else 1.0
    with np.errstate(all="ignore"):
        mantissa, exponent = np.frexp(flat / scale)
    usual = np.isfinite(mantissa)
    whole = np.where(usual, np.round(np.where(usual, mantissa, 0) * 2.0**_DIGITS), 0).astype(np.int64)
    carried = np.abs(whole) == 2**_DIGITS  # 0.99999... rounds up to the next power of two
    whole = np.where(carried, whole // 2, whole)
    exponent = np.where(usual, exponent + carried, 0).astype(np.int64)
    kind = np.where(np.isnan(flat), 3, np.where(np.isinf(flat), np.where(flat > 0, 1, 2), 0)).astype(np.int64)
    return b"".join(a.tobytes() for a in (whole, exponent, kind))


def key(program: Program, seen: Behaviour | None = None) -> str:
    """The identity that a search uses: behaviour on the probe, and the thresholds of live code.

    Two programs with one key differ by less than 1.5e-11 relative on every probed update up to one positive
    factor, and jump or bend at the same numbers. `seen` saves running the probe again.

    >>> a = Program.parse("def f(w, g, m, lr):\\n  m = m * 0.9 + g\\n  return lr * m / sqrt(m * m), m")
    >>> b = Program.parse("def f(w, g, m, lr=0.1):\\n  m = interp(g, m, 0.9)\\n  return sign(m) * lr, m")
    >>> key(a) == key(b)
    True
    """
    live = flow(program)
    seen = seen or behaviour(program)
    return _digest(seen.digest + repr(_thresholds(live, program.peak)))


def _thresholds(live: Flow, peak: float) -> list[str]:
    """The numbers at which live code could jump or bend outside the probe's range, with the op that does.

    Sums, products and their like show their constants on every probe step. Signs and roots bend where their
    argument crosses 0, so what is *added* to it counts; for every other op all the constants below it do.
    """
    found: list[str] = []
    below: dict[int, frozenset[float]] = {v: frozenset({x}) for v, x in live.hypers.items()}
    below[LR] = frozenset({peak})
    added: dict[int, frozenset[float]] = {}
    none: frozenset[float] = frozenset()

    def of(arg: Arg) -> frozenset[float]:
        return frozenset({arg.value}) if isinstance(arg, Const) else below.get(arg, none)

    for number, node in enumerate(live.nodes, live.first_node):
        below[number] = none.union(*(of(a) for a in node.args))
        terms = node.args[: 2 if node.op == "interp" else None]
        offsets = none.union(*(added.get(a, none) for a in node.args if isinstance(a, int)))
        if node.op in _SUMS:
            offsets |= none.union(*(of(a) for a in terms if live.kind(a) is Kind.GLOBAL))
        added[number] = offsets
        seen = offsets if node.op in _BENDS else none if node.op in _SUMS | _PRODUCTS else below[number]
        if seen or node.op not in _SUMS | _PRODUCTS | _BENDS:
            found.append(node.op + ":" + ",".join(repr(c) for c in sorted(seen)))
    return sorted(found)
