"""The probe: fixed steps on which programs are compared, open loop."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from .interpret import Tensors, Value
from .parameter import ParameterView
from .program import Program


class ProbeStep(NamedTuple):
    """One step of the fixed probe."""

    w: Tensors
    g: Tensors
    schedule: float
    t: int
    progress: float
    oracles: dict[str, Value]


SHAPES: tuple[tuple[int, ...], ...] = ((12,), (3, 3), (5,))
MATRICES: tuple[tuple[int, ...], ...] = ((3, 4), (5, 3), (3, 3))  # for a program that vectors do not reach
#: Scale of the gradient at each step: rising, so that small-gradient behaviour (an eps) shows before a large
#: gradient fills the states. The ones in the middle set the scale of the update: their RMS is 0.01, that of gradients
#: in training (0.003 to 0.03 on transformers and networks): at 1 a sign in place of momentum would be 400 times too
#: large.
SCALES = (1e-9, 1e-6, 1e-4, 1e-3, 5e-3, 5e-3, 1.5e-3, 5e-4, 1e3, 1.0, 1e8, 0.5)
TYPICAL = (4, 5, 6, 7)  # the steps with gradients of ordinary size


def shapes_of(program: Program) -> tuple[tuple[int, ...], ...]:
    """The shapes of the probe's tensors for a program: matrices alone where no vector reaches it."""
    return MATRICES if program.roles and "vector" not in program.roles else SHAPES


def views(shapes: tuple[tuple[int, ...], ...]) -> list[ParameterView]:
    """The probe's tensors as parameters."""
    return [ParameterView(i, shape, "matrix") for i, shape in enumerate(shapes)]


@cache
def probe(shapes: tuple[tuple[int, ...], ...] = SHAPES) -> tuple[ProbeStep, ...]:
    """The probe: tensors of unlike shape and scale, elements that are 0, schedule and t varied."""
    random = np.random.Generator(np.random.Philox(key=20260101))
    steps = []
    w = [random.standard_normal(s) * scale for s, scale in zip(shapes, (1.0, 0.1, 3.0), strict=True)]
    for x in w:
        x.reshape(-1)[-1] = 0.0
    for number, scale in enumerate(SCALES):
        g = [random.standard_normal(s) * scale * f for s, f in zip(shapes, (1.0, 0.03, 5.0), strict=True)]
        for x in g:
            x.reshape(-1)[:1] = 0.0  # never a gradient
            x.reshape(-1)[1 + number % 2] = 0.0  # sometimes none
        if number in (3, 9):
            g[2][:] = 0.0  # a tensor without a gradient
        t = (1, 2, 3, 5, 9, 40, 170, 1000, 5000, 20000, 20001, 20002)[number]
        schedule = 0.35 + 0.65 * (number % 3) / 2 if number < len(SCALES) - 1 else 0.0  # as at the end of a run
        oracles: dict[str, Value] = {
            "hutchinson": [np.abs(x) * scale for x in w], "gauss_newton": [x * x for x in g],
            "two_point": np.float64(scale * (1 - number % 3)),
        }  # fmt: skip
        steps.append(ProbeStep(w, g, schedule, t, (number + 1) / (len(SCALES) + 1), oracles))
        w = [x - 0.01 * random.standard_normal(x.shape) * (x != 0) for x in w]
    return tuple(steps)
