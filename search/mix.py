"""Mixing: the update of one rule added to that of another, as islands exchange what they found."""

from __future__ import annotations

from ..dsl.program import LR, NOWHERE, Arg, Const, Program, Statement
from ..dsl.simplify.exact import numbers_folded
from .mutate import MAX_STATEMENTS
from .statements import edited, fresh


def mixed(program: Program, donor: Program, share: float = 1.0) -> Program | None:
    """The program with the donor's update added to its own, at a share of the peak learning rate that it has by itself.

    The donor's states are the program's, as they were before the step; what it would make of them is not kept. None
    where the donor has more, acts on other parameters, or the sum is not well formed or longer than edits may make one.

    >>> signum = Program.parse("def f(w, g, m, lr=0.01):\\n  m = interp(g, m, 0.9)\\n  return lr * sign(m), m")
    >>> print(mixed(signum, Program.parse("def f(w, g, lr=0.005):\\n  return lr * sign(g)")), end="")
    def f(w, g, m, lr=0.01):
        t2 = lr * 0.5 * sign(g)
        m = interp(g, m, 0.9)
        return lr * sign(m) + t2, m
    """
    other = numbers_folded(donor)
    if len(other.states) > len(program.states) or other.roles != program.roles or not program.peak:
        return None
    if other.periods or any(s.target == NOWHERE for s in other.statements):  # oracles, and repeats
        return None
    rate = fresh(program)
    here: dict[Arg, Arg] = {LR: rate}
    here |= {other.first_hyper + i: Const(value) for i, value in enumerate(other.hypers)}
    statements = [Statement(rate, "multiply", (LR, Const(share * other.peak / program.peak)))]
    for number, s in enumerate(other.statements, rate + 1):
        statements.append(Statement(number, s.op, tuple(here.get(arg, arg) for arg in s.args)))
        here[s.target] = number
    update = here.get(other.returns[0], other.returns[0])
    total = statements[-1].target + 1
    joined = Statement(total, "add", (program.returns[0], update))
    if len(statements) + len(program.statements) >= MAX_STATEMENTS:
        return None
    return edited(program, [*statements, *program.statements, joined], (total, *program.returns[1:]))
