"""Families of rules, told by what a program does in one step: sign of an interpolation (Lion), caution.

The text does not matter. A step is a function of gradient, weights and states, which is asked at chosen points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..dsl import Kind, Program
from ..dsl.errors import ProgramError
from ..dsl.interpret import Interpreter, Value
from ..dsl.program import FIRST

_Array = NDArray[np.float64]
_SHAPE = (12, 16)
_STEPS = 20  # of ordinary gradients, after which states are what they are in training
_FLIPPED = 1 / 8  # share of the elements whose gradient vanishes
_VANISHING = 1e-9  # what is left of it
_DAMPED = 0.95  # an update against its gradient that is no more than this of one with it is held back
_MOST = 0.9  # share of the elements that must agree: a mask's mean over a tensor moves a little with every element
_APART = 0.05  # two rates differ that are further apart than this, relative to the smaller


@dataclass(frozen=True)
class Family:
    """What a rule belongs to, and where in it: `str` gives both."""

    name: str
    detail: str

    def __str__(self) -> str:
        return f"{self.name} family ({self.detail})"


def families(program: Program) -> tuple[Family, ...]:
    """The families that a rule belongs to; none for most rules.

    lion: the update, where it is not 0, is a sign of a sum of gradient and momentum, at one rate, and the momentum an
    average at another (Chen et al. 2023, arXiv:2302.06675). cautious: where a gradient's sign is against the update,
    and nothing else of it is left, the update is 0 or smaller (Liang et al. 2024, arXiv:2411.16085). A decay of the
    weights does not matter; that it is there is said.

    >>> from .catalogue import load
    >>> [str(family) for family in families(load("lion"))]
    ['lion family (sign of an interpolation at 0.9, momentum at 0.99, without decay)']
    >>> [str(family) for family in families(load("c_adamw"))]
    ['cautious family (updates against the gradient at 0, without decay)']
    >>> families(load("adamw")), families(load("signum"))
    ((), ())
    """
    if program.schedule:
        return ()
    try:
        found = [test(program) for test in (_lion, _cautious)]
    except ProgramError:  # it claims no matrix, or needs an oracle
        return ()
    return tuple(family for family in found if family is not None)


class _Step:
    """One step of a program from states of our choice; a decay of the weights is set apart."""

    def __init__(self, program: Program) -> None:
        self.random = np.random.Generator(np.random.Philox(key=20261126))
        self.runner = Interpreter(program, [_SHAPE], roles=["matrix"])
        self.w = self.random.standard_normal(_SHAPE) * 0.02
        self.t = _STEPS

    @property
    def tensors(self) -> list[int]:
        """The live states of a parameter's shape."""
        kinds = self.runner.parts[0][1].flow.kinds
        return [index for index in self.runner.states if kinds[FIRST + index] is Kind.TENSOR]

    def gradient(self) -> _Array:
        """Of ordinary size, never 0."""
        return self.random.choice((-1.0, 1.0), _SHAPE) * np.exp(self.random.standard_normal(_SHAPE) - 3)

    def train(self) -> None:
        """Steps of ordinary gradients that have a mean."""
        mean = self.gradient()
        for t in range(1, _STEPS):
            self.runner.step([self.w], [mean + self.gradient()], t=t)

    def update(self, g: _Array, states: dict[int, Value]) -> tuple[_Array, _Array, dict[int, Value]]:
        """The update without decay, the decay, and the states after: what is odd in w is decay."""
        both = []
        for w in (self.w, -self.w):
            self.runner.states.update(states)
            [update] = self.runner.step([w], [g], t=self.t)
            both.append(np.asarray(np.broadcast_to(update, _SHAPE), float))
        return (both[0] + both[1]) / 2, (both[0] - both[1]) / 2, dict(self.runner.states)


def _decay(part: _Array, update: _Array) -> str:
    return "with decay" if np.abs(part).max() > 1e-9 * np.abs(update).max() else "without decay"


# --- the sign of an interpolation -------------------------------------------------------------------------


def _lion(program: Program) -> Family | None:
    step = _Step(program)
    if len(step.tensors) != 1:
        return None
    [state] = step.tensors
    others, g = dict(step.runner.states), step.gradient()

    def at(m: _Array) -> tuple[_Array, _Array, dict[int, Value]]:
        return step.update(g, {**others, state: [m]})

    m = step.gradient()
    kept = _average(g, [(x, np.asarray(at(x)[2][state][0])) for x in (m, -2 * m)])
    if kept is None:
        return None
    rate, share, way = kept
    turn = _turning_point(g, lambda x: at(way * x)[0])
    if turn is None:
        return None
    update, decay, _ = at(m)
    if not _is_sign(update) or np.any(update * (turn * g + way * m) < 0):
        return None
    inside = 1 / (1 + turn * (1 - rate) / share)  # of the momentum as an average
    if abs(turn - share / rate) <= _APART * min(turn, share / rate):
        return None
    said = f"sign of an interpolation at {inside:.3g}, momentum at {rate:.3g}"
    return Family("lion", f"{said}, {_decay(decay, update)}")


def _average(g: _Array, pairs: list[tuple[_Array, _Array]]) -> tuple[float, float, float] | None:
    """(rate, share, way) where a state becomes rate * state + way * share * g, 0 < rate < 1, share > 0, way 1 or -1.

    None where it becomes anything else.
    """
    before, after = (np.concatenate([pair[i].ravel() for pair in pairs]) for i in (0, 1))
    basis = np.stack([before, np.concatenate([g.ravel()] * len(pairs))], axis=1)
    if not np.isfinite(after).all():
        return None
    (rate, share), *_ = np.linalg.lstsq(basis, after, rcond=None)
    exact = np.allclose(basis @ (rate, share), after, rtol=1e-6, atol=1e-6 * np.abs(after).max())
    return (float(rate), abs(float(share)), float(np.sign(share))) if exact and 0 < rate < 1 and share else None


def _turning_point(g: _Array, update: Callable[[_Array], _Array]) -> float | None:
    """The c at which sign(c g + m) turns or is masked, the same for all elements; None where there is none."""
    low, high = -12.0, 12.0  # its logarithm

    def along(log: float) -> float | None:
        """1 where all updates go with the gradient, -1 (or 0, behind a mask) where none does; None for any other."""
        found = update(-(10.0**log) * g)
        turned = np.unique(np.sign(found) * np.sign(g))
        return float(turned[0]) if len(turned) == 1 and (turned[0] == 0 or _is_sign(found)) else None

    if along(low) != 1 or along(high) not in (-1, 0):
        return None
    for _ in range(40):
        middle = (low + high) / 2
        side = along(middle)
        if side is None:
            return None
        low, high = (middle, high) if side > 0 else (low, middle)
    return float(10 ** ((low + high) / 2))


def _is_sign(update: _Array) -> bool:
    """Whether all elements but those that are 0 are of one size."""
    size = np.abs(update[update != 0])
    return bool(np.isfinite(size).all() and len(size) and size.max() <= size.min() * (1 + 1e-6))


# --- caution --------------------------------------------------------------------------------------------------


def _cautious(program: Program) -> Family | None:
    """A gradient that vanishes leaves all of a rule as it was but for the sign, which only caution reads."""
    step = _Step(program)
    step.train()
    states, g = dict(step.runner.states), step.gradient()
    flipped = step.random.random(_SHAPE) < _FLIPPED
    tiny = np.where(flipped, g * _VANISHING, g)
    one, decay, _ = step.update(tiny, states)
    other, _, _ = step.update(np.where(flipped, -tiny, tiny), states)
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return None
    sign, one, other = np.sign(tiny[flipped]), one[flipped], other[flipped]
    first = np.abs(one) >= np.abs(other)
    larger, smaller = np.where(first, one, other), np.where(first, other, one)
    agrees = larger * np.where(first, sign, -sign) > 0
    share = np.divide(smaller, larger, out=np.ones_like(larger), where=larger != 0)
    held = agrees & (share >= 0) & (share <= _DAMPED)
    if held.mean() < _MOST:
        return None
    return Family("cautious", f"updates against the gradient at {np.median(share[held]):.3g}, {_decay(decay, larger)}")
