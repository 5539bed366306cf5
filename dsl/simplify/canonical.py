"""Canonical form: one program for all that the rules know to be equal."""

from __future__ import annotations

from dataclasses import replace

from ..flow import flow
from ..program import Program, routed
from .algebra import TooLarge
from .algebraic import averages, lr_factor, written
from .exact import exact
from .settle import settle
from .states import normal_form

_MOST_NODES = 400  # beyond, a program is canonical up to exact rules only


def canonical(program: Program) -> Program:
    r"""The program that stands for all that are equal to this one as far as the rules go.

    Names, dead code, order, spelling and the scale of states do not count. Where the normal form outgrows its limits
    the exact level alone is used: equal programs may then have unlike forms, unlike programs never have one.

    >>> a = Program.parse("def f(w, g, m, lr):\n  m = m * 0.9 + g\n  return lr * m / sqrt(m * m), m")
    >>> b = Program.parse("def f(w, g, m, lr=1.0):\n  m = interp(g, m, 0.9)\n  return sign(m) * lr, m")
    >>> canonical(a) == canonical(b)
    True
    """
    if program.schedule:
        return replace(program, names=(), name="canonical", doc="")
    return routed([_part(part) for part in program.parts()])


def _part(program: Program) -> Program:
    bare = replace(program, names=(), name="canonical", doc="")
    short = exact(bare)
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
