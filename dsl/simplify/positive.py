"""Quotients of sums of positive factors: what forms are where the signs of all that matters are known."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from fractions import Fraction

from .algebra import ZERO, Algebra, TooLarge, sum_of
from .form import PRIME, SUM, Atom, Form, Item, Mono, Number, tidy

_MOST = 120  # terms of a sum
_DIVISIONS = 40
_MOST_PRODUCTS = 8_000  # a program that needs more is known by its normal form


class Positive(Algebra):
    """Forms of which every atom but the signed ones is positive."""

    most_terms = _MOST
    expanded = _MOST

    def __init__(self) -> None:
        super().__init__(off=("masks by signs",))
        self.left = _MOST_PRODUCTS
        self.together: dict[Form, Form] = {}

    def base(self, prim: Form) -> Atom:
        """The atom of a sum that is positive."""
        low, high = prim.range
        range_ = (max(low, 0.0), high) if high > 0 else (0.0, math.inf)  # a cell that is not there
        return self.atom(SUM, (prim,), prim.kind, range_, nonzero=True)

    def gathered(self, x: Form) -> Form:
        """Fractions are brought together at the end."""
        return x

    def mono_product(self, x: Mono, cx: Number, y: Mono, cy: Number) -> Form | None:
        """The product of two products, which may be fractions."""
        return super().mono_product(x, cx, y, cy) if x and y else self.from_items(x or y, cx * cy)

    def from_items(self, items: Iterable[Item], c: Number) -> Form | None:
        """A product; a factor's power 0 is 1."""
        return super().from_items([i for i in items if i[2] or i[1]], c)

    def opened(self, x: Form) -> Form:
        """Sums are multiplied out when fractions are brought together, so that what is positive is seen to be."""
        return x

    def common(self, x: Form) -> tuple[Mono, Form]:
        """The least power of every factor leaves a sum; of a signed one as far as all products have it."""
        atoms = {a: None for m in x.terms for a, _, _ in m if a.op != PRIME}
        shared: list[Item] = []
        for atom in atoms:
            powers = [next((r for a, _, r in m if a is atom), 0) for m in x.terms]
            least = min(powers)
            if least and (atom.nonzero or least > 0):
                shared.append((atom, parity(atom, least), least))
        lead = self.lead(x)
        shared += [i for i in lead if i[0].op == PRIME]
        mono = tuple(sorted(shared))
        return mono, self.divided(x, mono) if mono else x

    def divided(self, x: Form, mono: Mono) -> Form:
        """X over a product."""
        inverse = tuple((a, p, tidy(-r)) for a, p, r in mono)
        terms: dict[Mono, Number] = {}
        for m, c in x.terms.items():
            part = self.mono_product(m, c, inverse, 1)
            assert part is not None
            terms.update(part.terms)
        return Form(terms)

    def plus(self, x: Form, y: Form, c: Number = 1) -> Form:
        """X + c y."""
        return there(self.sum(x, y, c))

    def times(self, x: Form, y: Form) -> Form:
        """X y, multiplied out."""
        self.left -= 1
        if self.left < 0:
            raise TooLarge
        total = ZERO
        for left, a in x.terms.items():
            for right, b in y.terms.items():
                total = self.plus(total, there(self.mono_product(left, a, right, b)))
        return total

    def raised(self, x: Form, r: Number) -> Form:
        """Of a single positive product."""
        assert x.single is not None
        mono, c = x.single
        found = there(self.from_items([(a, p, tidy(r * s)) for a, p, s in mono], 1))
        return self.times(found, self.number_power(c, 0, r))

    def shortest(self, x: Form) -> Form:
        """Fractions brought together, and sums that divide the numerator taken out."""
        if x not in self.together:
            self.together[x] = self._shortest(x)
        return self.together[x]

    def _shortest(self, x: Form) -> Form:
        x = self.unfolded(x)
        sums = {a: None for m in x.terms for a, _, r in m if a.op == SUM and r < 0}
        under: list[Item] = []
        for atom in sorted(sums):
            k = tidy(-min(next((r for a, _, r in m if a is atom), 0) for m in x.terms))
            if k > 0:
                x = self.times(x, Form({((atom, 0, k),): 1}))
                under.append((atom, 0, k))
        if not under:
            return x
        x = self.unfolded(x)
        left: list[Item] = []
        for atom, _, k in under:
            while k >= 1:
                quotient = self.quotient(x, sum_of(atom))
                if quotient is None:
                    break
                x, k = quotient, tidy(k - 1)
            if k:
                left.append((atom, 0, tidy(-k)))
        return self.unfolded(self.times(x, Form({tuple(left): 1}))) if left else x

    def unfolded(self, x: Form) -> Form:
        """Whole powers of sums multiplied out."""
        total = ZERO
        for mono, c in x.terms.items():
            part = Form({tuple(i for i in mono if not (i[0].op == SUM and i[2] >= 1)): c})
            for atom, _, r in mono:
                if atom.op != SUM or r < 1:
                    continue
                whole = math.floor(r)
                if r != whole:
                    part = self.times(part, Form({((atom, 0, tidy(r - whole)),): 1}))
                for _ in range(whole):
                    part = self.times(part, sum_of(atom))
            total = self.plus(total, part)
        again = any(a.op == SUM and r >= 1 for m in total.terms for a, _, r in m)
        return self.unfolded(total) if again else total

    def quotient(self, x: Form, y: Form) -> Form | None:
        """X / y where it comes out even."""
        order = _order([x, y])
        top = max(y.terms, key=order)
        found, rest = ZERO, x
        for _ in range(_DIVISIONS):
            if not rest.terms:
                return found
            lead = max(rest.terms, key=order)
            ratio = there(self.mono_product(lead, rest.terms[lead], tuple((a, p, tidy(-r)) for a, p, r in top), 1))
            ((mono, c),) = ratio.terms.items()
            c = Fraction(c) / y.terms[top]
            if any(r < 0 and not a.nonzero for a, _, r in mono) or not _within(mono, x, y):
                return None
            part = Form({mono: tidy(c)})
            found = self.plus(found, part)
            rest = self.plus(rest, self.times(part, y), -1)
        return None


def there(x: Form | None) -> Form:
    """A form that is always there where factors are positive; raises TooLarge."""
    if x is None:
        raise TooLarge
    return x


def parity(atom: Atom, r: Number) -> int:
    """Of a whole power of a factor that may be negative; its sign counts where it is odd."""
    return int(r) % 2 if atom.range[0] < 0 else 0


def _order(forms: Iterable[Form]) -> Callable[[Mono], list[Number]]:
    atoms = sorted({a for f in forms for m in f.terms for a, _, _ in m})

    def key(mono: Mono) -> list[Number]:
        powers = {a: r for a, _, r in mono}
        return [powers.get(a, 0) for a in atoms]

    return key


def _within(mono: Mono, x: Form, y: Form) -> bool:
    """Whether a term of a quotient has powers that a quotient of these may have."""
    for atom, _, r in mono:

        def spread(f: Form, pick: Callable[[Iterable[Number]], Number], atom: Atom = atom) -> Number:
            return pick([next((s for a, _, s in m if a is atom), 0) for m in f.terms])

        if r > spread(x, max) - spread(y, max) or r < spread(x, min) - spread(y, min):
            return False
    return True
