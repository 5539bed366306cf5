"""A Program: the one currency. Immutable, hashable, printed so that parsing gives it back exactly.

A program is its statement list over numbered slots. Slots 0 to 4 are the reserved inputs, states follow from
`FIRST`, then hyperparameters, then locals in the order in which they are first assigned. Names are kept for
printing and do not count in equality, so a renamed program is the same program.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeAlias

from .ops import Kind

RESERVED: tuple[str, ...] = ("w", "g", "lr", "t", "progress")
W, G, LR, T, PROGRESS = range(5)
RESERVED_KINDS: tuple[Kind, ...] = (Kind.TENSOR, Kind.TENSOR, Kind.GLOBAL, Kind.GLOBAL, Kind.GLOBAL)
FIRST = 16  # the first slot that is not reserved; the slots between are kept for later inputs
MAX_DEPTH = 100  # nesting of a printed expression: far above what anyone reads, far below Python's recursion limit


class Const(NamedTuple):
    """A number in a program; a type of its own, because in Python the slot 1 equals the float 1.0."""

    value: float


Arg: TypeAlias = int | Const  # a slot, or a number


class Statement(NamedTuple):
    """`target = op(*args)`, the target a slot."""

    target: int
    op: str
    args: tuple[Arg, ...]


class State(NamedTuple):
    """A slot kept between steps; zero at the start."""

    kind: Kind


@dataclass(frozen=True)
class Program:
    r"""An update rule: statements over slots, and what they return.

    `returns` holds the update, then the new value of each state in header order. The caller does w = w - update.
    `lr` is the peak learning rate (None: 1.0); a program sees peak x schedule.

    >>> p = Program.parse("def sgd(w, g, lr=0.1):\n  return lr * g")
    >>> print(p, end="")
    def sgd(w, g, lr=0.1):
        return lr * g
    >>> Program.parse(str(p)) == p
    True
    """

    statements: tuple[Statement, ...]
    returns: tuple[Arg, ...]
    states: tuple[State, ...] = ()
    hypers: tuple[float, ...] = ()
    lr: float | None = None
    names: tuple[str, ...] = field(default=(), compare=False)  # of states, hypers, locals; "" unnamed
    name: str = field(default="train", compare=False)
    doc: str = field(default="", compare=False)

    @staticmethod
    def parse(text: str, source: str = "") -> Program:
        """The program that a text says; raises ProgramError with line, column and the mend."""
        from .parse import parse

        return parse(text, source)

    @property
    def first_hyper(self) -> int:
        """The slot of the first hyperparameter."""
        return FIRST + len(self.states)

    @property
    def first_local(self) -> int:
        """The slot of the first local variable."""
        return self.first_hyper + len(self.hypers)

    @property
    def peak(self) -> float:
        """The peak learning rate."""
        return 1.0 if self.lr is None else self.lr

    def with_lr(self, peak: float) -> Program:
        """The same program at another peak learning rate."""
        return replace(self, lr=float(peak))

    def name_of(self, slot: int) -> str:
        """The name of a slot, "" for an unnamed temporary."""
        if slot < FIRST:
            return RESERVED[slot]
        index = slot - FIRST
        return self.names[index] if index < len(self.names) else ""

    def constants(self) -> Iterator[tuple[str, float]]:
        """Every number a search may change: peak lr, header defaults, literals, in order of appearance."""
        yield "lr", self.peak
        for index, value in enumerate(self.hypers):
            yield self.name_of(self.first_hyper + index), value
        for statement in self.statements:
            for arg in statement.args:
                if isinstance(arg, Const):
                    yield "", arg.value

    def __str__(self) -> str:
        from .printer import text

        return text(self)


def build(
    statements: Iterable[Statement],
    returns: Iterable[Arg],
    states: tuple[State, ...] = (),
    hypers: tuple[float, ...] = (),
    lr: float | None = None,
    names: tuple[str, ...] = (),
    name: str = "train",
    doc: str = "",
) -> Program:
    """A Program with its locals numbered in the order in which they are first assigned.

    Mutations and transforms edit statement lists freely and end here, so that equal lists are equal programs.
    """
    first_local = FIRST + len(states) + len(hypers)
    new: dict[int, int] = {}
    kept = list(names[: first_local - FIRST])
    kept += [""] * (first_local - FIRST - len(kept))
    done = []
    for target, op, args in statements:
        args = tuple(new.get(a, a) if isinstance(a, int) and a >= first_local else _plain(a) for a in args)
        if target >= first_local:
            if target not in new:
                new[target] = first_local + len(new)
                index = target - FIRST
                kept.append(names[index] if index < len(names) else "")
            target = new[target]
        done.append(Statement(target, op, args))
    ends = tuple(new.get(a, a) if isinstance(a, int) and a >= first_local else _plain(a) for a in returns)
    return Program(tuple(done), ends, states, hypers, lr, tuple(kept), name, doc)


def _plain(arg: Arg) -> Arg:
    """A constant without the sign of zero, which no program can see."""
    return Const(0.0) if isinstance(arg, Const) and arg.value == 0 else arg
