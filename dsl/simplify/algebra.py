"""Arithmetic on forms: sums, products and powers, where x / 0 is 0.

Every method gives None where its rule is switched off or a side condition fails; the caller then keeps the call as it
is. The side conditions throughout: values are finite, since Inf - Inf is not 0; and what may be NaN stays in the form.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from fractions import Fraction

from ..interval import Interval
from ..kind import Kind
from .form import (
    ONE,
    PRIME,
    SHAPE,
    SUM,
    Atom,
    Form,
    Item,
    Mono,
    Number,
    constant,
    hashed,
    magnitude,
    shaped,
    tidy,
)

_NESTED = 4  # sums that are gathered inside the gathering of sums
_TRIED = 1000  # divisors tried in taking roots of numbers
_MOST_BITS = 1000  # of a coefficient's numerator and denominator
ZERO, UNIT = constant(0), constant(1)
SINGLE = (Kind.GLOBAL, Kind.SCALAR)


class TooLarge(Exception):
    """A form outgrew the limits; the program is left as it is."""


class Algebra:
    """Forms over one table of atoms. `off` names rules that are not used."""

    most_terms = 24  # of a sum; a longer one is not looked into
    expanded = 8  # terms that a product of two sums may give

    def __init__(self, off: Collection[str] = ()) -> None:
        self.off = frozenset(off)
        self.atoms: dict[tuple[object, ...], Atom] = {}
        self.nested = 0  # sums being gathered: one may undo what another did

    def uses(self, rule: str) -> bool:
        """Whether a rule may be used."""
        return rule not in self.off

    def atom(
        self,
        op: str,
        args: tuple[Form, ...],
        kind: Kind,
        range_: Interval,
        finite: bool = True,
        defined: bool = True,
        nonzero: bool = False,
    ) -> Atom:
        """The one atom for a call."""
        args = tuple(self.opened(a) for a in args) if op != SUM else args
        key = (op, *(a.digest for a in args))
        if key not in self.atoms:
            shape = shaped(f"{op}({','.join(a.digest[:SHAPE] for a in args)})")
            digest = shape + hashed(f"{op}({','.join(a.digest for a in args)})")
            self.atoms[key] = Atom(op, args, kind, digest, range_, finite, defined, nonzero)
        return self.atoms[key]

    # --- sums ---

    def scaled(self, x: Form, c: Number) -> Form:
        """Several times a form; finite if c is 0."""
        if c == 1:
            return x
        return self._checked(Form({m: tidy(c * k) for m, k in x.terms.items()} if c else {}))

    def sum(self, x: Form, y: Form, c: Number = 1) -> Form | None:
        """X + c y: like terms are collected."""
        if not self.uses("collect like terms"):
            return None
        x, y = self.opened(x), self.opened(y)
        small, large, factor = (y, x, c) if c != 1 or len(y.terms) <= len(x.terms) else (x, y, 1)
        terms = dict(large.terms)
        for mono, k in small.terms.items():
            k = tidy(k * factor)
            if mono not in terms:
                terms[mono] = k
                continue
            if (terms[mono] < 0) != (k < 0) and not all(a.finite for a, _, _ in mono):
                return None  # Inf - Inf
            total = tidy(terms[mono] + k)
            if not total and not all(a.defined for a, _, _ in mono):
                return None  # NaN - NaN
            terms[mono] = total
            if not total:
                del terms[mono]
        if len(terms) > self.most_terms:
            raise TooLarge
        return self.gathered(self._checked(Form(terms)))

    def gathered(self, x: Form) -> Form:
        """A (b + c)^-1 b + a (b + c)^-1 c is a."""
        if len(x.terms) < 2 or self.nested > _NESTED:
            return x
        for item in {i: None for m in x.terms for i in m if i[0].op == SUM}:
            if self.uses("masks by signs") and item[1:] == (1, 0):
                continue  # |x| is to stay sign(x) x
            base = sum_of(item[0])
            lead = self.lead(base)
            for mono, c in x.terms.items():
                if item in mono:
                    self.nested += 1
                    found = self._without_sum(x, item, base, lead, mono, c)
                    self.nested -= 1
                    if found is not None:
                        return found
        return x

    def _without_sum(self, x: Form, item: Item, base: Form, lead: Mono, mono: Mono, c: Number) -> Form | None:
        """The form where mono is what a factor times the lead of a sum gives, and all that the sum gives is there."""
        taken = {a: (p, r) for a, p, r in lead}
        rest = []
        for atom, p, r in mono:
            if atom is item[0]:
                continue
            q, s = taken.pop(atom, (0, 0))
            if r != s or q != p:
                rest.append((atom, (p + q) % 2, tidy(r - s)))
        if taken:
            return None
        k = Fraction(c) / base.terms[lead]
        factor = self.from_items([*rest, item], 1)
        if factor is None or len(factor.terms) != 1:
            return None
        ((whole, one),) = factor.terms.items()
        kept = dict(x.terms)
        for other, d in base.terms.items():
            part = self.mono_product(whole, one, other, tidy(k * d)) if other else Form({whole: tidy(k * d)})
            if part is None or len(part.terms) != 1:
                return None
            ((key, wanted),) = part.terms.items()
            if kept.pop(key, None) != wanted:
                return None
        merged = self.from_items([*rest, (item[0], (item[1] + 1) % 2, tidy(item[2] + 1))], tidy(k))
        return None if merged is None else self.sum(Form(kept), merged)

    @staticmethod
    def _checked(x: Form) -> Form:
        """The form, if a float can hold its coefficients."""
        for k in x.terms.values():
            if isinstance(k, Fraction):
                if k.denominator.bit_length() + k.numerator.bit_length() > _MOST_BITS:
                    raise TooLarge
            elif k.bit_length() > _MOST_BITS:
                raise TooLarge
        return x

    # --- products ---

    def product(self, x: Form, y: Form) -> Form | None:
        """X y: exponents add; a sum stays one factor until it is added to something (see `opened`)."""
        for a, b in ((x, y), (y, x)):
            if a.number is not None:
                return self.scaled(b, a.number) if a.number or b.total else None
        if not (x.finite and y.finite) or not self.uses("exponents add"):
            return None
        (left, k), *_ = self.based(x).terms.items()
        (right, c), *_ = self.based(y).terms.items()
        return self.mono_product(left, k, right, c)

    def opened(self, x: Form) -> Form:
        """A product of sums multiplied out, where that is short."""
        single = x.single
        if single is None or not self.uses("multiply out"):
            return x
        mono, c = single
        if self.uses("masks by signs"):
            mono = tuple(j for i in mono for j in _size_by_sign(i))
        sums = [i for i in mono if _is_plain_sum(i)]
        if not sums or (len(sums) > 1 and math.prod(len(sum_of(i[0]).terms) for i in sums) > self.expanded):
            return x
        rest = tuple(i for i in mono if i not in sums)
        total = Form({rest: c})
        for atom, _, _ in sums:
            base = sum_of(atom)
            found: Form | None = ZERO
            for left, a in total.terms.items():
                for right, b in base.terms.items():
                    part = self.mono_product(left, a, right, b)
                    found = None if part is None or found is None else self.sum(found, part)
            if found is None:
                return x
            total = found
        return total

    def mono_product(self, x: Mono, cx: Number, y: Mono, cy: Number) -> Form | None:
        """The product of two products."""
        if not x or not y:
            return Form({x or y: tidy(cx * cy)})
        c = cx * cy
        items = {i[0]: i for i in x}
        for atom, p, r in y:
            if atom in items:
                _, q, s = items[atom]
                p, r = (p + q) % 2, tidy(r + s)
            items[atom] = (atom, p, r)
        return self.from_items(items.values(), c)

    def from_items(self, items: Iterable[Item], c: Number) -> Form | None:
        """The product of factors, each there once, and a number."""
        done: list[Item] = []
        for item in items:
            atom, p, r = item
            if atom.op == PRIME:
                whole = math.floor(r)
                base = atom.args[0]
                assert isinstance(base, int)
                c *= Fraction(base) ** whole
                if r != whole:
                    done.append((atom, 0, tidy(r - whole)))
                continue
            if p and atom.range[0] >= 0:
                p = 0
            elif p and atom.range[1] <= 0:
                p, c = 0, -c
            if atom.is_mask:
                p, r = 0, 1
            elif atom.op == SUM and isinstance(r, int) and not _is_plain_sum(item) and sum_of(atom).mask_multiple:
                k = sum_of(atom).mask_multiple  # k x is 0 or 1, so all its powers are itself
                c *= Fraction(magnitude(k)) ** -r * k * (-1 if p and k < 0 else 1)
                p, r = 1 if atom.range[0] < 0 else 0, 1
            if p == 0 and r == 0 and atom.nonzero and atom.defined:
                continue
            done.append((atom, p, r))
        mono = tuple(sorted(i for i in done if not _is_implied(i, done)))
        if _hides_nan(mono):
            return None
        return self._checked(Form({mono: tidy(c)}))

    # --- powers ---

    def power(self, x: Form, p: int, r: Number) -> Form | None:
        """sign(x)^p |x|^r."""
        if p == 1 and r == 1:
            return x
        if x.number is not None:
            return self.number_power(x.number, p, r)
        if x.is_mask:
            return x
        if not x.finite or not self.uses("exponents add"):
            return None
        if len(x.terms) > 1:
            x = self.based(x)
        (mono, c), *_ = x.terms.items()
        factor = self.number_power(c, p, r)
        items = [(a, p * q, tidy(r * s)) for a, q, s in mono]
        found = self.from_items(items, 1)
        return None if found is None else self.product(factor, found)

    def number_power(self, c: Number, p: int, r: Number) -> Form:
        """Of a rational number: exact, with roots of primes."""
        if c == 0:
            return ZERO
        sign = -1 if p and c < 0 else 1
        c = magnitude(c)
        if r == int(r):
            if abs(int(r)) > 64:
                raise TooLarge
            return constant(sign * Fraction(c) ** int(r))
        found = constant(sign)
        for base, times_ in (
            *_factors(Fraction(c).numerator),
            *((b, -n) for b, n in _factors(Fraction(c).denominator)),
        ):
            exponent = r * times_
            whole = math.floor(exponent)
            if abs(whole) > 200:
                raise TooLarge
            found = self.scaled(found, Fraction(base) ** whole)
            if exponent != whole:
                prime = self._prime(base)
                part = self.product(found, Form({((prime, 0, tidy(exponent - whole)),): 1}))
                assert part is not None
                found = part
        return found

    def _prime(self, base: int) -> Atom:
        key = (PRIME, base)
        if key not in self.atoms:
            self.atoms[key] = Atom(
                PRIME, (base,), Kind.GLOBAL, shaped(PRIME) + hashed(f"prime {base}"), (float(base), float(base))
            )
        return self.atoms[key]

    def based(self, x: Form) -> Form:
        """A sum as one factor."""
        if len(x.terms) == 1:
            return x
        shared, x = self.common(x)
        k, prim = self.primitive(x)
        base = self.base(prim)
        p = 0 if base.range[0] >= 0 else 1
        return Form({tuple(sorted((*shared, (base, p, 1)))): k})

    def common(self, x: Form) -> tuple[Mono, Form]:
        """The factors that all products of a sum have, and the sum without them.

        A number per tensor that is never 0 leaves the leading product whether others have it or not.
        """
        if not self.uses("multiply out") or len(x.terms) < 2:
            return (), x
        shared = self._shared(x)
        if shared:
            taken = {a: (p, r) for a, p, r in shared}
            terms: dict[Mono, Number] = {}
            for mono, c in x.terms.items():
                left = ((a, *_less(p, r, *taken.get(a, (0, 0)))) for a, p, r in mono)
                terms[tuple(i for i in left if i[1] or i[2] or i[0] not in taken)] = c
            if len(terms) < len(x.terms):
                return (), x
            x = Form(terms)
        if x.kind in SINGLE or (ONE in x.terms and len(x.terms) == 1):
            return shared, x
        out = tuple(
            i for i in self.lead(x) if i[0].kind in SINGLE and i[0].nonzero and i[0].defined and i[0].op != PRIME
        )
        if not out:
            return shared, x
        under = {i[0]: (i[1], tidy(-i[2])) for i in out}
        terms = {}
        for mono, c in x.terms.items():
            part = self.mono_product(mono, c, tuple((a, p, r) for a, (p, r) in under.items()), 1)
            if part is None or len(part.terms) != 1:
                return shared, x
            terms.update(part.terms)
        if len(terms) < len(x.terms):
            return shared, x
        both = self.mono_product(shared, 1, out, 1) if shared else Form({out: 1})
        if both is None:
            return shared, x
        ((mono, _),) = both.terms.items()
        return mono, Form(terms)

    @staticmethod
    def _shared(x: Form) -> Mono:
        """The least power of each atom that is in every product, on one side of the fraction bar."""
        first, *others = ({i[0]: i for i in m} for m in x.terms)
        shared = []
        for atom, item in first.items():
            items = [item, *(m[atom] for m in others if atom in m)]
            same = all(i == item for i in items)
            if len(items) == len(x.terms) and (
                same or len({i[2] > 0 for i in items} | {i[2] == 0 for i in items}) == 2
            ):
                least = min(items, key=lambda i: (magnitude(i[2]), i[1]))
                if same or (least[2] and all(i[2] != least[2] or i == least for i in items)):
                    shared.append(least)
        return tuple(shared)

    def base(self, prim: Form) -> Atom:
        """The atom of a sum that is raised to a power."""
        return self.atom(SUM, (prim,), prim.kind, prim.range, prim.finite, prim.defined, prim.nonzero)

    def lead(self, x: Form) -> Mono:
        """The product whose coefficient stands for the scale of a sum."""
        return min(x.terms, key=_by_tensors)

    def primitive(self, x: Form) -> tuple[Number, Form]:
        """A form as a number times one whose leading coefficient is 1."""
        if not x.terms:
            return 1, x
        c = x.terms[self.lead(x)]
        return c, x if c == 1 else self.scaled(x, Fraction(1) / c)


def _less(p: int, r: Number, q: int, s: Number) -> tuple[int, Number]:
    """A power divided by another."""
    return (p + q) % 2, tidy(r - s)


def _by_tensors(mono: Mono) -> tuple[object, ...]:
    """Products in an order that numbers per tensor have no part in, but among equals."""
    tensors = [(a.digest, p, r) for a, p, r in mono if a.kind not in SINGLE]
    return not tensors, tensors, [(a.digest, p, r) for a, p, r in mono if a.kind in SINGLE]


def sum_of(atom: Atom) -> Form:
    """The sum that is raised to a power."""
    (base,) = atom.args
    assert isinstance(base, Form)
    return base


def _is_implied(item: Item, others: Sequence[Item]) -> bool:
    """Whether a factor is [|x| != 0] beside x itself, which is 0 where that is."""
    atom, p, r = item
    if p or r or atom.op not in ("global_norm", "norm", "rms"):
        return False
    (inside,) = atom.args
    assert isinstance(inside, Form)
    if not inside.single:
        return {inside} <= {sum_of(a) if a.op == SUM else a for a, _, _ in others}
    wanted = {a for m in inside.terms for a, _, _ in m}
    if atom.op == "global_norm" and any(_has(a, wanted) for a, _, _ in others if a.op == "dot"):
        return True
    return wanted <= {a for a, _, _ in others}


def _has(dot: Atom, wanted: set[Atom]) -> bool:
    """Whether one side of a dot product is a product of these among others."""
    singles = [a.single for a in dot.args if isinstance(a, Form)]
    return any(s is not None and wanted <= {a for a, _, _ in s[0]} for s in singles)


def _size_by_sign(item: Item) -> tuple[Item, ...]:
    """|x| as sign(x) x."""
    atom, p, r = item
    return ((atom, 1, 0), (atom, 1, 1)) if atom.op == SUM and (p, r) == (0, 1) and atom.range[0] < 0 else (item,)


def _is_plain_sum(item: Item) -> bool:
    """Whether a factor is a sum itself."""
    atom, p, r = item
    return atom.op == SUM and r == 1 and (p == 1 or atom.range[0] >= 0)


def _hides_nan(mono: Mono) -> bool:
    """Whether a factor may be NaN and another a quotient by 0: NaN / 0 is 0, and NaN * (1 / 0) is NaN."""
    return any(not u.defined and any(z is not u and r < 0 and not z.nonzero for z, _, r in mono) for u, _, _ in mono)


def _factors(n: int) -> list[tuple[int, int]]:
    """Small primes and what is left, a root taken where it is a power."""
    found: list[tuple[int, int]] = []
    for p in range(2, _TRIED):
        if n == 1:
            return found
        times_ = 0
        while n % p == 0:
            n //= p
            times_ += 1
        if times_:
            found.append((p, times_))
    if n > 1:
        found.append(_root(n))
    return found


def _root(n: int) -> tuple[int, int]:
    for k in (6, 5, 4, 3, 2):
        root = round(n ** (1 / k)) if n.bit_length() < 900 else 0
        if root and root**k == n:
            return root, k
    return n, 1
