"""How the size of an update follows the size of the gradient, element by element."""

from __future__ import annotations

import math

import numpy as np

from .interpret import Interpreter
from .program import Program

_SHAPE = (6, 8)
_STEPS = 8
_FACTOR = 4.0  # to either side
_SIZE = 0.01  # of gradients, as in training
_NUMBER = 20261126  # of the draws


def elasticity(program: Program) -> float:
    r"""The slope of log |u_i| over log |g_i|, its median over elements and later steps; NaN where there is none.

    Half of the elements have gradients four times as large throughout, the others four times smaller, then the reverse;
    what all elements share, as a clip by the norm, leaves the slope alone, and so does decay: what is odd in the
    weights does not count. 1 for momentum, 0 for a sign or for Adam, whose steps forget the size of their own element's
    gradient.

    >>> elasticity(Program.parse("def momentum(w, g, m, lr):\n  m = 0.9 * m + g\n  return lr * m, m"))
    1.0
    >>> elasticity(Program.parse("def signsgd(w, g, lr):\n  return lr * sign(g)"))
    0.0
    """
    random = np.random.Generator(np.random.Philox(key=_NUMBER))
    w = 0.02 * random.standard_normal(_SHAPE)
    larger = random.permuted(np.repeat((1.0, -1.0), math.prod(_SHAPE) // 2)).reshape(_SHAPE)
    mean = random.standard_normal(_SHAPE)
    g = [_SIZE * (mean + random.standard_normal(_SHAPE)) for _ in range(_STEPS)]
    with np.errstate(all="ignore"):
        up, down = (_even(program, w, [x * _FACTOR ** (side * larger) for x in g]) for side in (1, -1))
        slopes = larger * np.log(np.abs(up / down)) / (2 * math.log(_FACTOR))
    slopes = slopes[np.isfinite(slopes)]
    return float(round(np.median(slopes), 6)) + 0.0 if slopes.size else math.nan


def _even(program: Program, w: np.ndarray, gradients: list[np.ndarray]) -> np.ndarray:
    """The updates' part that is even in the weights."""
    return (_updates(program, w, gradients) + _updates(program, -w, gradients)) / 2


def _updates(program: Program, w: np.ndarray, gradients: list[np.ndarray]) -> np.ndarray:
    """The updates of the later half of the steps."""
    runner = Interpreter(program, [_SHAPE], roles=["matrix"])
    found = []
    for t, g in enumerate(gradients, 1):
        [update] = runner.step([w], [g], t=t, progress=t / (2 * len(gradients)))
        found.append(np.broadcast_to(update, _SHAPE))
    return np.array(found[len(found) // 2 :], float)
