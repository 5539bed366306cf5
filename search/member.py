"""A member of a population: a program that may become a parent."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ..dsl import Program
from .statements import hypers_of


@dataclass(frozen=True)
class Member:
    """A program that may become a parent: its row, its text, how good it is, the RMS of its update on the probe, the
    number of its live statements, and a factor on its peak lr. Parsed only when it is read.
    """

    child: int | None
    text: str
    fitness: float
    rms: float
    statements: int
    factor: float = 1.0
    skeleton: str = ""  # what programs share that differ in numbers alone

    @cached_property
    def program(self) -> Program:
        """The program at its best learning rate."""
        program = Program.parse(self.text)
        return program if self.factor == 1 else program.with_own_lr(program.peak * self.factor)

    @property
    def hypers(self) -> dict[str, float]:
        """Its hyperparameters but the learning rate, by name."""
        return hypers_of(self.program)
