r"""Width transfer: the learning rate of each role at another width than the one that a rule was tuned at.

In the maximal update parametrisation (Yang et al. 2022, arXiv:2203.03466) every layer's features move as much in a step
at any width n. Stated for an update U of a parameter (Yang, Simon and Bernstein 2023, arXiv:2310.17813):

- a matrix, whose both sides grow with n: the spectral norm of U, over sqrt(fan_out / fan_in), stays;
- a vector, an embedding or a head whose logits are divided by n, of which one side grows or none: the size of U's
  elements stays.

Gradients have elements of size 1 / n and matrices' are of a rank that does not grow: outer products of what a layer
reads with what comes back to it. A rule is run on such gradients at two widths. Sizes that go as n^-a want a rate that
goes as n^a; a is rounded to halves. This gives table 8 of the paper without asking which rule it is:

=====================  ======  =======================
update                 matrix  vector, embedding, head
=====================  ======  =======================
degree 1, as SGD       1       n
degree 0, as Adam      1 / n   1
spectral norm 1, Muon  1       by its fallback
=====================  ======  =======================

In general an elementwise rule of degree k in the gradients has n^k, and n^(k - 1) for matrices.

What does not transfer: a norm over all parameters in a program (`clip`, `global_norm`), which sees one role at a time
where groups are by role; and for rules of degree 1 `Target.clip`, since embeddings' share of the norm falls as n^-1/2.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.optim import Optimizer

from ...dsl import Program
from ...dsl.interpret import Part
from ...dsl.parameter import ROLES, ParameterView
from ...dsl.transforms import split
from ...proxies.targets.decoder import Decoder

Array = NDArray[np.float64]

_WIDTHS = (64, 256)  # of the probe
_SYMBOLS = 24  # what an embedding takes and a head tells apart, at any width
_RANK = 4  # of gradients
_STEPS = 8


def lr_factors(program: Program, width: int, base: int) -> dict[str, float]:
    r"""Role -> factor on the learning rate at a width, of a program that was tuned at the base width.

    >>> lr_factors(Program.parse("def f(w, g, lr):\n  return lr * sign(g)"), 256, 64)
    {'matrix': 0.25, 'vector': 1.0, 'embedding': 1.0, 'head': 1.0}
    """
    return {role: (width / base) ** power for role, power in width_exponents(program).items()}


@cache
def width_exponents(program: Program) -> dict[str, float]:
    r"""Role -> the power of the width with which the learning rate goes; 0 where the probe sees no update.

    The decay of weights (see `dsl.transforms.split`) is left aside.

    >>> width_exponents(Program.parse("def sgd(w, g, lr):\n  return lr * g"))
    {'matrix': 0.0, 'vector': 1.0, 'embedding': 1.0, 'head': 1.0}
    """
    owners = program.assign(ROLES)
    found: dict[str, float] = {}
    for number, part in enumerate(program.parts()):
        roles = tuple(role for role, owner in zip(ROLES, owners, strict=True) if owner == number)
        update = split(part).update
        if roles and update is not None:
            narrow, wide = (_sizes(update, roles, width) for width in _WIDTHS)
            found |= {role: _power(a, b) for role, a, b in zip(roles, narrow, wide, strict=True)}
    return {role: found.get(role, 0.0) for role in ROLES}


def width_ratio(module: nn.Module) -> float:
    """Width over base width of a decoder; 1 in the standard parametrisation, and of other modules."""
    return module.shape.width_ratio if isinstance(module, Decoder) else 1.0


def transfer_rates(optimizer: Optimizer, program: Program, ratio: float) -> None:
    """Multiplies the rate of each group of an optimizer by its role's factor, at a ratio of width to base width.

    Decay that stands beside the update, lr * weight_decay * w, stays what it was: "weight_decay" is divided by the
    factor. Where it is mixed into the update, or has no name, it is left as it is.

    Args:
        optimizer: Of a class of the program, its groups by `role_groups`.
        program: What it was made from.
        ratio: Of widths.
    """
    powers, parts, owners = width_exponents(program), program.parts(), program.assign(ROLES)
    decays = {role: split(parts[owner]).decay is not None for role, owner in zip(ROLES, owners, strict=True)}
    for group in optimizer.param_groups:
        role = group["role"]
        factor = ratio ** powers[role]
        group["lr"] *= factor
        if decays[role] and "weight_decay" in group:
            group["weight_decay"] /= factor


# --- the probe ----------------------------------------------------------------------------------------------


def _power(narrow: float, wide: float) -> float:
    """The power of the width that makes up for a size that changes with it, in halves."""
    if not (0 < narrow < math.inf and 0 < wide < math.inf):
        return 0.0
    slope = math.log(wide / narrow) / math.log(_WIDTHS[1] / _WIDTHS[0])
    return -round(2 * slope) / 2 + 0.0  # no -0


def _sizes(program: Program, roles: tuple[str, ...], width: int) -> list[float]:
    """How far some steps take a parameter of each role, as that role is measured."""
    random = np.random.Generator(np.random.Philox(key=2203_03466))
    loads = 1 + 0.5 * random.standard_normal((_STEPS, _RANK))  # the same at any width
    shapes = [_shape(role, width) for role in roles]
    w = [_start(random, role, shape) for role, shape in zip(roles, shapes, strict=True)]
    sides = [[_directions(random, extent) for extent in shape] for shape in shapes]
    runner = Part(program, [ParameterView(i, s, r) for i, (s, r) in enumerate(zip(shapes, roles, strict=True))])
    moved = [np.zeros(shape) for shape in shapes]
    for t in range(1, _STEPS + 1):
        g = [(loads[t - 1] * some[0]) @ (some[1].T if len(some) > 1 else np.ones(_RANK)) / width for some in sides]
        moved = [m + u for m, u in zip(moved, runner.step(w, g, 1.0, t, t / (_STEPS + 1), {}), strict=True)]
    return [_size(role, m) for role, m in zip(roles, moved, strict=True)]


def _directions(random: np.random.Generator, extent: int) -> Array:
    """(extent, rank) orthogonal columns with elements of size 1."""
    return math.sqrt(extent) * np.linalg.qr(random.standard_normal((extent, _RANK)))[0]


def _shape(role: str, width: int) -> tuple[int, ...]:
    return {"matrix": (width, width), "vector": (width,)}.get(role, (_SYMBOLS, width))


def _start(random: np.random.Generator, role: str, shape: tuple[int, ...]) -> Array:
    """Weights as they are at initialisation."""
    if role == "vector":
        return np.ones(shape)
    return random.standard_normal(shape) * (shape[1] ** -0.5 if role == "matrix" else 0.02)


def _size(role: str, update: Array) -> float:
    if not np.isfinite(update).all():
        return math.nan
    return float(np.linalg.norm(update, 2) if role == "matrix" else np.sqrt(np.mean(update * update)))
