"""Canonical form: one name for all programs that the rules know to be equal."""

from __future__ import annotations

from dataclasses import replace

from ..flow import flow
from ..program import Program, routed
from .algebra import TooLarge
from .algebraic import averages, lr_factor, written
from .cell_states import OFF, by_cells, named
from .exact import exact
from .form import hashed
from .settle import settle
from .states import normal_form

_MOST_NODES = 400  # beyond, a program is canonical up to exact rules only


def canonical(program: Program) -> str:
    r"""What stands for all programs that are equal to this one as far as the rules go.

    Names, dead code, order, spelling, scales and powers of states do not count, nor with what masks, choices, maxima
    and signs a value is put together. Where a program has too many cells its normal form is used, and where that
    outgrows its limits the exact level alone: equal programs may then have unlike forms, unlike ones never have one.

    >>> a = Program.parse("def f(w, g, lr):\n  return lr * min(max(g, -1), 1)")
    >>> b = Program.parse("def f(w, g, lr=1.0):\n  big = abs(g) > 1\n  return where(big, sign(g), g) * lr")
    >>> canonical(a) == canonical(b)
    True
    """
    if program.schedule:
        return hashed(str(replace(program, names=(), name="canonical", doc="")))
    return hashed(repr([_part(part) for part in program.parts()]))


def _part(program: Program) -> object:
    bare = replace(program, names=(), name="canonical", doc="")
    short = exact(bare)
    asked = [pair for pair in program.periods if flow(short).reads(pair[0])]
    said = program.roles, asked
    try:
        if len(flow(short).nodes) > _MOST_NODES:
            raise TooLarge
        form = normal_form(short, OFF)
        try:
            return said, by_cells(short, form)
        except TooLarge:
            ends = {i: end.digest for i, end in form.ends.items()}
            return said, "normal", form.update.digest, named(short, form, ends)
    except TooLarge:
        return said, str(replace(settle(replace(short, names=())), names=()))


def normalised(program: Program) -> Program:
    r"""A program spelled from its normal form, which many equal programs share.

    >>> a = Program.parse("def f(w, g, m, lr):\n  m = m * 0.9 + g\n  return lr * m / sqrt(m * m), m")
    >>> b = Program.parse("def f(w, g, m, lr=1.0):\n  m = interp(g, m, 0.9)\n  return sign(m) * lr, m")
    >>> normalised(a) == normalised(b)
    True
    """
    if program.schedule:
        return replace(program, names=(), name="canonical", doc="")
    return routed([_normalised(part) for part in program.parts()])


def _normalised(program: Program) -> Program:
    short = exact(replace(program, names=(), name="canonical", doc=""))
    try:
        found = _written(short)
    except TooLarge:
        found = short
    return replace(settle(replace(found, names=())), names=())


def _written(short: Program) -> Program:
    if len(flow(short).nodes) > _MOST_NODES:
        raise TooLarge
    form = normal_form(short)
    form = normal_form(short, scales=averages(form), powers=form.assumed.powers)
    order = sorted(form.ends, key=lambda i: (form.assumed.colours.get(i, ""), i))
    bare = replace(short, lr=None)  # the peak is in the constants
    return written(bare, form, lr_factor(form), order, form.ends.values(), prefer_peak=False)
