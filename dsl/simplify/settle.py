"""Variables: a value takes over the slot of the state or input whose name it had."""

from __future__ import annotations

from dataclasses import replace

from ..program import FIRST, RESERVED, Arg, Program, Statement, build


def settle(program: Program) -> Program:
    r"""The program with new values of states and inputs assigned to them where nothing reads the old ones after.

    >>> rule = Program.parse("def f(w, g, m, lr):\n  a = interp(g, m, 0.9)\n  return lr * a, a")
    >>> print(settle(rule), end="")
    def f(w, g, m, lr):
        m = interp(g, m, 0.9)
        return lr * m, m
    """
    wanted = _wanted(program)
    for local in list(wanted):
        program = _moved(program, local, wanted[local])
    states = program.names[: program.first_local - FIRST]
    names = list(program.names)
    for index in range(len(states), len(names)):
        if names[index] in RESERVED or names[index] in states:
            names[index] = ""
    return build(
        program.statements, program.returns, program.states, program.hypers, program.lr, tuple(names), program.name,
        program.doc, periods=program.periods, roles=program.roles, schedule=program.schedule,
    )  # fmt: skip


def _wanted(program: Program) -> dict[int, int]:
    """Which slot a local would like to have: that of the state it becomes, or of the input whose name it had."""
    wanted: dict[int, int] = {}
    for index, end in enumerate(program.returns[1:]):
        if isinstance(end, int) and end >= program.first_local and end not in wanted:
            wanted[end] = FIRST + index
    for statement in program.statements:
        name = program.name_of(statement.target)
        if statement.target >= program.first_local and name in RESERVED:
            wanted.setdefault(statement.target, RESERVED.index(name))
    return wanted


def _moved(program: Program, local: int, slot: int) -> Program:
    """The local in the slot, assigned once no one reads what was there before."""
    places = [i for i, s in enumerate(program.statements) if s.target == local]
    if len(places) != 1 or any(s.target == slot for s in program.statements) or slot in program.returns:
        return program
    statements = list(program.statements)
    own = statements.pop(places[0])
    before = [i for i, s in enumerate(statements) if slot in s.args or (i < places[0] and s.target in own.args)]
    after = [i for i, s in enumerate(statements) if local in s.args or (i >= places[0] and s.target in own.args)]
    place = max(before, default=-1) + 1
    if place > min(after, default=place):
        return program
    statements.insert(place, own)

    def new(arg: Arg) -> Arg:
        return slot if arg == local and isinstance(arg, int) else arg

    moved = (Statement(slot if s.target == local else s.target, s.op, tuple(map(new, s.args))) for s in statements)
    return replace(program, statements=tuple(moved), returns=tuple(map(new, program.returns)))
