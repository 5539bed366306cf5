"""Simplification: the shortest equal program, and why it is equal."""

from .algebra import TooLarge
from .canonical import canonical, normalised
from .simplify import Step, explain, simplify

__all__ = ["Step", "TooLarge", "canonical", "explain", "normalised", "simplify"]
