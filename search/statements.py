"""Statement lists taken apart and put together: what edits are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from ..dsl.errors import ProgramError
from ..dsl.kind import Kind
from ..dsl.kinds import check, infer, start_kinds
from ..dsl.program import LR, Arg, Const, Program, Statement, rebuilt

_DIGITS = 4  # of a number: one that moves by a thousandth changes no score that the next seed would not


def kinds_at(program: Program, place: int) -> dict[int, Kind]:
    """The variables that are assigned before statement `place`, with their kinds there."""
    kinds = start_kinds(program)
    results, _ = infer(program)
    for statement, kind in zip(program.statements[:place], results, strict=False):
        kinds[statement.target] = kind
    return kinds


def readers_of(program: Program, place: int) -> list[tuple[int, int]]:
    """Who reads what the statement at a place assigns: (place, argument); the place after the last returns."""
    target, found = program.statements[place].target, []
    for where, statement in enumerate(program.statements[place + 1 :], place + 1):
        found += [(where, position) for position, arg in enumerate(statement.args) if arg == target]
        if statement.target == target:
            return found
    end = len(program.statements)
    return found + [(end, position) for position, arg in enumerate(program.returns) if arg == target]


def args_at(program: Program, place: int) -> tuple[Arg, ...]:
    """The arguments of the statement at a place; past the last one what is returned."""
    return program.returns if place == len(program.statements) else program.statements[place].args


def makers_of(program: Program, place: int) -> list[int]:
    """The places of the statements, of those with arguments, whose results the statement at a place reads."""
    last = {s.target: i for i, s in enumerate(program.statements[:place])}
    return sorted({last[a] for a in program.statements[place].args if a in last and program.statements[last[a]].args})


def number_of(program: Program, arg: Arg) -> float | None:
    """The number that an argument is; None for what is computed."""
    if isinstance(arg, Const):
        return arg.value
    own = program.first_hyper <= arg < program.first_local
    return program.hypers[arg - program.first_hyper] if own else None


def replaced(args: tuple[Arg, ...], position: int, new: Arg) -> tuple[Arg, ...]:
    """The arguments with another at a position."""
    return (*args[:position], new, *args[position + 1 :])


def rewired(program: Program, place: int, position: int, new: Arg) -> tuple[list[Statement], tuple[Arg, ...]]:
    """Statements and returns where one of the arguments at a place (`args_at`) is another."""
    statements, args = list(program.statements), replaced(args_at(program, place), position, new)
    if place == len(statements):
        return statements, args
    statements[place] = statements[place]._replace(args=args)
    return statements, program.returns


def fresh(program: Program) -> int:
    """The slot of a variable that the program has not."""
    return max([program.first_local - 1, *(s.target for s in program.statements)]) + 1


def inserted(statements: Sequence[Statement], place: int, new: Statement) -> list[Statement]:
    """The statements with another before the one at a place."""
    return [*statements[:place], new, *statements[place:]]


def times_lr(program: Program) -> Program | None:
    """The program with an update that is multiplied by lr, if that is well formed."""
    made = Statement(fresh(program), "multiply", (LR, program.returns[0]))
    return edited(program, [*program.statements, made], (made.target, *program.returns[1:]))


def edited(program: Program, statements: Sequence[Statement], returns: tuple[Arg, ...] | None = None) -> Program | None:
    """The program with other statements, if that is well formed."""
    ends = program.returns if returns is None else returns
    child = rebuilt(program, statements, ends)
    try:
        check(child)
    except ProgramError:
        return None
    return child


def with_hypers_of(program: Program, model: Program) -> Program:
    r"""The program with the hyperparameters of another, where it has some of the same names.

    >>> rule = Program.parse("def f(w, g, m, lr=0.1, beta=0.9, share=0.5):\n  m = beta * m + share * g\n"
    ...                      "  return lr * m, m")
    >>> model = Program.parse("def f(w, g, m, lr=0.2, beta=0.8):\n  m = interp(g, m, beta)\n  return lr * m, m")
    >>> with_hypers_of(rule, model).hypers
    (0.8, 0.5)
    """
    theirs = hypers_of(model)
    return replace(program, hypers=tuple(theirs.get(name, value) for name, value in hypers_of(program).items()))


def hypers_of(program: Program) -> dict[str, float]:
    """Its hyperparameters but the learning rate, by name, in order."""
    return {program.name_of(program.first_hyper + i): value for i, value in enumerate(program.hypers)}


def shortened(program: Program) -> Program:
    r"""The program with its numbers, the peak learning rate apart, to as many digits as a search can tell.

    Products of numbers of seventeen digits are no numbers that a float prints, so that what is written with them cannot
    be simplified exactly; with four it can, and reads well.

    >>> rule = Program.parse("def f(w, g, m, lr=0.1, beta=0.99512345):\n  m = beta * m + 0.7182818 * g\n"
    ...                      "  return lr * m, m")
    >>> print(shortened(rule), end="")
    def f(w, g, m, lr=0.1, beta=0.995123):
        m = beta * m + 0.7183 * g
        return lr * m, m
    """
    short = [
        s._replace(args=tuple(Const(_short(a.value)) if isinstance(a, Const) else a for a in s.args))
        for s in program.statements
    ]
    return replace(program, statements=tuple(short), hypers=tuple(map(_short, program.hypers)))


def _short(value: float) -> float:
    """To four digits, and to four of the distance to 1, which is what a rate of decay is about."""
    near = min(abs(value), abs(1 - abs(value))) or abs(value)
    return round(value, _DIGITS - 1 - math.floor(math.log10(near))) if near and math.isfinite(near) else value
