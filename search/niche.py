"""Niches: kinds of rule that do not compete with each other."""

from __future__ import annotations

import math
from typing import NamedTuple

from ..dsl import Program
from ..dsl.elasticity import elasticity


class Niche(NamedTuple):
    """Rules with as many states whose updates follow the size of the gradient alike.

    `elastic` is 1 where an element's update grows with its gradient by a power above 1/2, as in momentum, and 0 where
    it hardly does, as in Adam and with a sign.
    """

    states: int
    elastic: int = 0


def niche_of(program: Program, states: int) -> Niche:
    """The niche of a rule with so many states."""
    slope = elasticity(program)
    return Niche(states, int(math.isnan(slope) or slope > 0.5))
