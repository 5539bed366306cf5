"""Kinds: how many numbers each value is, inferred and checked without running anything."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .errors import ProgramError, quoted
from .ops import OPS, Kind
from .program import FIRST, RESERVED_KINDS, Arg, Const, Program

_MANY = {Kind.GLOBAL: "one number", Kind.SCALAR: "one number per tensor", Kind.TENSOR: "a tensor"}


def result_kind(op: str, kinds: Sequence[Kind]) -> Kind | None:
    """The kind of op(args) for arguments of these kinds; None when they do not fit.

    >>> result_kind("multiply", [Kind.TENSOR, Kind.GLOBAL]), result_kind("norm", [Kind.GLOBAL])
    (<Kind.TENSOR: 2>, None)
    """
    row = OPS[op]
    for wanted, kind in zip(row.args, kinds, strict=False):
        if (wanted is Kind.TENSOR and kind is not Kind.TENSOR) or kind > wanted:
            return None
    return row.result if row.result is not None else max(kinds, default=Kind.GLOBAL)


def start_kinds(program: Program) -> dict[int, Kind]:
    """The kind of every slot before the first statement."""
    kinds: dict[int, Kind] = dict(enumerate(RESERVED_KINDS))
    kinds.update({FIRST + i: state.kind for i, state in enumerate(program.states)})
    kinds.update({program.first_hyper + i: Kind.GLOBAL for i in range(len(program.hypers))})
    return kinds


def infer(program: Program, places: Sequence[tuple[int, int]] = ()) -> tuple[list[Kind], list[Kind]]:
    """The kinds of every statement's result and of every returned value.

    `places` are line and column of each statement and, last, of the return; they go into the error.
    Raises ProgramError for a value that is not assigned yet or an argument of a kind the op does not take.
    """
    kinds = start_kinds(program)

    def kind_of(arg: Arg, index: int) -> Kind:
        if isinstance(arg, Const):
            return Kind.GLOBAL
        if arg not in kinds:
            name = program.name_of(arg) or f"slot {arg}"
            raise ProgramError(f"{quoted(name)} is read before it is assigned", *_place(places, index))
        return kinds[arg]

    results = []
    for index, (target, op, args) in enumerate(program.statements):
        given = [kind_of(a, index) for a in args]
        result = result_kind(op, given)
        if result is None:
            raise ProgramError(_misfit(program, op, args, given), *_place(places, index))
        kinds[target] = result
        results.append(result)
    return results, [kind_of(a, len(program.statements)) for a in program.returns]


def check(program: Program, places: Sequence[tuple[int, int]] = ()) -> None:
    """Raises ProgramError unless the program is well formed: finite numbers, kinds that fit, a tensor as update.

    Whether it uses g and lr at all is asked of live code, by `flow.reject_reason`.
    """
    for name, value in program.constants():
        if not math.isfinite(value):
            raise ProgramError(f"{name or 'a constant'} is {value}; numbers are finite")
    _, ends = infer(program, places)
    where = _place(places, len(program.statements))
    if len(ends) != 1 + len(program.states):
        raise ProgramError(f"{len(ends)} returned values for {len(program.states)} states", *where)
    if ends[0] is not Kind.TENSOR:
        raise ProgramError(f"the update is {_MANY[ends[0]]}; it must be a tensor, as g and w are", *where)
    for index, (state, kind) in enumerate(zip(program.states, ends[1:], strict=True)):
        if kind > state.kind:
            name = program.name_of(FIRST + index)
            mend = f"declare {quoted(name)} without ': {state.kind}'" if kind is Kind.TENSOR else "reduce it further"
            raise ProgramError(
                f"state {quoted(name)} is {_MANY[state.kind]} but {_MANY[kind]} is returned for it; {mend}", *where
            )


def _misfit(program: Program, op: str, args: Sequence[Arg], given: Sequence[Kind]) -> str:
    for position, (wanted, arg, kind) in enumerate(zip(OPS[op].args, args, given, strict=True)):
        if result_kind(op, [*OPS[op].args[:position], kind, *OPS[op].args[position + 1 :]]) is None:
            shown = repr(arg.value) if isinstance(arg, Const) else program.name_of(arg) or "the expression"
            article = "a tensor" if wanted is Kind.TENSOR else "one number"
            return f"{op} needs {article} as argument {position + 1}; {shown} is {_MANY[kind]}"
    raise AssertionError(op)


def _place(places: Sequence[tuple[int, int]], index: int) -> tuple[int | None, int | None]:
    return places[index] if index < len(places) else (None, None)
