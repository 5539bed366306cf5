"""How alike two rules act: the cosine of their updates on gradients such as training gives.

Open loop: gradients do not depend on the rule. A small tensor, a large one, and an embedding whose rows are rarely
there, over a run of few steps, with a signal that drifts under more noise.
"""

from __future__ import annotations

from functools import cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from .interpret import Interpreter
from .probe import ProbeStep
from .program import Program

Action: TypeAlias = tuple[NDArray[np.float64], ...]  # of each tensor its updates, (steps, elements)

SHAPES = ((12, 16), (24, 8), (8, 12))  # matrices, so that every program can run
ROLES = ("matrix", "embedding", "matrix")
_SIZES = (3e-3, 1e-2, 3e-2)  # RMS of gradients, which is that of small transformers
_STEPS = 64
_NOISE = 2.0  # to one of signal
_RARE = 0.25  # of the embedding's rows are met at a step


def action(program: Program) -> Action:
    """The updates of a program over the steps, by tensor."""
    runner = Interpreter(program, SHAPES, roles=ROLES)
    with np.errstate(all="ignore"):
        steps = [runner.step(*step) for step in _training()]
    return tuple(
        np.stack([np.ravel(np.broadcast_to(np.asarray(update[i], float), shape)) for update in steps])
        for i, shape in enumerate(SHAPES)
    )


def likeness(one: Action, other: Action) -> float:
    r"""The least of the cosines of two rules' updates, over all tensors and over each; 0 where one is not finite.

    At 0.98 two updates of one length differ by a fifth of it. A factor on all updates does not matter.

    >>> rule = "def f(w, g, m, lr=0.1):\n  m = interp(g, m, 0.9)\n  return lr * {}, m"
    >>> momentum, twice, signs = (action(Program.parse(rule.format(u))) for u in ("m", "(m + m)", "sign(m)"))
    >>> f"{likeness(momentum, twice):.3f}, {likeness(momentum, signs):.1f}"
    '1.000, 0.5'
    """
    with np.errstate(all="ignore"):
        dots, squares, others = (
            np.array([np.vdot(a, b) for a, b in zip(x, y, strict=True)])
            for x, y in ((one, other), (one, one), (other, other))
        )
        each = np.where((squares == 0) & (others == 0), 1.0, dots / np.sqrt(squares * others))
        found = float(min(dots.sum() / np.sqrt(squares.sum() * others.sum()), each.min()))
    return found if np.isfinite(found) else 0.0


@cache
def _training() -> tuple[ProbeStep, ...]:
    random = np.random.Generator(np.random.Philox(key=20261127))
    spread = [size * np.exp(random.standard_normal(shape) / 2) for size, shape in zip(_SIZES, SHAPES, strict=True)]
    signal = [random.standard_normal(shape) for shape in SHAPES]
    w = [0.05 * random.standard_normal(shape) for shape in SHAPES]
    steps = []
    for t in range(1, _STEPS + 1):
        signal = [0.98 * s + 0.2 * random.standard_normal(s.shape) for s in signal]  # of variance 1
        noisy = [(s + _NOISE * random.standard_normal(s.shape)) / np.hypot(1, _NOISE) for s in signal]
        g = [size * x for size, x in zip(spread, noisy, strict=True)]
        g[1] = g[1] * (random.random((SHAPES[1][0], 1)) < _RARE)
        oracles = {
            "hutchinson": [np.abs(x) for x in g],
            "gauss_newton": [x * x for x in g],
            "two_point": np.float64(random.standard_normal()),
        }
        steps.append(ProbeStep(w, g, 1 - 0.9 * t / _STEPS, t, t / _STEPS, oracles))
        w = [x + 1e-3 * random.standard_normal(x.shape) for x in w]
    return tuple(steps)
