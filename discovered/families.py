"""Families of rules, told by what a program does in one step: sign of an interpolation (Lion), caution.

The text does not matter. A step is a function of gradient, weights and states, which is asked at chosen points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..dsl import Kind, Program
from ..dsl.errors import ProgramError
from ..dsl.interpret import Interpreter, Value
from ..dsl.program import FIRST

_Array = NDArray[np.float64]
_SHAPE = (12, 16)
_TIMES = ((20, 0.1), (600, 0.7))  # (t, progress) at which a step is asked
_SCALES = (1.0, 0.1)  # of the gradient: a clip by its norm must not matter
_ROUNDED, _CODED = 0.02, 0.3  # of what a state in a codec may lose, and a rate that is read off it
_SAME = 1e-2  # sizes that differ by less are one: an eps is left in them
_WIDEST = 4.0  # powers of ten to either side in which a sign is sought to turn
_TURNS = 15  # halvings of the range in which a sign turns
_APART = 0.05  # two rates differ that are further apart than this, relative to the smaller
_FLIPPED = 1 / 8  # share of the elements whose gradient vanishes
_VANISHING = 1e-5  # what is left of it
_DAMPED = 0.5  # an update against its gradient that is no more than this of one with it is held back
_PAST = -0.02  # what a mask that a number near 1 makes may leave of the gradient: sign(m) + 1.04 sign(g)
_MOST = 0.9  # share of the elements that must agree: a mask's mean over a tensor moves a little with every element


@dataclass(frozen=True)
class Family:
    """What a rule belongs to, and where in it: `str` gives both."""

    name: str
    detail: str

    def __str__(self) -> str:
        return f"{self.name} family ({self.detail})"


def families(program: Program) -> tuple[Family, ...]:
    """The families that a rule belongs to; none for most rules. Of a rule with a route its own part counts.

    lion: the update, where it is not 0, is a sign of a sum of gradient and momentum, at one rate, and the momentum, its
    only state of a parameter's shape, an average at another (Chen et al. 2023, arXiv:2302.06675). cautious: where a
    gradient's sign is against the update, and next to nothing else of it is left, the update is at most half of what it
    is where signs agree, by one factor for all elements (Liang et al. 2024, arXiv:2411.16085), or a fiftieth of it the
    gradient's way, where a number near 1 makes the mask. A decay of the weights does not matter; that it is there is
    said.

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
    own = replace(program, roles=(), fallback=None)
    try:
        with np.errstate(all="ignore"):
            found = [test(own) for test in (_lion, _cautious)]
    except ProgramError:  # a state of a shape that this matrix has not
        return ()
    return tuple(family for family in found if family is not None)


class _Steps:
    """Steps of a program from states of our choice."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.random = np.random.Generator(np.random.Philox(key=20261126))
        self.runner = Interpreter(program, [_SHAPE], roles=["matrix"])
        self.w = self.random.standard_normal(_SHAPE) * 0.02
        self.time = _TIMES[0]

    def momentum(self) -> int | None:
        """The live state of a parameter's shape, where there is one."""
        kinds = self.runner.parts[0][1].flow.kinds
        tensors = [index for index in self.runner.states if kinds[FIRST + index] is Kind.TENSOR]
        return tensors[0] if len(tensors) == 1 else None

    def gradient(self) -> _Array:
        """Of ordinary size, never 0."""
        return self.random.choice((-1.0, 1.0), _SHAPE) * np.exp(self.random.standard_normal(_SHAPE) - 3)

    def train(self) -> None:
        """Steps of ordinary gradients that have a mean, after which states are what they are in training."""
        mean = self.gradient()
        for t in range(1, self.time[0]):
            self.runner.step([self.w], [mean + self.gradient()], t=t)

    def step(self, w: _Array, g: _Array, states: dict[int, Value]) -> tuple[_Array, dict[int, Value]]:
        """The update, and the states after."""
        self.runner.states.update(states)
        t, progress = self.time
        [update] = self.runner.step([w], [g], t=t, progress=progress)
        return np.array(np.broadcast_to(update, _SHAPE), float), dict(self.runner.states)

    def update(self, g: _Array, states: dict[int, Value]) -> _Array:
        """The update without decay: at weights of 0, or, where nothing moves those, what is even in the weights."""
        at_zero, _ = self.step(np.zeros(_SHAPE), g, states)
        if np.any(at_zero):
            return at_zero
        return (self.step(self.w, g, states)[0] + self.step(-self.w, g, states)[0]) / 2

    def decay(self, g: _Array, states: dict[int, Value]) -> str:
        """Whether weights are in the update."""
        update = self.update(g, states)
        other = np.abs(self.step(self.w, g, states)[0] - update).max()
        return "with decay" if other > 1e-9 * np.abs(update).max() else "without decay"


# --- the sign of an interpolation -------------------------------------------------------------------------


def _lion(program: Program) -> Family | None:
    steps = _Steps(program)
    state = steps.momentum()
    if state is None:
        return None
    rates = []
    for steps.time in _TIMES:
        found = [_rates(steps, state, scale * steps.gradient()) for scale in _SCALES]
        if None in found:
            return None
        (inside, rate), (other, _) = found  # type: ignore[misc]
        apart = _CODED if program.states[state].codec else _APART
        if abs(inside - other) > apart * min(inside, other, 1 - inside, 1 - other):
            return None  # of other gradients it is another interpolation
        rates.append((inside, rate))
    inside, rate = rates[0]
    states, g = dict(steps.runner.states), steps.gradient()
    said = f"sign of an interpolation at {inside:.3g}, momentum at {rate:.3g}"
    return Family("lion", f"{said}, {steps.decay(g, {**states, state: [steps.gradient()]})}")


def _rates(steps: _Steps, state: int, g: _Array) -> tuple[float, float] | None:
    """(rate inside the sign, rate of the momentum) at this gradient; None for a rule that is none of the family."""
    others = dict(steps.runner.states)
    tolerance = _ROUNDED if steps.program.states[state].codec else 1e-6

    def updates(m: _Array) -> _Array:
        return steps.update(g, {**others, state: [m]})

    def momenta(m: _Array) -> _Array:
        return np.asarray(steps.step(np.zeros(_SHAPE), g, {**others, state: [m]})[1][state][0])

    unit = float(np.abs(momenta(np.zeros(_SHAPE))).max())  # what this gradient adds
    if not 0 < unit < math.inf:
        return None
    before = [unit * steps.random.standard_normal(_SHAPE) for _ in range(2)]
    kept = _average(g, before, [momenta(m) for m in before], tolerance)
    if kept is None:
        return None
    rate, share, way = kept
    if not all(_is_sign(updates(way * c * share * g), g, whole=True) for c in (1e-2, 1.0, 1e2, 1e4)):
        return None  # an update with the gradient is not one sign
    low, high = -_WIDEST, _WIDEST  # logarithms of c, where m is -c times what the gradient adds
    for _ in range(_TURNS):
        middle = (low + high) / 2
        follows = updates(-way * 10.0**middle * share * g) * g > 0
        if follows.any() != follows.all():
            return None  # elements turn at ratios of their own
        low, high = (middle, high) if follows.all() else (low, middle)
    turn = share * 10.0 ** ((low + high) / 2)
    if min(high + _WIDEST, _WIDEST - low) < 0.1:
        return None  # it follows the gradient alone, or the momentum
    for m in before:
        towards = turn * g + way * m
        clear = np.abs(towards) > 0.05 * (turn * np.abs(g) + np.abs(m))
        if not _is_sign(updates(m)[clear], towards[clear]):
            return None
    if abs(turn - share / rate) <= _APART * min(turn, share / rate):
        return None
    return 1 / (1 + turn * (1 - rate) / share), rate  # of the momentum as an average


def _average(
    g: _Array, before: Sequence[_Array], after: Sequence[_Array], tolerance: float
) -> tuple[float, float, float] | None:
    """(rate, share, way) where a state becomes rate * state + way * share * g, 0 < rate < 1, share > 0, way 1 or -1.

    None where it becomes anything else.
    """
    ends = np.concatenate([x.ravel() for x in after])
    basis = np.stack([np.concatenate([x.ravel() for x in before]), np.concatenate([g.ravel()] * len(before))], axis=1)
    if not np.isfinite(ends).all() or not np.isfinite(basis).all():
        return None
    (rate, share), *_ = np.linalg.lstsq(basis, ends, rcond=None)
    exact = np.abs(basis @ (rate, share) - ends).max() <= tolerance * np.abs(ends).max()
    if not exact or not 1e-3 < rate < 1 or not share:
        return None
    return float(rate), abs(float(share)), float(np.sign(share))


def _is_sign(update: _Array, towards: _Array, whole: bool = False) -> bool:
    """Whether all elements, but those that are 0 behind a mask, are of one size and of the signs of `towards`."""
    moved = update != 0
    size = np.abs(update[moved])
    if not len(size) or (whole and not moved.all()) or not np.isfinite(size).all():
        return False
    return bool(size.max() <= size.min() * (1 + _SAME) and np.all(update[moved] * towards[moved] > 0))


# --- caution --------------------------------------------------------------------------------------------------


def _cautious(program: Program) -> Family | None:
    """A gradient that vanishes leaves little of a rule but the sign, which caution reads."""
    steps = _Steps(program)
    steps.train()
    states, g = dict(steps.runner.states), steps.gradient()
    flipped = steps.random.random(_SHAPE) < _FLIPPED
    tiny = np.where(flipped, g * _VANISHING, g)
    one, other = (steps.update(x, states)[flipped] for x in (tiny, np.where(flipped, -tiny, tiny)))
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return None
    first, sign = np.abs(one) >= np.abs(other), np.sign(tiny[flipped])
    larger, smaller = np.where(first, one, other), np.where(first, other, one)
    moved = larger != 0  # another mask may hold an element back whatever its gradient
    if moved.mean() < 1 / 4:
        return None
    agrees = (larger * np.where(first, sign, -sign) > 0)[moved]
    share = smaller[moved] / larger[moved]
    at = float(np.median(share))
    held = agrees & (share >= _PAST) & (share <= _DAMPED) & (np.abs(share - at) <= 0.05)
    if held.mean() < _MOST or len(np.unique(np.sign(larger[moved][held]))) < 2:  # the sign of a gradient alone
        return None
    return Family("cautious", f"updates against the gradient at {max(at, 0.0):.3g}, {steps.decay(tiny, states)}")
