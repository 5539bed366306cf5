"""Niches: kinds of rule that do not compete with each other."""

from __future__ import annotations

import math
from typing import NamedTuple

from ..dsl import Program
from ..dsl.elasticity import elasticity

_FORGETS, _FOLLOWS = 0.1, 0.9


class Niche(NamedTuple):
    """Rules with as many states whose updates follow the size of the gradient alike.

    `elastic` is 2 where an element's update grows with its gradient, as in momentum, 0 where it does not, as in Adam
    and with a sign, and 1 in between, as with a cap.
    """

    states: int
    elastic: int = 0


def niche_of(program: Program, states: int) -> Niche:
    """The niche of a rule with so many states."""
    slope = elasticity(program)
    return Niche(states, 1 if math.isnan(slope) else int(slope > _FORGETS) + int(slope > _FOLLOWS))
