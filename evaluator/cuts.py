"""Cuts: a statement goes, or a function or a number becomes a simpler one; the program then does something else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

from ..dsl.errors import ProgramError
from ..dsl.flow import flow, reject_reason
from ..dsl.kinds import check
from ..dsl.ops import OPS
from ..dsl.program import REPEAT, Arg, Const, Program, Statement, rebuilt
from ..dsl.simplify import simplify

_DIGITS = (1, 2)  # significant, of a number or of 1 minus it
_PLAIN = ("sign", "abs", "square")  # functions that a costlier one of the same parity may become


class Cut(NamedTuple):
    """One change at one place: a statement for another, or a hyperparameter's default for another."""

    what: str
    place: int  # of the statement; of the hyperparameter where `value` is given
    statement: Statement | None
    value: float | None = None
    is_number: bool = False  # only a number changes


def cuts(program: Program) -> list[Cut]:
    r"""All single cuts of a program without a route that leave it an optimizer.

    >>> rule = Program.parse("def f(w, g, lr):\n  u = tanh(0.123 * g)\n  return lr * u")
    >>> [cut.what for cut in cuts(rule)][:4]
    ['0.123 * g is g', '0.123 is 0.1', '0.123 is 0.12', 'tanh(0.123 * g) is 0.123 * g']
    """
    return [cut for cut, _ in results(program)]


def results(program: Program) -> Iterator[tuple[Cut, Program]]:
    """Every single cut of a program, and what it leaves."""
    for cut in _drawn(program):
        child = cut_out(program, [cut])
        if child is not None:
            yield cut, child


def cut_out(program: Program, chosen: Iterable[Cut]) -> Program | None:
    """A program after some cuts, simplified; None where they do not go together or leave no optimizer."""
    statements, hypers = list(program.statements), list(program.hypers)
    for cut in chosen:
        if cut.statement is not None:
            if statements[cut.place] != program.statements[cut.place]:
                return None
            statements[cut.place] = cut.statement
        else:
            assert cut.value is not None
            hypers[cut.place] = cut.value
    child = rebuilt(replace(program, hypers=tuple(hypers)), statements, program.returns)
    try:
        check(child)
    except ProgramError:
        return None
    return None if reject_reason(flow(child)) else simplify(child)


def _drawn(program: Program) -> Iterator[Cut]:
    labels = _labels(program)
    for place, statement in enumerate(program.statements):
        if statement.op == REPEAT or statement.op not in OPS:
            continue
        said = _said(statement.op, [labels[a] for a in statement.args])
        for slot in dict.fromkeys(a for a in statement.args if isinstance(a, int)):
            yield Cut(f"{said} is {labels[slot]}", place, Statement(statement.target, "identity", (slot,)))
        for op in _simpler(statement.op):
            name = _said(op, [labels[a] for a in statement.args])
            yield Cut(f"{said} is {name}", place, Statement(statement.target, op, statement.args))
        for position, arg in enumerate(statement.args):
            for number in _rounded(arg.value) if isinstance(arg, Const) else ():
                args = (*statement.args[:position], Const(number), *statement.args[position + 1 :])
                yield Cut(
                    f"{labels[arg]} is {number:g}", place, Statement(statement.target, statement.op, args), None, True
                )
    for index, value in enumerate(program.hypers):
        for new in _rounded(value):
            name = program.name_of(program.first_hyper + index)
            yield Cut(f"{name} {value:g} is {new:g}", index, None, new, True)


def _simpler(op: str) -> Iterator[str]:
    row = OPS[op]
    parity = row.traits & {"odd", "even"}
    if row.arity == 1 and row.elementwise and parity:
        for name in _PLAIN:
            if name != op and OPS[name].cost <= row.cost and OPS[name].traits & parity:
                yield name


def _rounded(value: float) -> list[float]:
    """Shorter numbers near a value; of a rate near 1, 1 minus a shorter number."""
    near = [float(f"{value:.{digits}g}") for digits in _DIGITS]
    if 0.5 < value < 1:
        near += [1 - float(f"{1 - value:.{digits}g}") for digits in _DIGITS]
    near = [float(f"{x:.12g}") for x in near]
    return [x for x in dict.fromkeys(near) if x != value and len(repr(x)) < len(repr(value))]


def _labels(program: Program) -> dict[Arg, str]:
    """What values are called: names, numbers, and of what has no name the expression."""
    found: dict[Arg, str] = {}
    for statement in program.statements:
        for arg in statement.args:
            if arg not in found:
                found[arg] = f"{arg.value:g}" if isinstance(arg, Const) else program.name_of(arg)
        said = _said(statement.op, [found[a] for a in statement.args]) if statement.op in OPS else statement.op
        found[statement.target] = program.name_of(statement.target) or said
    return found


def _said(op: str, args: list[str]) -> str:
    symbol = OPS[op].symbol
    if symbol and len(args) == 2:
        left, right = (f"({a})" if re.search(r" [-+*/<>] ", a) else a for a in args)
        return f"{left} {symbol} {right}"
    return f"{op}({', '.join(args)})"
