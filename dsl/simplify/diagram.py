"""Decision diagrams: what a value is, by the signs on which it depends.

A test asks for a sign. Trees are made by asking for signs until a value is known, in any order; diagrams have them in
one order, and no test whose answer does not matter, so that equal values have one diagram.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TypeAlias

from ..interval import Interval
from ..kind import Kind
from .algebra import TooLarge
from .form import Atom, Form, atoms_in, hashed

SIGN, THRESHOLD, LONG = range(3)  # ranks of tests
_MOST_LEAVES = 250
_NEAR = 1e-12  # thresholds that differ by less of their size are not told apart


@dataclass(frozen=True)
class Test:
    """A sign that is asked for: of an atom, of a product minus a threshold, or of a longer sum.

    `rank` tells which; `quantity` is that product or sum without the threshold, `threshold` a number, exact and as a
    float. Tests are put in order, and are equal, by rank, quantity and threshold.
    """

    rank: int
    quantity: str
    form: Form = field(compare=False)
    kind: Kind = field(compare=False)  # of the quantity: one for all elements, for each tensor, or for each element
    values: tuple[int, ...] = field(compare=False, default=(1, 0, -1))
    threshold: float = field(compare=False, default=0.0)
    exact: Form | None = field(compare=False, default=None)
    whole: bool = field(compare=False, default=False)  # the quantity is always a whole number
    sum: Form | None = field(compare=False, default=None)  # of this sign, or of the other
    turned: bool = field(compare=False, default=False)  # of the other
    zeros: frozenset[str] = field(compare=False, default=frozenset())  # plain atoms that are 0 where this is

    @property
    def bounds(self) -> Interval:
        """Between which numbers the quantity lies."""
        low, high = self.form.range
        return max(low, 1.0) if self.whole and self.form.nonzero else low, high

    @property
    def key(self) -> tuple[int, str, float, str]:
        """By which tests are equal and ordered."""
        return self.rank, self.quantity, self.threshold, self.exact.digest if self.exact else ""


Key: TypeAlias = tuple[int, str, float, str]
Cell: TypeAlias = Mapping[Key, tuple[Test, int]]  # signs that are known


class Unknown(Exception):
    """A sign is needed."""

    def __init__(self, test: Test) -> None:
        super().__init__(test)
        self.test = test


class Leaf:
    """A value."""

    def __init__(self, form: Form) -> None:
        self.form = form
        self.digest: str = form.digest


class Node:
    """A test and what follows from each of its answers."""

    def __init__(self, test: Test, children: Mapping[int, Diagram]) -> None:
        self.test, self.children = test, children
        said = " ".join(f"{v}:{children[v].digest}" for v in sorted(children))
        self.digest: str = hashed(f"{test.key} {said}")


Diagram: TypeAlias = Leaf | Node


def explore(value: Callable[[Cell], Form], known: Cell, mine: Callable[[Test], bool]) -> Diagram:
    """The tree of a value in a cell. Tests that are not `mine` are raised to the caller."""
    left = [_MOST_LEAVES]

    def branch(cell: Cell) -> Diagram:
        try:
            leaf = Leaf(value(cell))
        except Unknown as need:
            test = need.test
            if not mine(test):
                raise
            if test.key in cell:
                raise TooLarge from None
            return Node(test, {v: branch({**cell, test.key: (test, v)}) for v in feasible(test, cell)})
        left[0] -= 1
        if left[0] < 0:
            raise TooLarge
        return leaf

    return branch(known)


def leaves(diagram: Diagram) -> Iterator[Leaf]:
    """All leaves, by the answers."""
    if isinstance(diagram, Leaf):
        yield diagram
    else:
        for v in sorted(diagram.children):
            yield from leaves(diagram.children[v])


def mapped(diagram: Diagram, change: Callable[[Form], Form]) -> Diagram:
    """With every leaf changed."""
    if isinstance(diagram, Leaf):
        return Leaf(change(diagram.form))
    return Node(diagram.test, {v: mapped(child, change) for v, child in diagram.children.items()})


def tests(diagram: Diagram) -> dict[Key, Test]:
    """All tests."""
    found: dict[Key, Test] = {}
    if isinstance(diagram, Node):
        found[diagram.test.key] = diagram.test
        for child in diagram.children.values():
            found |= tests(child)
    return found


def restricted(diagram: Diagram, key: Key, answer: int) -> Diagram:
    """With one test answered."""
    if isinstance(diagram, Leaf):
        return diagram
    if diagram.test.key == key:
        child = diagram.children.get(answer)
        return next(iter(diagram.children.values())) if child is None else restricted(child, key, answer)
    return Node(diagram.test, {v: restricted(child, key, answer) for v, child in diagram.children.items()})


def ordered(
    tree: Diagram, settle: Callable[[Form, Cell], Form], reduce: Callable[[Test, Mapping[int, Diagram]], Diagram]
) -> Diagram:
    """A tree as a diagram.

    `settle` gives a leaf all that is known; `reduce` makes the node of a test, or what says the same without it.
    """

    def build(tree: Diagram, known: dict[Key, tuple[Test, int]]) -> Diagram:
        if isinstance(tree, Leaf):
            try:
                return Leaf(settle(tree.form, known))
            except Unknown as need:
                if need.test.key in known:
                    raise TooLarge from None
                tree = Node(need.test, dict.fromkeys(feasible(need.test, known), tree))
        test = min(tests(tree).values(), key=lambda t: t.key)
        children = {
            v: build(restricted(tree, test.key, v), {**known, test.key: (test, v)}) for v in feasible(test, known)
        }
        return reduce(test, children)

    return build(tree, {})


def feasible(test: Test, known: Cell) -> tuple[int, ...]:
    """The answers that what is known of the same quantity leaves open."""
    if test.rank == SIGN:
        signs = [(other, answer) for other, answer in known.values() if other.rank == SIGN]
        if any(test.quantity in other.zeros and answer == 0 for other, answer in signs):
            return (0,)
        if any(other.quantity in test.zeros and answer for other, answer in signs):
            return tuple(v for v in test.values if v)
        return test.values
    sign = _implied(test, known)
    if sign is not None:
        return (sign,)
    if test.rank == LONG:
        return test.values
    (low, high), there = test.bounds, test.threshold
    at = low <= there <= high
    for other, answer in known.values():
        if other.rank == THRESHOLD and other.quantity == test.quantity:
            if abs(other.threshold - there) <= _NEAR * there and other.key != test.key:
                raise TooLarge  # floats do not order them
            edge = other.threshold + (answer if test.whole else 0)
            low = max(low, edge) if answer >= 0 else low
            high = min(high, edge) if answer <= 0 else high
            at = at and (there > other.threshold) - (there < other.threshold) == answer
    return tuple(v for v in test.values if (high > there if v > 0 else low < there if v < 0 else at))


def _implied(test: Test, known: Cell) -> int | None:
    """The sign of a sum that is a multiple of one whose sign is known and something more of the same sign."""
    if test.sum is None:
        return None
    mine = test.sum.terms
    for other, answer in known.values():
        if other.sum is None or other.key == test.key:
            continue
        sign = -answer if other.turned else answer
        for mono, c in other.sum.terms.items():
            if mono not in mine:
                continue
            factor = Fraction(mine[mono]) / c
            rest = {m: mine.get(m, 0) - factor * other.sum.terms.get(m, 0) for m in {*mine, *other.sum.terms}}
            signed = sign if factor > 0 else -sign
            more = Form({m: k for m, k in rest.items() if k})
            low, high = more.range
            if not more.terms:
                found: int | None = signed
            elif low >= 0 and (signed > 0 or (signed == 0 and more.nonzero)):
                found = 1
            elif high <= 0 and (signed < 0 or (signed == 0 and more.nonzero)):
                found = -1
            else:
                found = None
            if found is not None:
                return -found if test.turned else found
    return None


def zipped(
    children: Mapping[int, Diagram],
    leaf: Callable[[dict[int, Form]], Form | None],
    node: Callable[[Test, Mapping[int, Diagram]], Diagram],
    apart: Collection[Atom],
) -> Diagram | None:
    """One diagram for the answers to a test, where `leaf` finds one form for their forms throughout.

    None where there is none, or where a test within is about the atoms `apart`.
    """
    inner = [child.test for child in children.values() if isinstance(child, Node)]
    if not inner:
        form = leaf({v: child.form for v, child in children.items() if isinstance(child, Leaf)})
        return None if form is None else Leaf(form)
    test = min(inner, key=lambda t: t.key)
    found = {}
    if any(a in atoms_in(test.form) for a in apart):
        if not _is_size(test, apart) or set(children) != {0, 1}:
            return None
        below = zipped({v: restricted(c, test.key, -1) for v, c in children.items()}, leaf, node, apart)
        top = children[1]
        if below is None or not isinstance(top, Node) or top.test.key != test.key or -1 not in top.children:
            return None
        return node(test, {**top.children, -1: below})
    for answer in feasible(test, {}):
        there = {
            v: restricted(c, test.key, answer)
            for v, c in children.items()
            if not (isinstance(c, Node) and c.test.key == test.key and answer not in c.children)
        }
        if not there:
            continue
        part = next(iter(there.values())) if len(there) == 1 else zipped(there, leaf, node, apart)
        if part is None:
            return None
        found[answer] = part
    return node(test, found)


def _is_size(test: Test, atoms: Collection[Atom]) -> bool:
    """Whether a test is about the size of one of these alone."""
    items = [i for m in test.form.terms for i in m]
    return test.rank == THRESHOLD and len(items) == 1 and items[0][0] in atoms and items[0][2] == 1
