"""The parts of an update that its users set apart: the learning rate, and a decay of the weights."""

from __future__ import annotations

from ..dsl import Const, Kind, Program, Statement
from ..dsl.flow import flow
from ..dsl.program import LR, Arg, W, rebuilt

_ONE = Const(1.0)


def direction(program: Program) -> Program | None:
    r"""The program whose update is this one's over lr, where lr is a plain factor of the update; else None.

    The program must assign each of its variables once, as `name_constants` leaves it.

    >>> print(direction(Program.parse("def f(w, g, lr=0.1, wd=0.0):\n  return lr * sign(g) + wd * w * lr")), end="")
    def f(w, g, lr=0.1, wd=0.0):
        return sign(g) + wd * w
    >>> direction(Program.parse("def f(w, g, lr=0.1):\n  return min(lr, 0.1) * g")) is None
    True
    """
    parts = _Parts(program)
    rest = parts.over_lr(program.returns[0])
    if rest is None:
        return None
    made = parts.with_update(rest)
    return None if flow(made).reads(LR) else made


def decay(program: Program) -> tuple[Program, int] | None:
    r"""The program without a term c * w of its update, c a hyperparameter, and the slot of c; None without one.

    >>> rest, slot = decay(Program.parse("def f(w, g, lr=0.1, wd=0.0):\n  return sign(g) + wd * w"))
    >>> print(rest, end="")
    def f(w, g, lr=0.1, wd=0.0):
        return sign(g)
    >>> rest.name_of(slot)
    'wd'
    """
    parts = _Parts(program)
    found = parts.without_decay(program.returns[0])
    if found is None:
        return None
    made = parts.with_update(found[0])
    live = flow(made)
    return (made, found[1]) if live.kind(live.update) is Kind.TENSOR else None


class _Parts:
    """Statements by what they assign; `statements` grows by those that parts are made with."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.statements = list(program.statements)
        self.made = {s.target: s for s in program.statements}
        self.known: dict[Arg, Arg | None] = {}

    def add(self, op: str, *args: Arg) -> Arg:
        target = self.program.first_local + len(self.statements) + len(self.program.names)
        self.statements.append(Statement(target, op, args))
        return target

    def with_update(self, update: Arg) -> Program:
        """The program with another update, without the statements that nothing reads."""
        returns = (update, *self.program.returns[1:])
        read, kept = set(returns), []
        for statement in reversed(self.statements):
            if statement.target in read:
                kept.append(statement)
                read.update(statement.args)
        return rebuilt(self.program, kept[::-1], returns)

    def over_lr(self, arg: Arg) -> Arg | None:
        """The value over lr; None where lr is no factor of it."""
        if arg not in self.known:
            self.known[arg] = self._over_lr(arg)
        return self.known[arg]

    def _over_lr(self, arg: Arg) -> Arg | None:
        if arg == LR:
            return _ONE
        statement = None if isinstance(arg, Const) else self.made.get(arg)
        if statement is None:
            return None
        op, args = statement.op, statement.args
        rest = [self.over_lr(a) for a in args]
        if op == "multiply":
            return self._factor(args, rest)
        if op in ("divide", "negative") and rest[0] is not None:
            return self.add(op, rest[0], *args[1:])
        wanted = {"add": (0, 1), "subtract": (0, 1), "where": (1, 2)}.get(op, ())
        if not wanted or any(rest[i] is None for i in wanted):
            return None
        return self.add(op, *(one if i in wanted and one is not None else args[i] for i, one in enumerate(rest)))

    def _factor(self, args: tuple[Arg, ...], rest: list[Arg | None]) -> Arg | None:
        """One factor over lr, times the other."""
        place = next((i for i, one in enumerate(rest) if one is not None), None)
        if place is None:
            return None
        one, other = rest[place], args[1 - place]
        if one == _ONE:
            return other
        assert one is not None
        return self.add("multiply", *((one, other) if place == 0 else (other, one)))

    def without_decay(self, arg: Arg) -> tuple[Arg, int] | None:
        """A sum without its term c * w, and the slot of c."""
        statement = None if isinstance(arg, Const) else self.made.get(arg)
        if statement is None or statement.op not in ("add", "subtract"):
            return None
        one, other = statement.args
        for term, rest in ((other, one), (one, other)) if statement.op == "add" else ():
            if (slot := self._decays(term)) is not None:
                return rest, slot
        if found := self.without_decay(one):
            return self.add(statement.op, found[0], other), found[1]
        if statement.op == "add" and (found := self.without_decay(other)):
            return self.add("add", one, found[0]), found[1]
        return None

    def _decays(self, arg: Arg) -> int | None:
        statement = None if isinstance(arg, Const) else self.made.get(arg)
        if statement is None or statement.op != "multiply" or W not in statement.args:
            return None
        factor = statement.args[1 - statement.args.index(W)]
        hypers = range(self.program.first_hyper, self.program.first_local)
        return factor if isinstance(factor, int) and factor in hypers else None
