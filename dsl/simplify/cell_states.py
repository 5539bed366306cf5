"""States over cells: the scale and power at which each is kept, its sign, and which are 0 together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

from ..program import FIRST, Program
from .after import After
from .algebra import TooLarge
from .cells import Cells
from .diagram import Cell, Diagram, Leaf, explore, leaves, tests
from .form import PRIME, SUM, Atom, Form, Number, constant, magnitude
from .normal import Normal, slots_in
from .states import colours_of, normal_form

OFF = ("masks by signs",)  # cells know more
_ROUNDS = 8
_AFTER = 4000  # products of an update over what states become


def by_cells(program: Program, form: Normal) -> object:
    """What stands for a program: the diagrams of its update and its states; raises TooLarge.

    What is assumed of states is proved by their diagrams, by induction from 0, or given up.
    """
    scales, powers = dict(form.assumed.scales), dict(form.assumed.powers)
    fixed = {i for i, state in enumerate(program.states) if state.codec is not None}
    nonnegative = {i for i, colour in form.assumed.colours.items() if colour[0] != "-"} - fixed
    nonnegative -= powers.keys() - set(form.assumed.nonnegative)
    turned: set[int] = set()
    for _ in range(_ROUNDS):
        colours = colours_of(program, form.flow, powers, form.ends)
        form = normal_form(program, OFF, scales, powers, colours=colours, proved=nonnegative)
        cells = Cells(form.count, [form.update, *form.ends.values()])
        ends = {i: cells.diagram(end) for i, end in form.ends.items()}
        wrong = {i for i in nonnegative if i not in ends or any(x.form.range[0] < 0 for x in leaves(ends[i]))}
        if wrong:
            turn = {i for i in (wrong & ends.keys()) - turned if any(_negative(x.form) for x in leaves(ends[i]))}
            scales.update({i: -scales.get(i, 1) for i in turn})
            turned |= turn
            nonnegative -= wrong - turn
            continue
        free = {i: d for i, d in ends.items() if i not in fixed}
        more = {i: r for i, d in free.items() if (r := _power(d, i, form)) != 1}
        larger = {i: k for i, d in free.items() if (k := _scale(cells, d, i, form)) != 1}
        if not more and not larger:
            return _described(program, form, cells, ends, fixed)
        for i, r in more.items():
            powers[i] = powers.get(i, 1) * r
        for i, k in larger.items():
            scales[i] = scales.get(i, 1) * k
    raise TooLarge


def named(program: Program, form: Normal, ends: Mapping[int, str]) -> list[str]:
    """States by name, each with the name of what it becomes."""
    return sorted(f"{form.state(i).digest} {program.states[i].codec} {end}" for i, end in ends.items())


def _negative(x: Form) -> bool:
    return bool(x.terms) and x.range[1] <= 0


# --- the scale and the power of a state -----------------------------------------------------------------------


def _scale(cells: Cells, end: Diagram, index: int, form: Normal) -> Number:
    """The leading coefficient of what a state adds to itself where all signs are positive."""
    for leaf in reversed(list(leaves(end))):
        added = {m: c for m, c in leaf.form.terms.items() if not any(s >= FIRST for s in slots_in([Form({m: 1})]))}
        if added:
            k = cells.algebra.primitive(Form(added))[0]
            return magnitude(k) if index in form.assumed.nonnegative else k
    return 1


def _power(end: Diagram, index: int, form: Normal) -> Number:
    """The exponent of the one sum among the factors that a state is made of in some cell; 1 if it may be negative."""
    if index not in form.assumed.nonnegative or not tests(end):
        return 1
    for leaf in reversed(list(leaves(end))):
        items = leaf.form.single[0] if leaf.form.single else ()
        sums = [i for i in items if i[0].op == SUM]
        others = Form({tuple(i for i in items if i[0].op not in (SUM, PRIME)): 1})
        if len(sums) == 1 and not any(s >= FIRST for s in slots_in([others])):
            return sums[0][2]
    return 1


# --- states that are 0 together -------------------------------------------------------------------------------


def _described(
    program: Program, form: Normal, cells: Cells, ends: Mapping[int, Diagram], fixed: Collection[int]
) -> object:
    """The names of the update and of the states, where all that is known of the states is taken as known.

    The update is taken over the states before the step or, where that is too large, over those after it.
    """
    free = ends.keys() - set(fixed)
    zeros = {j: together for j in free if (together := {i for i in free if i != j and _vanishes(form, i, j)})}
    if zeros:
        cells = Cells(form.count)
        cells.zeros.update(_by_atom(zeros, form.state))
        ends = {i: cells.diagram(end) for i, end in form.ends.items()}
    states = named(program, form, {i: end.digest for i, end in ends.items()})
    try:
        return "before", cells.diagram(form.update).digest, states
    except TooLarge:
        after = After(form)
        cells = Cells(after.count, [after.update])
        cells.algebra.left = _AFTER
        cells.zeros.update(_by_atom(zeros, after.after))
        return "after", cells.diagram(after.update).digest, states


def _by_atom(zeros: Mapping[int, Collection[int]], atom: Callable[[int], Atom]) -> dict[Atom, frozenset[str]]:
    return {atom(j): frozenset(atom(i).digest for i in together) for j, together in zeros.items()}


def _vanishes(form: Normal, index: int, other: int) -> bool:
    """Whether a state is 0 wherever another is, at every step: so it is at the start, and stays so."""
    if form.ends[index].kind is not form.ends[other].kind:
        return False
    cells = Cells(form.count)
    cells.zeros[form.state(other)] = frozenset([form.state(index).digest])
    try:
        signs = explore(lambda cell: _sign(cells, form.ends[other], cell), {}, lambda test: True)
        for cell, sign in _paths(signs):
            if not sign.terms:
                tree = explore(lambda known: cells.leaf(form.ends[index], known), cell, lambda test: True)
                if any(x.form.terms for x in leaves(tree)):
                    return False
    except TooLarge:
        return False
    return True


def _sign(cells: Cells, x: Form, cell: Cell) -> Form:
    return constant(cells.sign(cells.leaf(x, cell), cell))


def _paths(diagram: Diagram, known: Cell | None = None) -> Iterator[tuple[Cell, Form]]:
    """The leaves with the answers that lead to them."""
    if isinstance(diagram, Leaf):
        yield known or {}, diagram.form
        return
    for answer, child in diagram.children.items():
        yield from _paths(child, {**(known or {}), diagram.test.key: (diagram.test, answer)})
