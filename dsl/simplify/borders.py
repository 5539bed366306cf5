"""Borders of cells: what a value is on them, and which of them it does not see."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from fractions import Fraction

from ..ops import OPS
from .algebra import SINGLE, ZERO, TooLarge, sum_of
from .diagram import SIGN, THRESHOLD, Cell, Diagram, Leaf, Node, Test, Unknown, zipped
from .form import PRIME, SUM, Atom, Form, Item, atoms_in, constant, of_atom, tidy
from .signs import SIGNED, SIZE, Signs, inside, one


class Borders(Signs):
    """Values on borders, and diagrams without the borders that do not matter."""

    def settled(self, x: Form, cell: Cell) -> Form:
        """A value with all that is known in a cell."""
        held = atoms_in(x)
        for test, answer in cell.values():
            if test.rank == SIGN:
                ((mono, _),) = test.form.terms.items()
                signed = self.made(SIGNED, mono[0][0])
                if signed in held:
                    x = self.replaced(x, signed, self.factor(mono[0][0], cell), cell)
                    held = atoms_in(x)
                if answer == 0 and test.zeros:
                    x = self.with_zeros(x, test.zeros, cell)
                    held = atoms_in(x)
        for test, answer in sorted(cell.values(), key=lambda known: known[0].key):
            if answer == 0 and test.rank != SIGN:
                x = self.algebra.shortest(self.where_zero(x, test, cell))
        return x

    def with_zeros(self, x: Form, zeros: Collection[str], cell: Cell) -> Form:
        """A value where plain atoms are 0."""
        for atom in [a for a in atoms_in(x) if a.op == SIGNED and inside(a).digest in zeros]:
            x = self.replaced(x, atom, ZERO, cell)
        return x

    def where_zero(self, x: Form, test: Test, cell: Cell) -> Form:
        """A value where a test's quantity is its threshold, or its sum 0: one factor or product leaves."""
        if test.rank == THRESHOLD:
            ((mono, _),) = test.form.terms.items()
            (atom, _, _), *others = mono
            assert test.exact is not None
            value = self.algebra.times(test.exact, Form({tuple((a, p, tidy(-r)) for a, p, r in others): 1}))
            return self.replaced(x, atom, value, cell)
        return self.algebra.shortest(self.modulo_sum(x, test.form, cell))

    def modulo_sum(self, x: Form, zero: Form, cell: Cell) -> Form:
        """X where a sum is 0, however deep: the sum's leading product is what is left of it."""
        lead = self.algebra.lead(zero)
        rest = Form({m: tidy(-c) for m, c in zero.terms.items() if m != lead})
        held = {a: r for a, _, r in lead}
        total = ZERO
        for mono, c in x.terms.items():
            part = constant(c)
            for item in mono:
                a = item[0]
                value = one(a) if a.op != SUM else self.modulo_sum(sum_of(a), zero, cell)
                part = self.algebra.times(part, self.again(item, value, cell))
            for m, k in part.terms.items():
                powers = {a: r for a, _, r in m}
                term = Form({m: k})
                if all(a in powers and powers[a] >= r for a, r in held.items()):
                    term = self.algebra.times(self.algebra.divided(term, lead), rest)
                total = self.algebra.plus(total, term)
        return total

    def again(self, item: Item, value: Form, cell: Cell) -> Form:
        """A factor's power with another value for the factor; the root of a prime is what it was."""
        atom, _, r = item
        if atom.op == PRIME:
            return Form({(item,): 1})
        if not value.terms and r < 0:
            raise TooLarge  # a quotient by 0
        return self.raised(value, 1 if isinstance(r, int) and r % 2 == 1 else 0, r, cell)

    def replaced(self, x: Form, atom: Atom, value: Form, cell: Cell) -> Form:
        """X with another value for a factor, however deep; raises Unknown where a sign is needed."""
        return self.algebra.shortest(self._replaced(x, atom, value, {}, cell))

    def _replaced(self, x: Form, atom: Atom, value: Form, known: dict[Atom, Form], cell: Cell) -> Form:
        total = ZERO
        for mono, c in x.terms.items():
            part = constant(c)
            for item in mono:
                a = item[0]
                if a not in known:
                    known[a] = value if a is atom else self._atom_replaced(a, atom, value, known, cell)
                part = self.algebra.times(part, self.again(item, known[a], cell))
            total = self.algebra.plus(total, part)
        return total

    def _atom_replaced(self, a: Atom, atom: Atom, value: Form, known: dict[Atom, Form], cell: Cell) -> Form:
        if a.op not in (SUM, SIZE, SIGNED) or atom not in atoms_in(of_atom(a)):
            return one(a)
        (inside,) = a.args
        assert isinstance(inside, Form)
        if a.op == SUM:
            return self._replaced(inside, atom, value, known, cell)
        plain = self.plain[a]
        if plain.op not in OPS or not OPS[plain.op].elementwise:
            if atom.kind in SINGLE and not cell:
                raise TooLarge  # its diagram may ask for this factor
            return one(a)  # other elements count, too
        args = [self._replaced(f, atom, value, known, cell) for f in plain.args if isinstance(f, Form)]
        value = self.called(plain.op, args, plain, cell)
        if a.op != SIZE or plain.range[0] >= 0:
            return value
        return self.algebra.scaled(value, -1) if plain.range[1] <= 0 else self.raised(value, 0, 1, cell)

    def reduced(self, test: Test, children: Mapping[int, Diagram]) -> Diagram:
        """The node of a test, or one diagram that says as much."""
        if len({c.digest for c in children.values()}) == 1 and test.rank != THRESHOLD:
            return next(iter(children.values()))
        if len(children) == 1:
            return next(iter(children.values()))
        try:
            merged = self.merged(test, children)
        except (Unknown, TooLarge):
            merged = None
        return Node(test, children) if merged is None else merged

    def merged(self, test: Test, children: Mapping[int, Diagram]) -> Diagram | None:
        """One diagram for all answers."""
        if test.rank == SIGN:
            ((mono, _),) = test.form.terms.items()
            plain = mono[0][0]
            size, signed = self.made(SIZE, plain), self.made(SIGNED, plain)

            def alike(forms: dict[int, Form]) -> Form | None:
                return self.alike(forms, size, signed)

            return zipped(children, alike, self.reduced, [size])
        if 1 not in children or -1 not in children:
            return self.moved(test, children)
        whole = zipped(children, lambda forms: self.continued(forms, test), self.reduced, [])
        return whole if whole is not None else self.moved(test, children)

    def alike(self, forms: dict[int, Form], size: Atom, signed: Atom) -> Form | None:
        """The form whose values at |x|, 0 and -|x| these are."""
        top = forms.get(1, forms.get(-1))
        assert top is not None
        zeros = self.zeros.get(self.plain[size], frozenset())
        if size not in atoms_in(top):
            same = forms.get(-1, top) == top and (0 not in forms or self.with_zeros(top, zeros, {}) == forms[0])
            return top if same else None
        if 1 not in forms or not _grows(top, size):
            return None
        if 0 in forms and self.with_zeros(self.replaced(top, size, ZERO, {}), zeros, {}) != forms[0]:
            return None
        if -1 in forms and self.replaced(top, size, self.algebra.scaled(one(size), -1), {}) != forms[-1]:
            return None
        return self.replaced(top, size, one(signed), {})

    def continued(self, forms: dict[int, Form], test: Test) -> Form | None:
        """The form that holds above and below a threshold, and on it."""
        if 1 not in forms or -1 not in forms or forms[1] != forms[-1]:
            return None
        return (
            forms[1]
            if 0 not in forms or self.algebra.shortest(self.where_zero(forms[1], test, {})) == forms[0]
            else None
        )

    def moved(self, test: Test, children: Mapping[int, Diagram]) -> Diagram | None:
        """Of a whole number: with the least threshold of those that say the same."""
        if not test.whole or 1 not in children or 0 not in children:
            return None
        atoms = [i[0] for m in test.form.terms for i in m]
        first = test
        while children[0].digest == self.at(children[1], test, atoms).digest:
            half = Fraction(round(2 * test.threshold) - 1, 2)
            test = self.floored(replace(test, threshold=float(half), exact=constant(half)))
            low, _ = test.bounds
            if test.threshold < low:
                return children[1]
            if -1 not in children:
                return None
            below = children[-1]
            children = {1: children[1], 0: self.at(below, test, atoms)}
            if test.threshold > low:
                children[-1] = below
        if test is first:
            return None
        if -1 in children:
            return self.reduced(test, children)
        return Node(test, children)

    def at(self, diagram: Diagram, test: Test, atoms: Collection[Atom]) -> Diagram:
        """A diagram where a test's quantity is its threshold."""
        if isinstance(diagram, Leaf):
            return Leaf(self.algebra.shortest(self.where_zero(diagram.form, test, {})))
        other = diagram.test
        if other.rank == THRESHOLD and other.quantity == test.quantity and other.threshold != test.threshold:
            child = diagram.children.get(1 if test.threshold > other.threshold else -1)
            if child is not None:
                return self.at(child, test, atoms)
        if any(a in atoms_in(other.form) for a in atoms):
            raise TooLarge
        kept = {v: self.at(child, test, atoms) for v, child in diagram.children.items()}
        return self.reduced(other, kept)


def _grows(x: Form, atom: Atom) -> bool:
    """Whether a factor stands in positive powers alone, however deep."""
    for mono in x.terms:
        for a, _, r in mono:
            if a is atom and r <= 0:
                return False
            if a.op == SUM and not all(_grows(f, atom) for f in a.args if isinstance(f, Form)):
                return False
    return True
