"""Simplification: the shortest equal program, and why it is equal."""

from .canonical import canonical
from .simplify import Step, explain, simplify

__all__ = ["Step", "canonical", "explain", "simplify"]
