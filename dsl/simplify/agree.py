"""Whether two programs do the same, run side by side."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..interpret import Interpreter
from ..program import Program

Floats: TypeAlias = NDArray[np.float64]
SHAPES: tuple[tuple[int, ...], ...] = ((4,), (2, 3), (3,))
_MORE = 120  # digits that tell a difference from noise around an irrational 0
_ROUNDED = 1e-12  # what rounding log(0.9) to a float64 once may change
_OWN = 1e3  # times what rounding its own constants does to a program, a difference is its conditioning


class Agreement(Enum):
    """How two programs compare over some steps."""

    BITWISE = "bit for bit"
    CLOSE = "in float64"
    EXTENDED = "in extended precision; float64 overflows or rounds differently"
    UNDECIDED = "beyond the reach of extended precision"
    UNEQUAL = "not"


def steps(seed: int, count: int, shapes: tuple[tuple[int, ...], ...] = SHAPES) -> Iterator[tuple[object, ...]]:
    """Weights, gradients, schedule, t and progress: gradients of many scales, one element that never gets any."""
    random = np.random.default_rng(seed)
    w = [random.standard_normal(shape) for shape in shapes]
    for t in range(1, count + 1):
        g = [random.standard_normal(shape) * 10.0 ** random.integers(-3, 2) for shape in shapes]
        g[0].reshape(-1)[0] = 0.0
        if t % 5 == 0:
            g[-1][:] = 0.0
        yield [x.copy() for x in w], g, 1 - t / (count + 5), t, t / count
        w = [x - 0.01 * random.standard_normal(x.shape) for x in w]


def run(program: Program, seed: int, count: int = 20) -> Floats:
    """The updates of every step in float64, flat."""
    runner = Interpreter(program, SHAPES)
    with np.errstate(all="ignore"):
        updates = [runner.step(*step) for step in steps(seed, count)]  # type: ignore[arg-type]
    return np.array([np.concatenate([np.ravel(np.asarray(u, np.float64)) for u in step]) for step in updates])


def agreement(a: Program, b: Program, seed: int, count: int = 20, tolerance: float = 1e-6) -> Agreement:
    """Compares two programs without a route over some steps, each element of every update.

    Elements agree in float64 when they differ by less than `tolerance` of their size, or of a billionth of the largest
    of the step. Where float64 disagrees, both are run in 60-digit arithmetic, where they must agree to 1e-12, because
    functions of numbers are worked out in float64; what differs there and less so with twice the digits is rounding.
    Undecided is what differs by no more than a program does from itself with its constants rounded to binary numbers.
    """
    x, y = run(a, seed, count), run(b, seed, count)
    if x.tobytes() == y.tobytes() or (np.array_equal(x, y, equal_nan=True) and not _unlike_zeros(x, y)):
        return Agreement.BITWISE
    if _close(x, y, tolerance):
        return Agreement.CLOSE
    from ..extended import OutOfReach

    try:
        for digits in (60, _MORE):
            apart = _apart(a, b, seed, count, digits)
            if apart <= _ROUNDED:
                return Agreement.EXTENDED
        own = _apart(a, a, seed, count, _MORE, rounded=True)
    except OutOfReach:
        return Agreement.UNDECIDED
    return Agreement.UNDECIDED if apart <= _OWN * own else Agreement.UNEQUAL


def _unlike_zeros(x: Floats, y: Floats) -> bool:
    zero = (x == 0) & (y == 0)
    return bool((np.signbit(x) != np.signbit(y))[zero].any())


def _close(x: Floats, y: Floats, tolerance: float) -> bool:
    usual = np.isfinite(x)
    with np.errstate(all="ignore"):
        largest = np.max(np.abs(np.where(usual, x, 0.0)), axis=1, keepdims=True)
        near = np.abs(x - y) <= tolerance * np.maximum(np.abs(x), 1e-9 * largest)
    return bool((near | (x == y) | (np.isnan(x) & np.isnan(y))).all())


def _apart(a: Program, b: Program, seed: int, count: int, digits: int, rounded: bool = False) -> float:
    """The largest relative difference; with `rounded` the second program has the binary numbers next to its own."""
    import mpmath  # type: ignore[import-untyped]

    from ..extended import Extended

    runners = [Extended(a, SHAPES, digits=digits), Extended(b, SHAPES, digits=digits, exact=not rounded)]
    worst = 0.0
    for step in steps(seed, count):
        left, right = (runner.step(*step) for runner in runners)  # type: ignore[arg-type]
        pairs = [
            (p, q) for x, y in zip(left, right, strict=True) for p, q in zip(np.ravel(x), np.ravel(y), strict=True)
        ]
        largest = max((abs(p) for p, _ in pairs if mpmath.isfinite(p)), default=0)
        for p, q in pairs:
            if p == q or (mpmath.isnan(p) and mpmath.isnan(q)):
                continue
            if not (mpmath.isfinite(p) and mpmath.isfinite(q)):
                return np.inf
            size = max(abs(p), largest * mpmath.mpf(10) ** -9)
            worst = max(worst, float(abs(p - q) / size) if size else np.inf)
    return worst
