"""Op: one row of the op table."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .kind import Kind

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Op:
    """A row of the op table.

    `meaning` takes and returns arrays of one tensor for an elementwise row and for one with a `shape` rule; for a
    reduction it takes the list of arrays over which it reduces (one array for a result per tensor, all of them
    for a global result). `torch`, `jax`, `c` and `triton` are spellings with {0}, {1}, {2} and x, y, z for the
    arguments, `foreach` the name of torch's multi-tensor form. A row with `expand` has no meaning or spelling of its
    own: it is an expression over other rows, replaced before a program is run; it may read t. `cost` is operations
    per element.

    `shape` is the rule of a matrix row, as in "a b, b c -> a c": letters are axes that must agree, O I S L the
    axes fan_out, fan_in, short and long, k a rank written as a whole number, # another whole number, . one number.
    `axis` is the axis over which a row reduces; its meaning takes `axis` as a keyword, 0 or 1.
    """

    name: str
    arity: int
    meaning: Callable[..., Any] | None
    torch: str = ""
    jax: str = ""
    c: str = ""
    triton: str = ""  # where it is not C's, see `in_triton`
    foreach: str = ""
    cost: float = 1.0
    args: tuple[Kind, ...] = ()  # required kinds; empty: any, elementwise
    result: Kind | None = None  # None: what the arguments have together
    symbol: str = ""
    aliases: tuple[str, ...] = ()
    traits: frozenset[str] = frozenset()
    finish: str = ""  # reductions in C: what is done to the accumulated value x over n elements
    expand: tuple[str, ...] = ()  # parameters, then the body, in the language itself
    shape: str = ""
    axis: str = ""
    draws: bool = False  # takes the count of steps and random draws beside its arguments
    like: bool = False  # takes the parameter beside its arguments
    stacks: bool = False  # its torch spelling takes stacks of matrices, one product for all of them
    doc: str = ""

    @property
    def in_triton(self) -> str:
        """The spelling in Triton: arithmetic is C's, and libdevice has C's functions under C's names."""
        return self.triton or re.sub(r"(\w+)\{f\}", r"libdevice.\1", self.c)

    @property
    def elementwise(self) -> bool:
        """Whether the result at an element depends on the arguments at that element alone."""
        return not (self.args or self.shape or self.axis)

    @cached_property
    def patterns(self) -> list[str]:
        """What the shape rule says of each argument; empty where there is none."""
        return self.shape.partition(" -> ")[0].split(", ") if self.shape else []

    @property
    def needs_matrix(self) -> bool:
        """Whether the row has a meaning for tensors with two axes alone."""
        return bool(self.shape or self.axis)


def row(name: str, arity: int, meaning: Callable[..., Any] | None, traits: str = "", **more: object) -> Op:
    """A row; `traits` are words."""
    return Op(name, arity, meaning, traits=frozenset(traits.split()), **more)  # type: ignore[arg-type]
