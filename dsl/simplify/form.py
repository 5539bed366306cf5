"""Forms: sums of products of powers with exact coefficients, equal values equal objects as far as rules go.

A power of x is kept as sign(x)^p |x|^r with p 0 or 1 and r rational, because that is what the language's powers,
roots, quotients and signs are: x is (1, 1), x * x is (0, 2), sqrt(x) is (0, 1/2), 1 / x is (1, -1), sign(x) is
(1, 0), and (0, 0) is 1 where x is not 0. With x / 0 = 0 they multiply by adding exponents, whatever x is, as long as
it is finite.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable
from fractions import Fraction
from typing import TypeAlias

from ..interval import Interval, times
from ..kind import Kind, join

Number: TypeAlias = int | Fraction
HALF = Fraction(1, 2)
SUM, PRIME = "+", "prime"  # atoms that are no call of a row


class Atom:
    """What a form does not look into: an input, a call, a root of a prime, a sum that is raised to a power."""

    __slots__ = ("args", "defined", "digest", "finite", "is_mask", "kind", "nonzero", "op", "range")

    def __init__(
        self,
        op: str,
        args: tuple[Form | int, ...],
        kind: Kind,
        digest: str,
        range_: Interval,
        finite: bool = True,
        defined: bool = True,
        nonzero: bool = False,
    ) -> None:
        self.op, self.args, self.kind, self.digest = op, args, kind, digest
        self.range, self.finite, self.defined = range_, finite, defined
        self.nonzero = nonzero or range_[0] > 0 or range_[1] < 0
        self.is_mask = op == "greater"

    def __lt__(self, other: Atom) -> bool:
        return self.digest < other.digest


Item: TypeAlias = tuple[Atom, int, Number]  # sign(x)^p |x|^r
Mono: TypeAlias = tuple[Item, ...]  # by digest
ONE: Mono = ()
SHAPE = 8  # letters of a digest that do not depend on numbers
_PLAIN_ENDS = frozenset({0.0, 1.0, -1.0, math.inf, -math.inf})  # products with these are exact
_MOST_SIGNS = 3  # atoms whose signs are tried


class Form:
    """A sum: coefficients of products."""

    __slots__ = ("_digest", "_hash", "_kind", "_mask", "_range", "terms")

    def __init__(self, terms: dict[Mono, Number]) -> None:
        self.terms = terms
        self._digest: str | None = None
        self._hash: int | None = None
        self._kind: Kind | None = None
        self._range: Interval | None = None
        self._mask: Number | None = None

    @property
    def digest(self) -> str:
        """Equal for equal forms. It begins with what does not depend on numbers, so that order does not either."""
        if self._digest is None:
            shape = sorted(shaped("*".join(f"{a.digest[:SHAPE]}^{p},{r}" for a, p, r in m)) for m in self.terms)
            each = sorted(f"{c}{''.join(f'*{a.digest}^{p},{r}' for a, p, r in m)}" for m, c in self.terms.items())
            self._digest = shaped("+".join(shape)) + hashed("+".join(each))
        return self._digest

    @property
    def kind(self) -> Kind:
        """The kind of the sum, which may be less than that of the program's value."""
        if self._kind is None:
            found = join(a.kind for m in self.terms for a, _, _ in m)
            assert found is not None, "checked programs only"
            self._kind = found
        return self._kind

    @property
    def number(self) -> Number | None:
        """The value where it is a rational number."""
        if not self.terms:
            return 0
        return self.terms.get(ONE) if len(self.terms) == 1 else None

    @property
    def single(self) -> tuple[Mono, Number] | None:
        """Product and coefficient where there is but one."""
        return next(iter(self.terms.items())) if len(self.terms) == 1 else None

    @property
    def finite(self) -> bool:
        """Whether the value is never infinite in exact arithmetic; it may be NaN."""
        return all(a.finite for m in self.terms for a, _, _ in m)

    @property
    def defined(self) -> bool:
        """Whether the value is never NaN in exact arithmetic."""
        return all(a.defined for m in self.terms for a, _, _ in m)

    @property
    def total(self) -> bool:
        """Whether the value is always a finite number."""
        return all(a.finite and a.defined for m in self.terms for a, _, _ in m)

    @property
    def range(self) -> Interval:
        """Where the value lies."""
        if self._range is None:
            lows: list[Number | float] = []
            highs: list[Number | float] = []
            for mono, c in self.terms.items():
                a, b = mono_range(mono)
                lows.append(_scaled(c, a if c > 0 else b))
                highs.append(_scaled(c, b if c > 0 else a))
            self._range = _added(lows, -math.inf), _added(highs, math.inf)
        return self._range

    @property
    def nonzero(self) -> bool:
        """Whether the value is known not to be 0."""
        if self.number is not None:
            return self.number != 0
        low, high = self.range
        if low > 0 or high < 0:
            return True
        each = [times((float(c), float(c)), mono_range(m)) for m, c in self.terms.items()]
        if len(each) > 1 and any(a < 0 for a, _ in each) and any(b > 0 for _, b in each):
            return False
        return any(all(a.nonzero for a, _, _ in m) for m in self.terms)

    @property
    def is_mask(self) -> bool:
        """Whether the value is always 0 or 1."""
        return self.mask_multiple == 1

    @property
    def mask_multiple(self) -> Number:
        """By what the value is multiplied to be always 0 or 1; 0 where there is no such number.

        Found by trying all signs of what signs are taken of.
        """
        if self._mask is None:
            self._mask = _mask_multiple(self)
        return self._mask

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Form) and (self is other or self.terms == other.terms)

    def __hash__(self) -> int:
        if self._hash is None:  # most forms are looked up, few are named: a digest would cost five times as much
            self._hash = hash(frozenset(self.terms.items()))
        return self._hash

    def __repr__(self) -> str:
        return " + ".join(f"{c}{''.join(f'·{a.op}^({p},{r})' for a, p, r in m)}" for m, c in self.terms.items()) or "0"


def hashed(text: str) -> str:
    """A short name for a text; two of a million differ with probability 1 - 1e-17."""
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def shaped(text: str) -> str:
    """A shorter name, of what is put in order."""
    return hashlib.blake2b(text.encode(), digest_size=SHAPE // 2).hexdigest()


def exact(value: float) -> Number:
    """The decimal number that a float prints as."""
    x = Fraction(repr(float(value)))
    return x.numerator if x.denominator == 1 else x


def tidy(x: Number) -> Number:
    """A whole number as int, so that equal numbers print alike."""
    return x.numerator if isinstance(x, Fraction) and x.denominator == 1 else x


def constant(x: Number) -> Form:
    """The form of a number."""
    return Form({ONE: tidy(x)} if x else {})


def of_atom(atom: Atom) -> Form:
    """The form of an atom."""
    return Form({((atom, 0 if atom.range[0] >= 0 else 1, 1),): 1})


def magnitude(x: Number) -> Number:
    """|x|, of the type that x has."""
    return -x if x < 0 else x


def is_bool(item: Item) -> bool:
    """Whether a factor is 0 or 1."""
    return item[0].is_mask or (item[1] == 0 and item[2] == 0 and item[0].defined)


def is_sign(item: Item) -> bool:
    """Whether a factor is -1, 0 or 1."""
    return item[0].is_mask or (item[2] == 0 and item[0].defined)


def _mask_multiple(x: Form) -> Number:
    atoms = list(dict.fromkeys(a for m in x.terms for a, _, _ in m))
    if not atoms or len(atoms) > _MOST_SIGNS or not all(is_sign(i) for m in x.terms for i in m):
        return 0
    found: set[Number] = set()
    for values in itertools.product(*map(_signs, atoms)):
        sign = dict(zip(atoms, values, strict=True))
        total: Number = 0
        for mono, c in x.terms.items():
            total += c * math.prod(sign[a] if p else abs(sign[a]) for a, p, _ in mono)
        found.add(tidy(total))
    found.discard(0)
    return tidy(1 / Fraction(found.pop())) if len(found) == 1 else 0


def _signs(atom: Atom) -> tuple[int, ...]:
    """The signs that an atom may have."""
    low, high = atom.range
    signs = (0, 1) if atom.is_mask or low >= 0 else (-1, 0) if high <= 0 else (-1, 0, 1)
    return tuple(s for s in signs if s) if atom.nonzero else signs


def atoms_in(*forms: Form) -> set[Atom]:
    """All atoms of forms, however deep."""
    seen: set[Atom] = set()
    todo = list(forms)
    while todo:
        for mono in todo.pop().terms:
            for atom, _, _ in mono:
                if atom not in seen:
                    seen.add(atom)
                    todo += [a for a in atom.args if isinstance(a, Form)]
    return seen


def mono_range(mono: Iterable[Item]) -> Interval:
    """Where a product lies."""
    found = (1.0, 1.0)
    for item in mono:
        own = item_range(item)
        exact_ = _PLAIN_ENDS.issuperset(found) or _PLAIN_ENDS.issuperset(own)
        found = times(found, own) if exact_ else _widened(times(found, own))
    return found


def _widened(x: Interval) -> Interval:
    """Rounding outward, but for 0 and what is infinite."""
    low, high = x
    return (math.nextafter(low, -math.inf) if low and math.isfinite(low) else low,
            math.nextafter(high, math.inf) if high and math.isfinite(high) else high)  # fmt: skip


def _scaled(c: Number, end: float) -> Number | float:
    """A multiple of an end, exactly."""
    return c * Fraction(end) if math.isfinite(end) and end else end if c > 0 or not end else -end


def _added(ends: Iterable[Number | float], outward: float) -> float:
    """A sum of ends, exact or the next float outward."""
    total: Number = 0
    for end in ends:
        if isinstance(end, float):
            if end:
                return outward
        else:
            total += end
    return _outward(total, outward)


def _outward(x: Number, outward: float) -> float:
    """The float that a rational number is, or the next one outward."""
    try:
        found = float(x)
    except OverflowError:
        return math.inf if x > 0 else -math.inf
    if Fraction(found) != x and (Fraction(found) > x) == (outward < 0):
        return math.nextafter(found, outward)
    return found


def item_range(item: Item) -> Interval:
    """Where sign(x)^p |x|^r lies."""
    atom, p, r = item
    low, high = atom.range
    least = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
    most = max(abs(low), abs(high))
    if r >= 0:
        top = _raised(most, r)
        bottom = _raised(least, r) if atom.nonzero else 0.0
    else:
        top = math.inf if least == 0 else _raised(least, r)
        bottom = _raised(most, r) if atom.nonzero and most < math.inf else 0.0
    if r not in (0, 1) and not _PLAIN_ENDS.issuperset((least, most)):
        bottom, top = _widened((bottom, top))
    if not p or low >= 0:
        return bottom, top
    return (-top, -bottom) if high <= 0 else (-top, top)


def _raised(x: float, r: Number) -> float:
    if r == 0:
        return 1.0
    if x == math.inf:
        return math.inf if r > 0 else 0.0
    try:
        return float(x ** float(r))
    except OverflowError:
        return math.inf
