"""Simplify: the shortest equal program that the exact and the algebraic level find."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ..cost import cost
from ..flow import flow
from ..interpret import Part
from ..probe import probe, shapes_of, views
from ..program import FIRST, REPEAT, Arg, Const, Program, Statement, routed
from .algebraic import spelled
from .exact import exact
from .rules import ALGEBRAIC, EXACT, LAWS, PROGRAM_RULES

_WITHOUT: tuple[tuple[str, ...], ...] = ((), ("multiply out",))  # sums multiplied out, and left as they stand
#: Where no number that a rule makes is a decimal one: halves under a root, ratios inside a row without a degree.
_INSTEAD: tuple[tuple[str, ...], ...] = (("homogeneous rows",), ("max by differences",))
_CHOICES = {"where", "greater", "less", "greater_equal", "less_equal", "max", "min"}
_AGREED = 1e-6  # the difference on the probe at which a shorter program is refused
_ROUNDS = 6


class Step(NamedTuple):
    """A program after a step, by which rule it came to be, and how far it differs from the one before."""

    rule: str
    level: str
    program: Program
    difference: float  # the largest relative difference of updates on the probe, in float64


def simplify(program: Program, level: str = ALGEBRAIC) -> Program:
    r"""The shortest program found that is equal to this one; never longer, never with more states.

    At level `exact` equal bit for bit; at level `algebraic` equal for real numbers, float64 agreeing to 1e-6 on the
    probe. Every part of a program with a route is simplified by itself. A hyperparameter is taken at its default.

    >>> rule = "def f(w, g, m, lr):\n  s = sqrt(m * m)\n  u = m / s\n  m = 0.9 * m + g\n  return lr * u, m"
    >>> print(simplify(Program.parse(rule)), end="")
    def f(w, g, m, lr):
        u = sign(m)
        m = interp(g, m, 0.9)
        return lr * u, m
    """
    if program.schedule:
        return program
    return routed([_part(part, level) for part in program.parts()])


def explain(program: Program, level: str = ALGEBRAIC) -> list[Step]:
    r"""How `simplify` goes from a program without a route to the shortest: a step for each rule that shortened it.

    Rules are let in one after another; a step names the rule with which the program first became shorter, which may
    need those before it.

    >>> rule = "def f(w, g, m, v, lr):\n  v = g * w\n  s = sqrt(m * m)\n  m = 0.9 * m + g\n  return lr * m / s, m, v"
    >>> [(step.rule, step.level) for step in explain(Program.parse(rule))][0]
    ('dead code and repeated expressions', 'exact')
    """
    steps: list[Step] = []

    def add(rule: str, kind: str, found: Program) -> None:
        before = steps[-1].program if steps else program
        if sorted(_rows(found)) != sorted(_rows(before)):  # else only names and order
            steps.append(Step(rule, kind, found, difference(before, found)))

    unfolded, best = exact(program, patterns=False), exact(program)
    add("dead code and repeated expressions", EXACT, unfolded)
    add("numbers folded and exact identities", EXACT, best)
    if level == EXACT or any(s.op == REPEAT for s in program.statements):
        return steps
    laws = [rule.name for rule in (*LAWS, *PROGRAM_RULES) if rule.level == ALGEBRAIC]
    for number, name in enumerate(laws):
        found = _shortest(best, laws[number + 1 :], unfolded)
        if _is_smaller(found, best):
            add(name, ALGEBRAIC, found)
            best = unfolded = found
    while _is_smaller(found := _shortest(best), best):
        needed = [name for name in laws if _shortest(best, (name,)) != found]
        add(", ".join(needed) or "all rules together", ALGEBRAIC, found)
        best = found
    end = _part(program, level)
    if size(end) <= size(best) and str(end) != str(best):
        add("all rules at once", ALGEBRAIC, end)
    return steps


def _rows(program: Program) -> Iterator[str]:
    yield from (s.op for s in program.statements)
    yield from (f"state {state.kind}" for state in program.states)
    yield from (f"{value!r}" for _, value in program.constants())


def _part(program: Program, level: str) -> Program:
    best, unfolded = exact(program), exact(program, patterns=False)
    if len(best.statements) > len(unfolded.statements):  # (-a) * b is -(a * b), longer where -a is read elsewhere
        best = unfolded
    if level == EXACT or any(s.op == REPEAT for s in program.statements):
        return best
    for _ in range(_ROUNDS):
        found = _shortest(best, unfolded=unfolded)
        again = exact(found, patterns=False)
        if not _is_smaller(found, best) and again == unfolded:
            break
        best, unfolded = found, again
    return best


def _shortest(program: Program, off: Sequence[str] = (), unfolded: Program | None = None) -> Program:
    """The smallest of the spellings that are smaller than a program; the program where none is.

    `unfolded` says the same with numbers as they were written, where 0.1 * 0.1 is 0.01.
    """
    return min(_candidates(program, off, unfolded or program), key=size, default=program)


def _candidates(program: Program, off: Sequence[str], unfolded: Program) -> Iterator[Program]:
    spellings = [c for without in _WITHOUT for c in spelled(unfolded, (*off, *without))]
    if not spellings:
        spellings = [c for without in _INSTEAD for c in spelled(unfolded, (*off, *without))]
    if not off and any(s.op in _CHOICES for s in program.statements):
        spellings += spelled(unfolded, by_signs=True)
    for candidate in spellings:
        shorter = _renamed(exact(candidate), program)
        if _is_smaller(shorter, program) and difference(program, shorter) <= _AGREED:
            yield shorter


def size(program: Program) -> tuple[int, int, float, int]:
    """What is made small: statements, then states, operations, and how long statements wait for others."""
    live = flow(program)
    depth: dict[Arg, int] = {}
    for number, node in enumerate(live.nodes, live.first_node):
        depth[number] = 1 + max((depth.get(a, 0) for a in node.args), default=0)
    return len(program.statements), len(program.states), cost(program, live).operations, sum(depth.values())


def _is_smaller(found: Program, best: Program) -> bool:
    return size(found) < size(best) and len(found.states) <= len(best.states)


def _renamed(program: Program, original: Program) -> Program:
    """Numbers that are the value of one hyperparameter of the original, as that hyperparameter again."""
    values = list(original.hypers)
    wanted = [(i, v) for i, v in enumerate(values) if values.count(v) == 1 and v not in (0.0, 1.0, 2.0)]
    literals = {a.value for s in program.statements for a in s.args if isinstance(a, Const)}
    wanted = [(i, v) for i, v in wanted if v in literals]
    if not wanted or program.hypers:
        return program
    first, shift = program.first_local, len(wanted)
    slot = {v: first + n for n, (_, v) in enumerate(wanted)}

    def new(arg: Arg) -> Arg:
        if isinstance(arg, Const):
            return slot.get(arg.value, arg)
        return arg + shift if arg >= first else arg

    names = [original.name_of(original.first_hyper + i) for i, _ in wanted]
    return replace(
        program,
        statements=tuple(Statement(new(s.target), s.op, tuple(map(new, s.args))) for s in program.statements),  # type: ignore[arg-type]
        returns=tuple(new(a) if isinstance(a, int) else a for a in program.returns),
        hypers=tuple(v for _, v in wanted),
        names=(*program.names[: first - FIRST], *names, *program.names[first - FIRST :]),
    )


def difference(a: Program, b: Program) -> float:
    """The largest relative difference of the updates of two programs without a route on the probe, in float64.

    It is infinite where one of them alone is not finite; elements at which both are not are left out.
    """
    shapes = shapes_of(a)
    runs = []
    for program in (a, b):
        runner = Part(program, views(shapes))
        runs.append([runner.step(*step) for step in probe(shapes)])
    worst = 0.0
    with np.errstate(all="ignore"):
        for left, right in zip(*runs, strict=True):
            x, y = (np.concatenate([np.ravel(np.asarray(u, np.float64)) for u in side]) for side in (left, right))
            good = np.isfinite(x) & np.isfinite(y)
            if (np.isfinite(x) != np.isfinite(y)).any():
                return math.inf
            scale = np.max(np.abs(x[good]), initial=0.0)
            if scale:
                worst = max(worst, float(np.max(np.abs(x - y)[good], initial=0.0) / scale))
    return worst
