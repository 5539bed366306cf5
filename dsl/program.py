"""A Program: the one currency. Immutable, hashable, printed so that parsing gives it back exactly.

A program is its statement list over numbered slots. Slots 0 to 4 are the reserved inputs, states follow from
`FIRST`, then hyperparameters, then locals in the order in which they are first assigned. Names are kept for
printing and do not count in equality, so a renamed program is the same program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias

from .codecs import Codec
from .kind import Kind

T_, G_ = Kind.TENSOR, Kind.GLOBAL
#: Inputs that a header may name, with their kinds. The last four are oracles: `noise` costs a draw; the others cost
#: passes of the model, at the period that the header declares, and are 0 at the steps between.
_INPUTS: dict[str, Kind] = {
    "w": T_, "g": T_, "lr": G_, "t": G_, "progress": G_,
    "noise": T_, "hutchinson": T_, "gauss_newton": T_, "two_point": G_,
}  # fmt: skip
RESERVED: tuple[str, ...] = tuple(_INPUTS)
RESERVED_KINDS: tuple[Kind, ...] = tuple(_INPUTS.values())
W, G, LR, T, PROGRESS, NOISE, HUTCHINSON, GAUSS_NEWTON, TWO_POINT = range(len(_INPUTS))
#: Inputs that cost passes of the model and stand in a header with their period.
ORACLES: tuple[int, ...] = (HUTCHINSON, GAUSS_NEWTON, TWO_POINT)
FIRST = 16  # the first slot that is not reserved; the slots between are kept for later inputs
MAX_DEPTH = 100  # nesting of a printed expression: far above what anyone reads, far below Python's recursion limit
REPEAT, END, NOWHERE = "repeat", "end", -1  # statements that open and close a repeat; they assign nothing
MOST_REPEATS = 20


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
    """A slot kept between steps; zero at the start. A codec is the form in which it is kept."""

    kind: Kind
    codec: Codec | None = None


@dataclass(frozen=True)
class Program:
    r"""An update rule: statements over slots, and what they return.

    `returns` holds the update, then the new value of each state in header order. The caller does w = w - update.
    `lr` is the peak learning rate (None: 1.0); a program sees peak x schedule. `periods` are the declared periods of
    oracle inputs, by slot. With `roles` the program acts on parameters of these roles and `fallback` on the rest. A
    `schedule` has no tensors: it returns the multiplier of a peak learning rate.

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
    periods: tuple[tuple[int, int], ...] = ()
    roles: tuple[str, ...] = ()
    fallback: Program | None = None
    schedule: bool = False
    names: tuple[str, ...] = field(default=(), compare=False)  # of states, hypers, locals; "" unnamed
    name: str = field(default="train", compare=False)
    doc: str = field(default="", compare=False)

    @staticmethod
    def parse(text: str, source: str = "", resolve: Callable[[str], Program] | None = None) -> Program:
        """The program that a text says; raises ProgramError with line, column and the mend.

        `resolve` gives the programs that an `else` names and the text does not hold.
        """
        from .parse import parse

        return parse(text, source, resolve)

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
        """The same program at another peak learning rate; that of its fallback keeps the ratio to it."""
        fallback = self.fallback
        if fallback is not None:
            fallback = fallback.with_lr(fallback.peak * (peak / self.peak if self.peak else 1.0))
        return replace(self, lr=float(peak), fallback=fallback)

    def with_own_lr(self, peak: float) -> Program:
        """The same program at another peak learning rate of its own; its fallback, tuned or not, stays as it is."""
        return replace(self, lr=float(peak))

    def parts(self) -> list[Program]:
        """This program and its fallbacks, each as if it were alone, in the order in which they claim parameters."""
        if self.fallback is None:
            return [self]
        return [replace(self, fallback=None), *self.fallback.parts()]

    def assign(self, roles: Sequence[str]) -> list[int]:
        """Which part, by its index in `parts`, acts on each parameter.

        >>> rule = Program.parse(
        ...     "def f(w, g, lr) for matrix else h:\\n return lr * g\\ndef h(w, g, lr):\\n return lr * sign(g)"
        ... )
        >>> rule.assign(["embedding", "matrix", "vector"])
        [1, 0, 1]
        """
        parts = self.parts()
        return [next(i for i, p in enumerate(parts) if not p.roles or role in p.roles) for role in roles]

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
        if self.fallback is not None:
            yield from self.fallback.constants()

    def torch(self, class_name: str | None = None) -> Any:
        r"""The `torch.optim.Optimizer` class of this program, the one that an exported file holds.

        Raises ProgramError for a program that no such class can hold, and ValueError for a `class_name` that is no
        Python name.

        >>> import stepsmith as ss, torch
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = ss.load("lion").torch()([weight], lr=0.5)
        >>> weight.sum().backward()
        >>> optimizer.step()
        >>> weight.tolist()
        [0.5, 0.5]
        """
        if "torch" not in EXPORTERS:
            raise ImportError("torch() is there once stepsmith.discovered is imported, as stepsmith.load does")
        return EXPORTERS["torch"](self, class_name)

    def __str__(self) -> str:
        from .printer import text

        return text(self)


#: What a program can be made into above this floor: the modules that know how enter themselves.
EXPORTERS: dict[str, Callable[..., Any]] = {}


def routed(parts: Sequence[Program]) -> Program:
    """The programs as one whose fallbacks are the later ones: what `Program.parts` takes apart."""
    *first, whole = parts
    for part in reversed(first):
        whole = replace(part, fallback=whole)
    return whole


def build(
    statements: Iterable[Statement],
    returns: Iterable[Arg],
    states: tuple[State, ...] = (),
    hypers: tuple[float, ...] = (),
    lr: float | None = None,
    names: tuple[str, ...] = (),
    name: str = "train",
    doc: str = "",
    **more: Any,
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
    return Program(tuple(done), ends, states, hypers, lr, names=tuple(kept), name=name, doc=doc, **more)


def rebuilt(program: Program, statements: Iterable[Statement], returns: Iterable[Arg]) -> Program:
    """A program with other statements and returned values, and all else the same."""
    return build(
        statements, returns, program.states, program.hypers, program.lr, program.names, program.name, program.doc,
        periods=program.periods, roles=program.roles, fallback=program.fallback, schedule=program.schedule,
    )  # fmt: skip


def _plain(arg: Arg) -> Arg:
    """A constant without the sign of zero, which no program can see."""
    return Const(0.0) if isinstance(arg, Const) and arg.value == 0 else arg
