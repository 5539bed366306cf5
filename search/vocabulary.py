"""What mutation writes: random ops, variables and numbers of a space, the likelier where rules have them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.random import Generator

from ..dsl.kind import Kind
from ..dsl.kinds import result_kind
from ..dsl.ops import OPS, SPACES
from ..dsl.program import FIRST, LR, PROGRESS, Arg, Const, G, T, W

_TRIES = 50  # draws of an op and its arguments before none is found
# Update rules are arithmetic on gradients, weights and states, and half the ops are functions of one argument that
# hardly any rule has: drawn alike they would crowd out the rest.
_WEIGHTS = {
    **dict.fromkeys(("add", "subtract", "multiply", "divide", "interp"), 6.0),
    **dict.fromkeys(("sign", "abs", "max", "min", "square", "sqrt", "less", "greater", "where", "clip", "norm"), 3.0),
}
# The weight of variables of the wanted kind. A new op reads tensors, or numbers of the schedule would crowd them out;
# what stands for a rate or a share is likelier another number, as where decay fades with a power of t.
_ALIKE = 3.0
_NUMBER = 1 / 4  # of the arguments
_ROUND, _NUMBERS = 1 / 3, (0.0, 1.0, -1.0, 2.0, 0.5)


class Vocabulary:
    """The ops of a space and what they may be given; `kinds` are the variables at a place, by slot."""

    def __init__(self, space: str) -> None:
        self.ops = SPACES[space].ops
        weights = np.array([_WEIGHTS.get(op, 1.0) for op in self.ops])
        self.chances = np.cumsum(weights) / weights.sum()
        self.inputs = (W, G, LR) if space == "lion45" else (W, G, LR, T, PROGRESS)

    def statement(
        self, kinds: dict[int, Kind], random: Generator, through: Arg | None = None, wanted: Kind | None = None
    ) -> tuple[str, tuple[Arg, ...]] | None:
        """A random op with arguments that fit; one of them is `through` and the result is of kind `wanted`."""
        for _ in range(_TRIES):
            op = self.ops[int(np.searchsorted(self.chances, random.random(), side="right"))]
            if op not in OPS or (OPS[op].arity == 0 and through is not None):
                continue
            args = [self.value(kinds, random) for _ in range(OPS[op].arity)]
            if through is not None:
                args[int(random.integers(len(args)))] = through
            if args and all(isinstance(a, Const) for a in args):
                continue  # a number in another dress
            kind = result_kind(op, [kind_of(a, kinds) for a in args], args)
            if kind is not None and (wanted is None or kind <= wanted):
                return op, tuple(args)
        return None

    def value(self, kinds: dict[int, Kind], random: Generator, like: Kind = Kind.TENSOR) -> Arg:
        """A variable, those of kind `like` first, or (one time in four) a number."""
        return number(random) if random.random() < _NUMBER else self.variable(kinds, random, like)

    def variable(self, kinds: dict[int, Kind], random: Generator, like: Kind = Kind.TENSOR) -> int:
        """A variable of the program, or an input that the space reads, those of kind `like` first."""
        slots = sorted(s for s in kinds if s >= FIRST or s in self.inputs)
        chances = np.array([_ALIKE if kinds[s] is like else 1.0 for s in slots])
        return slots[int(random.choice(len(slots), p=chances / chances.sum()))]


def kind_of(arg: Arg, kinds: Mapping[int, Kind]) -> Kind:
    """The kind of an argument, where variables are of these."""
    return Kind.GLOBAL if isinstance(arg, Const) else kinds[arg]


def number(random: Generator) -> Const:
    """One time in three one of those that rules are written with, where comparisons and shares turn; else N(0, 1)."""
    if random.random() < _ROUND:
        return Const(_NUMBERS[int(random.integers(len(_NUMBERS)))])
    return Const(float(random.standard_normal()))
