"""Random probes of a program's symmetries: it runs beside itself on transformed weights and gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .interpret import Part, Value
from .probe import views
from .program import RESERVED, Program

Array = NDArray[np.float64]
Change = Callable[[int, Array], Array]  # a tensor by its index, transformed

#: Matrices, so that every program can run; wide, tall and square.
SHAPES: tuple[tuple[int, int], ...] = ((3, 4), (5, 3), (3, 3))
TOLERANCE = 1e-9
_STEPS = 8
_LEAST_NORMAL = np.finfo(np.float64).tiny


class Step(NamedTuple):
    """What a program is given at a step; oracles too."""

    w: list[Array]
    g: list[Array]
    hutchinson: list[Array]
    gauss_newton: list[Array]
    two_point: float


class _Rig(Part):
    """A part whose noise is transformed like its gradients."""

    def __init__(self, program: Program, change: Change, disturb: Callable[[Value], Value] | None = None) -> None:
        # codecs that round leave a symmetry but for the rounding
        states = tuple(s if s.codec is None or s.codec.needs_matrix else s._replace(codec=None) for s in program.states)
        plain = replace(program, states=states, fallback=None)
        super().__init__(plain, views(SHAPES), disturb)
        self.change = change

    def _noise(self, step: int) -> list[Array]:
        return [self.change(i, drawn) for i, drawn in enumerate(super()._noise(step))]


def history(seed: int = 0, steps: int = _STEPS) -> list[Step]:
    """Weights that drift and gradients of changing size, with some elements 0."""
    random = np.random.Generator(np.random.Philox(key=20260701 + seed))
    w = [random.standard_normal(s) for s in SHAPES]
    found = []
    for _ in range(steps):
        g = [random.standard_normal(s) * 2.0 ** random.integers(-3, 3) for s in SHAPES]
        g[0][0, 1] = 0.0
        h = [np.abs(random.standard_normal(s)) for s in SHAPES]
        found.append(Step(w, g, h, [x * x for x in h], float(random.standard_normal())))
        w = [x - 0.05 * random.standard_normal(x.shape) for x in w]
    return found


def _same(i: int, x: Array) -> Array:
    return x


def updates(
    program: Program,
    steps: list[Step],
    change: Change = _same,
    scale: float = 1.0,
    curvature: Change | None = None,
    decay: float = 0.5,
    disturb: Callable[[Value], Value] | None = None,
) -> list[Value]:
    r"""The updates of a history with its tensors transformed and its loss scaled.

    `curvature` transforms the oracles that are diagonals, as `change` does the rest where it is not given. `decay` is
    the share of the peak learning rate that the schedule takes; `disturb` is that of `Part`.

    >>> sgd = Program.parse("def sgd(w, g, lr):\n  return lr * g")
    >>> (updates(sgd, history(), scale=2.0)[0][0] == 2 * updates(sgd, history())[0][0]).all()
    np.True_
    """
    bend = curvature or change
    runner = _Rig(program, change, disturb)
    periods = {RESERVED[slot]: period for slot, period in program.periods}
    found = []
    for t, step in enumerate(steps, 1):
        oracles: dict[str, Any] = {
            "hutchinson": [scale * bend(i, x) for i, x in enumerate(step.hutchinson)],
            "gauss_newton": [scale * scale * bend(i, x) for i, x in enumerate(step.gauss_newton)],
            "two_point": scale * step.two_point,
        }
        due = {name: value for name, value in oracles.items() if (t - 1) % periods.get(name, 1) == 0}
        w, g = ([change(i, x) for i, x in enumerate(each)] for each in (step.w, step.g))
        part = t / (len(steps) + 1)
        found.append(runner.step(w, [scale * x for x in g], 1 - decay * part, t, part, due))
    return found


def agree(a: list[Value], b: list[Value], tolerance: float = TOLERANCE, least: float = 0.5) -> bool:
    """Whether updates are equal, to the tolerance of a tensor's largest element, where both are finite.

    False where less than a share `least` of the elements is finite.

    >>> x = [[np.array([1.0, 2.0])]]
    >>> agree(x, [[np.array([1.0, np.inf])]]), agree(x, [[np.array([1.0, 2.1])]])
    (True, False)
    """
    finite = total = 0
    for one, other in zip(a, b, strict=True):
        for x, y in zip(one, other, strict=True):
            good = np.isfinite(x) & np.isfinite(y)
            total, finite = total + x.size, finite + int(good.sum())
            with np.errstate(all="ignore"):
                size = float(np.max(np.maximum(np.abs(x), np.abs(y)), initial=0.0, where=good))
                if (np.abs(np.where(good, x, 0.0) - np.where(good, y, 0.0)) > tolerance * size).any():
                    return False
    return finite >= least * total


def equivariant(program: Program, change: Change, curvature: Change | None = None) -> bool:
    r"""Whether transformed weights and gradients give the transformed update; arguments as in `updates`.

    >>> rule = Program.parse("def f(w, g, lr):\n  return lr * sign(g)")
    >>> equivariant(rule, permuted(0, seed=1)), equivariant(rule, rotated(0, seed=1))
    (True, False)
    """
    steps = history()
    expected = [[change(i, u) for i, u in enumerate(step)] for step in updates(program, steps)]
    return agree(expected, updates(program, steps, change, curvature=curvature))


# --- transformations ----------------------------------------------------------------------------------------


def _random(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=4711 + seed))


def permuted_elements(seed: int) -> Change:
    """Another order of all elements of each tensor."""
    random = _random(seed)
    orders = [random.permutation(math.prod(s)) for s in SHAPES]
    return lambda i, x: x.reshape(-1)[orders[i]].reshape(x.shape)


def permuted(side: int, seed: int) -> Change:
    """Another order of the rows (side 0) or columns (1) of each tensor."""
    random = _random(seed)
    orders = [random.permutation(s[side]) for s in SHAPES]
    return lambda i, x: np.take(x, orders[i], axis=side)


def rotated(side: int, seed: int) -> Change:
    """An orthogonal matrix on the left (side 0) or right (1) of each tensor."""
    random = _random(seed)
    turns = [np.linalg.qr(random.standard_normal((s[side], s[side])))[0] for s in SHAPES]

    def turned(i: int, x: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):  # an update may be infinite, which is no one's warning
            return turns[i] @ x if side == 0 else x @ turns[i].T

    return turned


def flipped(seed: int) -> Change:
    """Other signs of half the elements."""
    random = _random(seed)
    signs = [np.sign(random.standard_normal(s)) for s in SHAPES]
    return lambda i, x: signs[i] * x


def has_signs(program: Program, seed: int = 0) -> bool:
    """Whether flipping signs of elements of w and g flips those of the update; curvature keeps its sign."""
    return equivariant(program, flipped(seed), _same)


def is_odd(program: Program) -> bool:
    """Whether negating w and g negates the update; curvature keeps its sign."""
    return equivariant(program, lambda i, x: -x, _same)


# --- sizes --------------------------------------------------------------------------------------------------


def degree(program: Program) -> float | None:
    r"""The k with which updates become c^k times themselves when gradients become c times; None where there is none.

    >>> degree(Program.parse("def f(w, g, lr):\n  return lr * g * norm(g)"))
    2.0
    """
    steps = history()
    plain = updates(program, steps)
    far = updates(program, steps, scale=2.0**36)
    sizes = [_largest(x) for x in (plain, far)]
    if not all(0 < x < math.inf for x in sizes):
        return 0.0 if agree(plain, far) else None
    k = round(math.log2(sizes[1] / sizes[0]) / 36, 9)
    if abs(k) > 6:
        return None
    for scale in (2.0**36, 2.0**-36, 2.0**-72, 3.7):
        factor = scale**k
        expected = [[factor * u for u in step] for step in plain]
        if not agree(expected, updates(program, steps, scale=scale)):
            return None
    return k


def _largest(found: list[Value]) -> float:
    """The largest size of a finite element; NaN where less than half are finite."""
    flat = np.abs(np.concatenate([np.ravel(np.asarray(u, np.float64)) for step in found for u in step]))
    good = np.isfinite(flat)
    return float(np.max(flat, initial=0.0, where=good)) if 2 * good.sum() > flat.size else math.nan


def largest_by_scale(program: Program) -> dict[int, float]:
    r"""The largest update at w = 0 over histories of gradients at scales 2^k, by k: even, rising, falling, single.

    Subnormal numbers are 0 there: a root of a square that lost its digits would be smaller than what was squared.

    >>> set(largest_by_scale(Program.parse("def f(w, g, lr=0.1):\n  return lr * sign(g)")).values())
    {0.1}
    """
    found = {}
    for k in (-60, -40, -20, 0, 20, 40, 60):
        sizes = []
        for form in range(4):
            steps = [_shaped(s, form, number, 2.0**k) for number, s in enumerate(history(seed=form))]
            sizes.append(_largest(updates(program, steps, decay=0.0, disturb=_without_subnormals)))
        found[k] = max(sizes) if not any(math.isnan(x) for x in sizes) else math.nan
    return found


def _without_subnormals(value: Value) -> Value:
    if isinstance(value, list):
        return [np.where(np.abs(x) < _LEAST_NORMAL, 0.0, x) for x in value]
    return np.where(np.abs(value) < _LEAST_NORMAL, 0.0, value)


def _shaped(step: Step, form: int, number: int, scale: float) -> Step:
    """A step of a history whose gradients are all at a scale, get there, leave it, or in one row alone."""
    late = number >= _STEPS // 2
    factor = scale if form in (0, 3) or late == (form == 1) else 1.0

    def scaled(x: Array) -> Array:
        return x * np.where(np.arange(len(x))[:, None] == number % 2, factor, 0.0 if late else 1.0) if form == 3 else (
            x * factor
        )  # fmt: skip

    return Step(
        [0 * x for x in step.w], [scaled(x) for x in step.g], [scaled(x) for x in step.hutchinson],
        [scaled(scaled(x)) for x in step.gauss_newton], factor * step.two_point,
    )  # fmt: skip


def sizes_at_constant_gradient(program: Program, steps: int, first: int = 10) -> tuple[list[float], float]:
    r"""RMS of the updates of the first steps and the largest of the last, at w = 0 under one gradient, schedule 1.

    >>> sign = Program.parse("def f(w, g, lr):\n  return lr * sign(g)")
    >>> sizes_at_constant_gradient(sign, steps=4, first=2)
    ([1.0, 1.0], 1.0)
    """
    random = _random(0)
    g = [random.standard_normal(s) for s in SHAPES]
    one = Step([0 * x for x in g], g, [np.abs(x) for x in g], [x * x for x in g], 1.0)
    runner = _Rig(program, _same)
    periods = {RESERVED[slot]: period for slot, period in program.periods}
    early: list[float] = []
    last = 0.0
    for t in range(1, steps + 1):
        due = {name: getattr(one, name) for name, period in periods.items() if (t - 1) % period == 0}
        update = runner.step(one.w, one.g, 1.0, t, 0.0, due)
        if t <= first or t > steps - first:
            flat = np.concatenate([np.ravel(np.asarray(u, np.float64)) for u in update])
            with np.errstate(all="ignore"):
                size = float(np.sqrt(np.mean(flat * flat)))
            if t <= first:
                early.append(size)
            else:
                last = max(last, size)
    return early, last
