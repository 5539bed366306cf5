"""The exact level: the same floats, bit for bit, from fewer statements."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from ..flow import Flow, flow
from ..kind import Kind
from ..kinds import result_kind
from ..ops import OPS
from ..program import FIRST, REPEAT, Arg, Const, Program, Statement
from ..uses import without_dead
from .rules import PATTERNS
from .settle import settle

_ROUNDS = 12
_FOLDED = 1e300  # numbers beyond are left to the run


def numbers_folded(program: Program) -> Program:
    r"""The exact form of a program, where also what is computed of hyperparameters alone is a number.

    What a route leaves to another program stays.

    >>> rule = Program.parse("def f(w, g, m, lr, beta=0.5):\n  m = square(beta) * m + g\n  return lr * m, m")
    >>> print(numbers_folded(rule), end="")
    def f(w, g, m, lr):
        m = 0.25 * m + g
        return lr * m, m
    """
    return replace(exact(program, hypers=True), fallback=program.fallback)


def exact(program: Program, patterns: bool = True, hypers: bool = False) -> Program:
    r"""The live code of a program without a route, equal expressions once, numbers folded, exact rules applied.

    A program with repeats keeps its statements; only dead ones go. Without `patterns` no rule is applied. With `hypers`
    the names of hyperparameters count for nothing where numbers are folded.

    >>> rule = Program.parse("def f(w, g, m, v, lr):\n  v = g * g\n  m = -abs(-g) * -1.0 + m * (2 - 1)\n"
    ...                      "  return lr * m, m, v")
    >>> print(exact(rule), end="")
    def f(w, g, m, lr):
        m = abs(g) + m
        return lr * m, m
    """
    if any(s.op == REPEAT for s in program.statements):
        return without_dead(program)
    for _ in range(_ROUNDS):  # until it is its own exact form, order of statements included
        shorter = _rebuilt(program, flow(program), patterns, hypers)
        if shorter == program:
            break
        program = shorter
    return program


class _Rebuild:
    """Nodes made anew, each by the first rule that makes it shorter."""

    def __init__(self, live: Flow, patterns: dict[str, list[_Pattern]] | None, hypers: bool) -> None:
        self.live, self.patterns, self.hypers = live, patterns, hypers
        self.nodes: list[tuple[str, tuple[Arg, ...], Kind]] = []
        self.known: dict[object, int] = {}

    def kind(self, arg: Arg) -> Kind:
        if isinstance(arg, Const):
            return Kind.GLOBAL
        return self.live.kinds[arg] if arg < self.live.first_node else self.nodes[arg - self.live.first_node][2]

    def node(self, arg: Arg) -> tuple[str, tuple[Arg, ...], Kind] | None:
        return self.nodes[arg - self.live.first_node] if isinstance(arg, int) and arg >= self.live.first_node else None

    def number(self, arg: Arg) -> float | None:
        """What may be folded."""
        if isinstance(arg, Const):
            return arg.value
        return self.live.hypers.get(arg) if self.hypers else None

    def make(self, op: str, args: tuple[Arg, ...]) -> Arg:
        """The value of op(*args)."""
        row = OPS[op]
        plain = args[: row.arity]
        numbers = [x for x in map(self.number, plain) if x is not None]
        if self.patterns is not None and row.elementwise and row.meaning and plain and len(numbers) == len(plain):
            with np.errstate(all="ignore"):
                value = float(row.meaning(*map(np.float64, numbers)))
            if abs(value) < _FOLDED and not (value == 0 and np.signbit(value)):
                return Const(value)
        kind = result_kind(op, [self.kind(a) for a in plain], args)
        assert kind is not None, "checked programs only"
        for pattern in (self.patterns or {}).get(op, ()):
            bound: dict[int, Arg] = {}
            if self._matches(pattern.left, pattern.left_end, op, args, bound):
                found = self._instance(pattern, bound)
                if self.kind(found) is kind:
                    return found
        key = (op, tuple(sorted(args, key=repr)) if op in ("add", "multiply", "dot") else args)
        if key not in self.known:
            self.known[key] = self.live.first_node + len(self.nodes)
            self.nodes.append((op, args, kind))
        return self.known[key]

    def _matches(
        self, left: dict[int, Statement], end: int, op: str, args: tuple[Arg, ...], bound: dict[int, Arg]
    ) -> bool:
        wanted = left[end]
        if wanted.op != op or len(wanted.args) != len(args):
            return False
        orders = [args, args[::-1]] if op in ("add", "multiply") else [args]
        for order in orders:
            trial = dict(bound)
            if all(self._fits(left, w, a, trial) for w, a in zip(wanted.args, order, strict=True)):
                bound.update(trial)
                return True
        return False

    def _fits(self, left: dict[int, Statement], wanted: Arg, arg: Arg, bound: dict[int, Arg]) -> bool:
        if isinstance(wanted, Const):
            return arg == wanted
        if wanted in left:
            node = self.node(arg)
            return node is not None and self._matches(left, wanted, node[0], node[1], bound)
        return bound.setdefault(wanted, arg) == arg

    def _instance(self, pattern: _Pattern, bound: dict[int, Arg]) -> Arg:
        value: dict[int, Arg] = dict(bound)
        for target, op, args in pattern.right:
            value[target] = self.make(op, tuple(value[a] if isinstance(a, int) else a for a in args))
        return value[pattern.right_end] if isinstance(pattern.right_end, int) else pattern.right_end


def _rebuilt(program: Program, live: Flow, patterns: bool, hypers: bool) -> Program:
    anew = _Rebuild(live, _patterns() if patterns else None, hypers)
    value: dict[Arg, Arg] = {}
    names: dict[int, str] = {}
    for number, (op, args, _) in enumerate(live.nodes, live.first_node):
        if OPS[op].draws:
            args = args[: OPS[op].arity]
        made = anew.make(op, tuple(value.get(a, a) if isinstance(a, int) else a for a in args))
        value[number] = made
        if isinstance(made, int) and number in live.labels and made >= live.first_node:
            names.setdefault(made, live.labels[number])
    ends = [value.get(live.update, live.update), *(value.get(e, e) for _, e in live.states)]
    return settle(_program(program, live, anew, ends, names))


def _program(program: Program, live: Flow, anew: _Rebuild, ends: list[Arg], names: dict[int, str]) -> Program:
    """The made nodes as a program with the live states and the hyperparameters that are read."""
    reach: set[Arg] = set()
    todo = list(ends)
    while todo:
        arg = todo.pop()
        if arg not in reach:
            reach.add(arg)
            node = anew.node(arg)
            todo += node[1] if node else ()
    kept = [i for i, _ in live.states]
    hypers = [slot for slot in live.hypers if slot in reach]
    new: dict[Arg, int] = {FIRST + old: FIRST + i for i, old in enumerate(kept)}
    new |= {slot: FIRST + len(kept) + i for i, slot in enumerate(hypers)}
    titles = [program.name_of(FIRST + i) for i in kept] + [program.name_of(slot) for slot in hypers]
    statements = []
    for number, (op, args, _) in enumerate(anew.nodes, live.first_node):
        if number in reach:
            new[number] = FIRST + len(titles)
            titles.append(names.get(number, ""))
            statements.append(Statement(new[number], op, tuple(new.get(a, a) for a in args)))
    return Program(
        tuple(statements), tuple(new.get(a, a) for a in ends), tuple(program.states[i] for i in kept),
        tuple(live.hypers[slot] for slot in hypers), program.lr, program.periods, program.roles, None,
        program.schedule, tuple(titles), program.name, program.doc,
    )  # fmt: skip


class _Pattern:
    def __init__(self, left: str, right: str) -> None:
        statements, end = _expression(left)
        self.left = {s.target: s for s in statements}
        assert isinstance(end, int)
        self.left_end = end
        self.right, self.right_end = _expression(right)


@cache
def _patterns() -> dict[str, list[_Pattern]]:
    """The exact rules by the row that they begin with."""
    found: dict[str, list[_Pattern]] = {}
    for rule in PATTERNS:
        for left, right in rule.examples:
            pattern = _Pattern(left, right)
            found.setdefault(pattern.left[pattern.left_end].op, []).append(pattern)
    return found


def _expression(text: str) -> tuple[tuple[Statement, ...], Arg]:
    """An expression in x, y and z as statements over slots FIRST to FIRST + 2."""
    program = Program.parse(f"def rule(w, g, x, y, z, lr):\n result = {text}\n return g, x, y, z")
    last = program.statements[-1]
    if last.op == "identity":
        return program.statements[:-1], last.args[0]
    return program.statements, last.target
