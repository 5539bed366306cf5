"""Comparisons, choices, maxima and clips on forms.

For `simplify` a comparison is an atom that is 0 or 1. For `key` (the rule "masks by signs") it is
(sign(x)^2 + sign(x)) / 2, so that masks, choices, maxima and clips, however spelled, are one form.
"""

from __future__ import annotations

from fractions import Fraction

from .algebra import UNIT, ZERO, Algebra, sum_of
from .form import HALF, ONE, SUM, Atom, Form, Item, constant, magnitude, of_atom, tidy


class Choices(Algebra):
    """An algebra with comparisons and choices."""

    def positive(self, x: Form) -> Form | None:
        """1 where x > 0, else 0."""
        if not x.total:
            return None
        low, high = x.range
        if low > 0 or (low >= 0 and x.nonzero):
            return UNIT
        if high <= 0:
            return ZERO
        if x.is_mask:
            return x
        if self.uses("masks by signs"):
            some, sign = self.power(x, 0, 0), self.power(x, 1, 0)
            both = None if some is None or sign is None else self.sum(some, sign)
            return None if both is None else self.scaled(both, HALF)
        single = x.single
        if single is None:
            shared, x = self.common(x)
            if shared:
                single = next(iter(self.based(x).terms.items()))
                single = (*shared, *single[0]), single[1]
        if single is None:
            k, prim = self.primitive(x)
            return of_atom(self._above(prim if k > 0 else self.scaled(prim, -1)))
        mono, c = single
        kept: Form | None = UNIT
        signs: list[Item] = []
        for item in mono:
            if item[1]:
                signs.append((item[0], 1, 1))
            elif not item[0].nonzero:
                part = self.from_items([(item[0], 0, 0)], 1)
                kept = None if part is None or kept is None else self.product(kept, part)
        if kept is None:
            return None
        if not signs:
            return kept if c > 0 else ZERO
        signed = self.from_items(sorted(signs), 1 if c > 0 else -1)
        return None if signed is None else self.product(kept, of_atom(self._above(signed)))

    def _above(self, x: Form) -> Atom:
        return self.atom("greater", (x, ZERO), x.kind, (0.0, 1.0))

    def where(self, c: Form, x: Form, y: Form) -> Form | None:
        """X where c is not 0, else y: y + [c != 0] (x - y)."""
        if not (c.total and x.total and y.total):
            return None
        chosen = self.power(c, 0, 0)
        difference = self.sum(x, y, -1)
        if chosen is None or difference is None:
            return None
        if self.uses("masks by signs"):
            ratio = self._limited(chosen, x, y)
            if ratio is not None:
                return ratio
        bent = self._by_its_sign(chosen, difference)
        if bent:
            smallest = self.maximum(self.scaled(x, -1), self.scaled(y, -1)) if bent < 0 else None
            return self.maximum(x, y) if bent > 0 else None if smallest is None else self.scaled(smallest, -1)
        part = self.product(chosen, difference)
        return None if part is None else self.sum(y, part)

    def _by_its_sign(self, chosen: Form, difference: Form) -> int:
        """1 where a choice takes the larger of two values, -1 the smaller, 0 neither."""
        if chosen.is_mask and len(chosen.terms) == 2:  # 1 - [y > x]
            return -self._by_its_sign(Form({m: -c for m, c in chosen.terms.items() if m != ONE}), difference)
        single = chosen.single
        if single is None or single[1] != 1 or len(single[0]) != 1 or single[0][0][0].op != "greater":
            return 0
        above, below = single[0][0][0].args
        assert isinstance(above, Form)
        if below != ZERO:
            return 0
        (k, left), (c, right) = self.primitive(above), self.primitive(difference)
        return 0 if left != right else 1 if (k > 0) == (c > 0) else -1

    def maximum(self, x: Form, y: Form) -> Form | None:
        """max(x, y) = (x + y + |x - y|) / 2."""
        if not (x.finite and y.finite):
            return None
        d = self.sum(x, y, -1)
        if d is None:
            return None
        if d.range[0] >= 0 and y.defined:
            return x
        if d.range[1] <= 0 and x.defined:
            return y
        if self.uses("masks by signs"):
            for a, b in ((x, y), (y, x)):
                found = self._clamped(a, b) or self._least_ratio(a, b)
                if found is not None:
                    return found
        size, both = self.power(d, 0, 1), self.sum(x, y)
        twice = None if size is None or both is None else self.sum(both, size)
        return None if twice is None else self.scaled(twice, HALF)

    # --- what has many spellings ---

    def limit(self, norm: Form, c: Form) -> Form | None:
        """1 / max(norm, c)."""
        largest = self.maximum(norm, c)
        return None if largest is None else self.power(largest, 1, -1)

    def _least_ratio(self, x: Form, y: Form) -> Form | None:
        """min(a, b / n) is [n != 0] b / max(n, b / a), and min(a, b n) is a n / max(n, a / b).

        Takes -a and -b / n or -b n, and gives the maximum of them.
        """
        a, single = x.number, y.single
        if a is None or a >= 0 or single is None or single[1] >= 0 or len(single[0]) != 1:
            return None
        ((atom, _, r),) = single[0]
        if magnitude(r) != 1 or atom.range[0] < 0:
            return None
        if r == 1:
            limit = self.limit(of_atom(atom), constant(a / Fraction(single[1])))
            least = None if limit is None else self.product(limit, of_atom(atom))
            return None if least is None else self.scaled(least, a)
        limit = self.limit(of_atom(atom), constant(Fraction(single[1]) / a))
        some = self.power(of_atom(atom), 0, 0)
        part = None if limit is None or some is None else self.product(limit, some)
        return None if part is None else self.scaled(part, single[1])

    def _limited(self, chosen: Form, x: Form, y: Form) -> Form | None:
        """X where n < c, else x c / n: x c / max(n, c)."""
        for plain, divided in ((y, x), (x, y)):
            whole, part = self.based(plain).single, self.based(divided).single
            if whole is None or part is None:
                continue
            extra = [i for i in part[0] if i not in whole[0]]
            bound = tidy(Fraction(part[1]) / whole[1])
            if len(extra) != 1 or len(part[0]) != len(whole[0]) + 1 or extra[0][2] != -1 or bound <= 0:
                continue
            norm: Item = (extra[0][0], 0, 1)
            n, c = Form({(norm,): 1}), constant(bound)
            if norm[0].range[0] < 0 or chosen not in (self._compared(n, c) if divided is x else self._compared(c, n)):
                continue
            limit = self.limit(n, c)
            kept = None if limit is None else self.product(limit, Form({whole[0]: whole[1]}))
            return None if kept is None else self.scaled(kept, bound)
        return None

    def _compared(self, x: Form, y: Form) -> tuple[Form, ...]:
        """X > y and x >= y."""
        difference = self.sum(x, y, -1)
        back = self.sum(y, x, -1)
        above = None if difference is None else self.positive(difference)
        below = None if back is None else self.positive(back)
        least = None if below is None else self.sum(UNIT, below, -1)
        return tuple(f for f in (above, least) if f is not None)

    def _clamped(self, x: Form, y: Form) -> Form | None:
        """max(min(z, b), a) for a <= b is (a + b + |z - a| - |z - b|) / 2."""
        a = y.number
        if a is None:
            return None
        for atom in {i[0]: None for m in x.terms for i in m if i[0].op == SUM and i[1:] == (1, 0)}:
            base = sum_of(atom)
            lead = self.lead(base)
            bent = self.mono_product(lead, 1, ((atom, 1, 0),), 1)
            if bent is None or bent.single is None or bent.single[0] not in x.terms:
                continue
            k = Fraction(x.terms[bent.single[0]]) / base.terms[lead]  # -1/2 of what |z - b| is of |base|
            size = self.power(base, 0, 1)
            rest = None if size is None else self.sum(x, size, -k)  # (z + b) / 2
            ends = [None if rest is None else self.sum(rest, base, s * k) for s in (1, -1)]
            over, b = ends if ends[1] is not None and ends[1].number is not None else ends[::-1]
            if over is None or b is None or b.number is None or b.number < a or k >= 0:
                continue
            low, high = self.sum(over, y, -1), self.sum(over, b, -1)
            sizes = [None if d is None else self.power(d, 0, 1) for d in (low, high)]
            if sizes[0] is None or sizes[1] is None:
                continue
            bends = self.sum(sizes[0], sizes[1], -1)
            whole = None if bends is None else self.sum(bends, constant(a + b.number))
            return None if whole is None else self.scaled(whole, HALF)
        return None
