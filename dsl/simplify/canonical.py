"""Canonical form: one name for all programs that the rules know to be equal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..flow import flow
from ..program import FIRST, Program, routed
from .algebra import TooLarge
from .algebraic import averages, lr_factor, written
from .cells import Cells
from .diagram import Diagram, leaves, tests
from .exact import exact
from .form import PRIME, SUM, Form, Number, hashed, magnitude
from .normal import Normal, slots_in
from .settle import settle
from .states import colours_of, normal_form

_MOST_NODES = 400  # beyond, a program is canonical up to exact rules only
_ROUNDS = 6
_OFF = ("masks by signs",)  # cells know more


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
        form = normal_form(short, _OFF)
        try:
            return said, _by_cells(short, form)
        except TooLarge:
            ends = {i: end.digest for i, end in form.ends.items()}
            return said, "normal", form.update.digest, _states(short, form, ends)
    except TooLarge:
        return said, str(replace(settle(replace(short, names=())), names=()))


def _states(program: Program, form: Normal, ends: Mapping[int, str]) -> list[str]:
    return sorted(f"{form.state(i).digest} {program.states[i].codec} {end}" for i, end in ends.items())


def _by_cells(program: Program, form: Normal) -> object:
    """The diagrams of update and states; raises TooLarge."""
    scales, powers = dict(form.assumed.scales), dict(form.assumed.powers)
    for _ in range(_ROUNDS):
        colours = colours_of(program, form.flow, powers, form.ends)
        form = normal_form(program, _OFF, scales, powers, colours=colours)
        cells = Cells(form.count, [form.update, *form.ends.values()])
        ends = {i: cells.diagram(end) for i, end in form.ends.items()}
        free = {i: d for i, d in ends.items() if program.states[i].codec is None}
        more = {i: r for i, d in free.items() if (r := _power(d, i, form)) != 1}
        larger = {i: k for i, d in free.items() if (k := _scale(cells, d, i, form)) != 1}
        if not more and not larger:
            update = cells.diagram(form.update).digest
            return update, _states(program, form, {i: d.digest for i, d in ends.items()})
        for i, r in more.items():
            powers[i] = powers.get(i, 1) * r
        for i, k in larger.items():
            scales[i] = scales.get(i, 1) * k
    raise TooLarge


def _scale(cells: Cells, end: Diagram, index: int, form: Normal) -> Number:
    """The leading coefficient of what a state adds to itself where all signs are positive."""
    for leaf in reversed(list(leaves(end))):
        added = {m: c for m, c in leaf.form.terms.items() if not any(s >= FIRST for s in slots_in([Form({m: 1})]))}
        if added:
            k = cells.algebra.primitive(Form(added))[0]
            return magnitude(k) if index in form.assumed.nonnegative else k
    return 1


def _power(end: Diagram, index: int, form: Normal) -> Number:
    """The exponent of a sum that is all of a state in some cell, where the state is never negative."""
    if index not in form.assumed.nonnegative or not tests(end):
        return 1
    for leaf in reversed(list(leaves(end))):
        single = leaf.form.single
        items = [i for i in single[0] if i[0].op != PRIME] if single else []
        if len(items) == 1 and items[0][0].op == SUM and items[0][2] > 0:
            return items[0][2]
    return 1


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
