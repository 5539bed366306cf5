"""Between which numbers values lie, read off the statements: what is never negative."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

from .flow import in_order
from .interval import ALL, Interval, elementwise, times
from .kinds import start_kinds
from .program import (
    FIRST,
    LR,
    PROGRESS,
    Arg,
    Const,
    Program,
    T,
)  # fmt: skip

Source: TypeAlias = int | Const  # of a value: a statement's number, ~slot for an input, or a number
_INF = math.inf
_POSITIVE, _UNIT = (0.0, _INF), (0.0, 1.0)
_NEVER_NEGATIVE = {"abs", "sqrt", "norm", "global_norm", "rms", "std", "size", "cosh", "arccosh", "arccos", "exp",
                   "exp2", "exp10", "square", "get_pi", "get_e", "get_eps"}  # fmt: skip
_KEEP_RANGE = {"mean", "amax", "quantile", "worker_mean", "transpose", "wide", "unwide"}
_KEEP_SIGN = {"sign", "cube", "cbrt", "arctan", "tanh", "sinh", "arcsinh", "arcsin", "arctanh", "expm1", "log1p",
              "sum"}  # fmt: skip


@dataclass(frozen=True)
class _Term:
    """A value as a number in a range times factors whose signs are not known; an even power of one is known."""

    range: Interval  # of the value
    known: Interval
    factors: frozenset[int] = frozenset()

    def times(self, other: _Term) -> _Term:
        known = times(self.known, other.known)
        if self.factors & other.factors:
            known = times(known, _POSITIVE)
        factors = self.factors ^ other.factors
        return _Term(times(self.range, other.range) if factors else known, known, factors)

    def inverse(self) -> _Term:
        return _Term(_signed(self.range), _signed(self.known), self.factors)


class Ranges:
    """Between which numbers the values of a program lie, as far as its formulas tell; NaN aside.

    `states` are the states that are never negative: they start at 0, and each step keeps them so.
    """

    def __init__(self, program: Program) -> None:
        self.program, self.count = program, 0
        self.states = set(range(len(program.states)))
        while True:
            ends = self._run()
            still = {i for i in self.states if ends[1 + i][0] >= 0}
            if still == self.states:
                break
            self.states = still

    def of(self, source: Source) -> Interval:
        """The range of a value."""
        if isinstance(source, Const):
            return source.value, source.value
        return self.inputs[~source].range if source < 0 else self.found[source]

    def _run(self) -> list[Interval]:
        program = self.program
        self.found: dict[int, Interval] = {}
        peak = _signed((program.peak, program.peak))
        known: dict[int, Interval] = {LR: peak, T: (1.0, _INF), PROGRESS: _UNIT}
        known |= {FIRST + i: _POSITIVE for i in self.states}
        known |= {program.first_hyper + i: (value, value) for i, value in enumerate(program.hypers)}
        self.inputs = {slot: self._term(known.get(slot, ALL)) for slot in start_kinds(program)}
        terms = dict(self.inputs)

        def read(arg: Arg) -> _Term:
            return self._term((arg.value, arg.value)) if isinstance(arg, Const) else terms[arg]

        for number in in_order(program):
            target, op, args = program.statements[number]
            terms[target] = term = self._apply(op, [read(a) for a in args])
            low, high = self.found.get(number, term.range)
            self.found[number] = min(low, term.range[0]), max(high, term.range[1])
        return [read(end).range for end in program.returns]

    def _term(self, known: Interval) -> _Term:
        if known[0] >= 0 or known[1] <= 0:
            return _Term(known, known)
        self.count += 1
        return _Term(known, (1.0, 1.0), frozenset({self.count}))

    def _apply(self, op: str, args: list[_Term]) -> _Term:
        if op == "identity":
            return args[0]
        if op == "negative":
            return args[0].times(self._term((-1.0, -1.0)))
        if op == "multiply":
            return args[0].times(args[1])
        if op == "divide":
            return args[0].times(args[1].inverse())
        return args[0].inverse() if op == "reciprocal" else self._term(range_of(op, [a.range for a in args]))


def range_of(op: str, args: list[Interval]) -> Interval:
    """The range of a row's result; the rows that multiply are not here."""
    name = op.partition(":")[0]
    if name in _NEVER_NEGATIVE:
        return _POSITIVE
    if name in ("less", "less_equal", "greater", "greater_equal", "eye"):
        return _UNIT
    if name in _KEEP_RANGE:
        return args[0]
    if name in _KEEP_SIGN or (name == "clip" and args[1][0] >= 0):
        return _signed(args[0])
    if name == "power" and args[0][0] >= 0:
        return (0.0, args[0][1] ** args[1][0]) if args[0][1] <= 1 and args[1][0] >= 0 else _POSITIVE
    return elementwise(name, args)


def _signed(x: Interval) -> Interval:
    """All numbers with the signs of a range."""
    return 0.0 if x[0] >= 0 else -_INF, 0.0 if x[1] <= 0 else _INF
