"""Kinds: how many numbers each value is, inferred and checked without running anything."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .errors import ProgramError, quoted
from .kind import Axis, Kind, join
from .op import Op
from .ops import OPS
from .program import END, FIRST, MOST_REPEATS, NOWHERE, REPEAT, RESERVED_KINDS, Arg, Const, Program

_MANY = {Kind.GLOBAL: "one number", Kind.SCALAR: "one number per tensor", Kind.TENSOR: "a tensor"}
_AXES: dict[str, Axis] = {"O": "fan_out", "I": "fan_in", "S": "short", "L": "long", "1": 1}
COUNTED = ("k", "#")  # patterns of arguments that are whole numbers, written out
MOST = 65536  # the largest whole number that a program may give as a rank or a period
MOST_STATEMENTS = 20_000  # that may run in a step, repeats counted


def result_kind(op: str, kinds: Sequence[Kind], args: Sequence[Arg] = ()) -> Kind | None:
    """The kind of op(args) for arguments of these kinds; None when they do not fit.

    `args` is read where a rank or a period must be a number of the text.

    >>> result_kind("multiply", [Kind.TENSOR, Kind.GLOBAL]), result_kind("norm", [Kind.GLOBAL])
    (tensor, None)
    >>> result_kind("matmul", [Kind.TENSOR, Kind.TENSOR.transposed])
    [fan_out, fan_out]
    """
    row = OPS[op]
    if row.elementwise:
        return join(kinds)
    if row.shape:
        return _shaped(row, kinds, args)
    if row.axis:
        return _reduced(row, kinds[0])
    tensors = [kind for wanted, kind in zip(row.args, kinds, strict=True) if wanted is Kind.TENSOR]
    numbers = zip(row.args, kinds, strict=True)
    if not all(wanted is Kind.TENSOR or kind <= wanted for wanted, kind in numbers):
        return None
    if any(kind in (Kind.GLOBAL, Kind.SCALAR) or kind is not tensors[0] for kind in tensors):
        return None
    return tensors[0] if row.result is Kind.TENSOR else row.result


def _reduced(row: Op, kind: Kind) -> Kind | None:
    """The kind with the named axis gone."""
    axis = axis_of(row, kind)
    if axis is None:
        return None
    return row.result or (Kind.of(1, kind.columns) if axis == 0 else Kind.of(kind.rows, 1))


def axis_of(row: Op, kind: Kind) -> int | None:
    """Which of a value's axes, 0 or 1, a row reduces over; of two of one name the columns."""
    if kind is Kind.GLOBAL:
        return None
    for index, axis in ((1, kind.columns), (0, kind.rows)):
        if axis == row.axis or (row.axis == "rank" and isinstance(axis, int) and axis > 1):
            return index
    return None


def _shaped(row: Op, kinds: Sequence[Kind], args: Sequence[Arg]) -> Kind | None:
    """The result of a matrix row's rule; None where the axes do not agree."""
    result = row.shape.partition(" -> ")[2]
    bound: dict[str, Axis] = {}
    for index, (pattern, kind) in enumerate(zip(row.patterns, kinds, strict=True)):
        if pattern == ".":
            if kind not in (Kind.GLOBAL, Kind.SCALAR):
                return None
        elif pattern in COUNTED:
            number = args[index] if index < len(args) else None
            if not isinstance(number, Const) or not is_count(number.value):
                return None
            bound[pattern] = int(number.value)
        elif kind in (Kind.GLOBAL, Kind.SCALAR):
            return None
        else:
            for letter, axis in zip(pattern.split(), (kind.rows, kind.columns), strict=True):
                if bound.setdefault(letter, _AXES.get(letter, axis)) != axis:
                    return None
    if "k" in bound:  # a matrix has no more directions than rows or columns
        bound["k"] = min(axis for axis in (bound["k"], kinds[0].rows, kinds[0].columns) if isinstance(axis, int))
    rows, columns = (_AXES.get(x, bound.get(x, 1)) for x in result.split())
    return Kind.of(rows, columns)


def is_count(value: float) -> bool:
    """Whether a number may be a rank, a period or a count of repeats."""
    return 1 <= value <= MOST and value == int(value)


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
    before: list[dict[int, Kind]] = []  # at each open repeat
    turns: list[int] = []  # of each open repeat
    turned = 0  # statements run
    for index, (target, op, args) in enumerate(program.statements):
        if op == REPEAT:
            turns.append(_check_count(args, _place(places, index)))
            before.append(dict(kinds))
        turned += math.prod(turns)
        if turned > MOST_STATEMENTS:
            raise ProgramError(
                f"more than {MOST_STATEMENTS} statements run, repeats counted; repeat less", *_place(places, index)
            )
        elif op == END:
            if not before:
                raise ProgramError("end without a repeat; take it out", *_place(places, index))
            _check_stable(program, before.pop(), kinds, _place(places, index))
            turns.pop()
        if target == NOWHERE:
            results.append(Kind.GLOBAL)
            continue
        given = [kind_of(a, index) for a in args]
        result = result_kind(op, given, args)
        if result is None:
            raise ProgramError(_misfit(program, op, args, given), *_place(places, index))
        kinds[target] = result
        results.append(result)
    if before:
        raise ProgramError("a repeat is not closed; write end after its last line", *_place(places, len(results)))
    return results, [kind_of(a, len(program.statements)) for a in program.returns]


def _check_count(args: Sequence[Arg], place: tuple[int | None, int | None]) -> int:
    count = args[0]
    if not isinstance(count, Const) or not is_count(count.value) or count.value > MOST_REPEATS:
        shown = f"{count.value:g}" if isinstance(count, Const) else "a variable"
        raise ProgramError(f"repeat takes a whole number from 1 to {MOST_REPEATS}, not {shown}", *place)
    return int(count.value)


def _check_stable(
    program: Program, before: dict[int, Kind], after: dict[int, Kind], place: tuple[int | None, int | None]
) -> None:
    """What a repeat carries from one turn to the next keeps its kind."""
    for slot, kind in before.items():
        if after[slot] is not kind:
            raise ProgramError(
                f"{quoted(program.name_of(slot))} is {many(kind)} before this repeat and {many(after[slot])} at its "
                "end; use another name inside", *place
            )  # fmt: skip


def check(program: Program, places: Sequence[tuple[int, int]] = ()) -> None:
    """Raises ProgramError unless the program is well formed: finite numbers, kinds that fit, a tensor as update.

    Whether it uses g and lr at all is asked of live code, by `flow.reject_reason`.
    """
    for name, value in program.constants():
        if not math.isfinite(value):
            raise ProgramError(f"{name or 'a constant'} is {value}; numbers are finite")
    if program.schedule and (program.states or program.periods or program.roles):
        raise ProgramError(f"{program.name} is a schedule: it has no states, oracles or route", *_place(places, 0))
    results, ends = infer(program, places)
    _check_route(program, results, places)
    where = _place(places, len(program.statements))
    if len(ends) != 1 + len(program.states):
        raise ProgramError(f"{len(ends)} returned values for {len(program.states)} states", *where)
    wanted = Kind.GLOBAL if program.schedule else Kind.TENSOR
    if ends[0] is not wanted:
        what = "multiplier" if program.schedule else "update"
        mend = "one number" if program.schedule else "a tensor, as g and w are"
        raise ProgramError(f"the {what} is {many(ends[0])}; it must be {mend}", *where)
    for index, (state, kind) in enumerate(zip(program.states, ends[1:], strict=True)):
        if not kind <= state.kind:
            raise ProgramError(_wrong_state(program.name_of(FIRST + index), state.kind, kind), *where)


def _wrong_state(name: str, declared: Kind, given: Kind) -> str:
    mend = f"declare it as {quoted(name + ': ' + str(given))}"
    if given is Kind.TENSOR:
        mend = f"declare {quoted(name)} without ': {declared}'"
    elif declared is Kind.GLOBAL:
        mend = "reduce it further"
    return f"state {quoted(name)} is {many(declared)} but {many(given)} is returned for it; {mend}"


def _check_route(program: Program, results: Sequence[Kind], places: Sequence[tuple[int, int]]) -> None:
    """What has a meaning for matrices alone stands in a program for matrices alone; a route has an end."""
    if program.roles and program.fallback is None:
        end = _place(places, len(program.statements))
        roles = ", ".join(program.roles)
        mend = f"name a program for the other roles: def {program.name}(...) for {roles} else adamw:"
        raise ProgramError(f"{program.name} is for {roles} alone; {mend}", *end)
    if program.roles and "vector" not in program.roles:
        return
    for index, (statement, kind) in enumerate(zip(program.statements, results, strict=True)):
        if statement.op in OPS and (OPS[statement.op].needs_matrix or not kind.plain):
            raise ProgramError(_needs_matrix(program, shown_op(statement.op)), *_place(places, index))
    for index, state in enumerate(program.states):
        if not state.kind.plain or (state.codec and state.codec.needs_matrix):
            name = f"state {quoted(program.name_of(FIRST + index))}"
            raise ProgramError(_needs_matrix(program, name), *_place(places, len(program.statements)))


def _needs_matrix(program: Program, what: str) -> str:
    return (
        f"{what} needs a matrix, and vectors reach this program too; route it: "
        f"def {program.name}(...) for matrix else adamw:"
    )


def shown_op(op: str) -> str:
    """An op's name as a person writes it.

    >>> shown_op("mean:fan_in")
    'mean over fan_in'
    """
    return op.replace(":", " over ")


def many(kind: Kind) -> str:
    """How many numbers a kind is, in words."""
    return _MANY.get(kind, f"of shape {kind}")


def _misfit(program: Program, op: str, args: Sequence[Arg], given: Sequence[Kind]) -> str:
    row = OPS[op]

    def shown(position: int) -> str:
        arg = args[position]
        return repr(arg.value) if isinstance(arg, Const) else program.name_of(arg) or "the expression"

    each = ", ".join(f"{shown(i)} is {many(kind)}" for i, kind in enumerate(given))
    axes = ", ".join(f"{shown(i)} is [{kind.rows}, {kind.columns}]" for i, kind in enumerate(given))
    if row.elementwise:
        return f"{op}: the axes of its arguments differ: {each}"
    if row.axis:
        return f"{shown_op(op)}: {shown(0)} is {many(given[0])} and has no axis {row.axis}"
    if row.shape:
        for position, pattern in enumerate(row.patterns):
            arg = args[position]
            if pattern in COUNTED and not (isinstance(arg, Const) and is_count(arg.value)):
                return f"{op} needs a whole number, written out, as argument {position + 1}, not {shown(position)}"
        return f"{op} takes shapes {_spelled(row.shape)}; {each if Kind.GLOBAL in given else axes}"
    for position, (wanted, kind) in enumerate(zip(row.args, given, strict=True)):
        if wanted is Kind.TENSOR and kind in (Kind.GLOBAL, Kind.SCALAR):
            return f"{op} needs a tensor as argument {position + 1}; {shown(position)} is {many(kind)}"
        if wanted is not Kind.TENSOR and not kind <= wanted:
            return f"{op} needs one number as argument {position + 1}; {shown(position)} is {many(kind)}"
    return f"{op} takes tensors of one shape; {each}"


def _spelled(rule: str) -> str:
    """A shape rule in words: "[a, b], [b, c]"."""
    patterns = rule.partition(" -> ")[0].split(", ")
    words = {"k": "a number", "#": "a number", ".": "a number"}
    named = [words.get(p) or "[" + ", ".join(str(_AXES.get(x, x)) for x in p.split()) + "]" for p in patterns]
    return ", ".join(named)


def _place(places: Sequence[tuple[int, int]], index: int) -> tuple[int | None, int | None]:
    return places[index] if index < len(places) else (None, None)
