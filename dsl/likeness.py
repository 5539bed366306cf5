"""How alike two rules act: the cosine of their updates on gradients such as training gives.

Open loop: gradients do not depend on the rule. They differ in size between three tensors, of which one is an embedding
whose rows are rarely met, have a signal that drifts under more noise, and leap once. A run of 64 steps is too short for
what takes hold over thousands, such as a slow average or a decay: so rules are alike only where both read the weights,
or neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .flow import flow
from .interpret import Interpreter
from .probe import ProbeStep
from .program import Program, W

_SHAPES = ((12, 16), (24, 8), (12, 12))  # matrices, so that every program can run
_SIZES = (5e-3, 4e-3, 1e-2)  # of gradients that are met, as a byte model's are; their scales spread around it
_RARE = 0.25  # of the embedding's rows are met at a step
_NOISE = 2.0  # to one of signal
_QUARTERS, _STEPS = 4, 16  # of a run, and of each
_LEAP = 16.0  # of the gradient at one step of the third


class Action(NamedTuple):
    """What a rule did: `asks` is what updates do not show, `updates` of each part the quarters of each tensor."""

    asks: tuple[object, ...]
    updates: tuple[NDArray[np.float64], ...]
    squares: NDArray[np.float64]  # sums of each of them: one rule is compared with many


def action(program: Program) -> Action:
    """The updates of a program; of one with a route each part acts on all tensors."""
    parts = program.parts()
    found = [quarter for part in parts for quarter in _updates(replace(part, roles=()))]
    largest = max(float(np.abs(x).max()) for x in found)
    with np.errstate(invalid="ignore"):  # of what is not finite, which is like nothing
        scaled = tuple(x / (largest or 1.0) for x in found)
    return Action(tuple(map(_asks, parts)), scaled, _dots(scaled, scaled))


def _dots(one: Sequence[NDArray[np.float64]], other: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.array([np.vdot(a, b) for a, b in zip(one, other, strict=True)])


def _asks(program: Program) -> tuple[object, ...]:
    live = flow(program)
    return program.roles, live.reads(W), tuple(pair for pair in program.periods if live.reads(pair[0]))


def _updates(program: Program) -> list[NDArray[np.float64]]:
    runner = Interpreter(program, _SHAPES)
    with np.errstate(all="ignore"):
        steps = [runner.step(*step) for step in _training()]
    found = []
    for i, shape in enumerate(_SHAPES):
        whole = np.stack([np.broadcast_to(np.asarray(update[i], float), shape) for update in steps])
        found += [quarter.ravel() for quarter in np.split(whole, _QUARTERS)]
    return found


def likeness(one: Action, other: Action) -> float:
    r"""The least of the cosines of two rules' updates, over all, and over each tensor and quarter of the run.

    0 where one is not finite, or moves what the other does not, or reads other inputs. At 0.98 two updates of one
    length differ by a fifth of it. A factor on all updates does not matter.

    >>> rule = "def f(w, g, m, lr=0.1):\n  m = interp(g, m, 0.9)\n  return lr * {}, m"
    >>> momentum, twice, signs = (action(Program.parse(rule.format(u))) for u in ("m", "(m + m)", "sign(m)"))
    >>> f"{likeness(momentum, twice):.3f}, {likeness(momentum, signs):.1f}"
    '1.000, 0.5'
    """
    if one.asks != other.asks:
        return 0.0
    each = (_dots(one.updates, other.updates), one.squares, other.squares)
    dots, squares, others = (np.append(x, x.sum()) for x in each)
    with np.errstate(all="ignore"):
        cosines = dots / np.sqrt(squares * others)
    still = (squares == 0).astype(int) + (others == 0)
    found = float(np.min(np.choose(still, [cosines, 0.0, 1.0])))
    return found if np.isfinite(found) else 0.0


@cache
def _training() -> tuple[ProbeStep, ...]:
    random = np.random.Generator(np.random.Philox(key=20261127))

    def normal() -> list[NDArray[np.float64]]:
        return [random.standard_normal(shape) for shape in _SHAPES]

    scales = [size * np.exp(x / 2) for size, x in zip(_SIZES, normal(), strict=True)]
    curvature = [np.exp(x) for x in normal()]
    signal, w, steps = normal(), [0.05 * x for x in normal()], []
    for t in range(1, _QUARTERS * _STEPS + 1):
        signal = [0.98 * s + 0.2 * x for s, x in zip(signal, normal(), strict=True)]  # of variance 1
        size = (_LEAP if t == 5 * _STEPS // 2 else 1.0) / np.hypot(1, _NOISE)
        g = [size * c * (s + _NOISE * x) for c, s, x in zip(scales, signal, normal(), strict=True)]
        g[1] = g[1] * (random.random((_SHAPES[1][0], 1)) < _RARE)
        oracles = {
            "hutchinson": [c * (1 + x / 4) for c, x in zip(curvature, normal(), strict=True)],
            "gauss_newton": [c * x * x for c, x in zip(curvature, normal(), strict=True)],
            "two_point": np.float64(random.standard_normal()),
        }
        progress = t / (_QUARTERS * _STEPS)
        steps.append(ProbeStep(w, g, 1 - 0.9 * progress, t, progress, oracles))
        w = [x - 1e-3 * y for x, y in zip(w, normal(), strict=True)]
    return tuple(steps)
