"""The ways to split a form into a row and smaller forms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import TypeAlias

from ..kind import Kind
from ..program import FIRST, W
from .algebra import UNIT, ZERO, Algebra, TooLarge, sum_of
from .form import HALF, ONE, PRIME, SUM, Atom, Form, Item, Mono, Number, constant, is_bool, magnitude, of_atom, tidy
from .normal import INPUT, SPREAD

Way: TypeAlias = tuple[str, tuple[Form, ...]]
_THIRD = Fraction(1, 3)
_ROOTS: dict[tuple[int, Number], str] = {
    (0, 1): "abs", (1, 0): "sign", (0, HALF): "sqrt", (0, 2): "square", (1, 3): "cube", (1, _THIRD): "cbrt",
}  # fmt: skip
KINDS = {Kind.GLOBAL: 0, Kind.SCALAR: 1}


class Splits:
    """Splits over one algebra. `given` are forms that are made anyway, by which others may be spelled."""

    def __init__(self, algebra: Algebra) -> None:
        self.algebra = algebra
        self.given: list[Form] = []

    def splits(self, x: Form) -> Iterator[Way]:
        """Every way that is known; each part is simpler than the whole, or stands for itself elsewhere."""
        yield from self._by_given(x)
        single = x.single
        if single is None:
            yield from self._sum(x)
            return
        mono, c = single
        if c == -1:
            yield "negative", (Form({mono: 1}),)
        elif c != 1:
            yield from self._scaled(mono, c)
        elif len(mono) == 1:
            yield from self._item(mono[0])
        else:
            yield from self._product(mono)

    def _by_given(self, x: Form) -> Iterator[Way]:
        """As a number times a form that is made anyway, or such a form plus the rest."""
        for given in self.given:
            lead = self.algebra.lead(given)
            if lead not in x.terms or given.number is not None:
                continue
            k = tidy(Fraction(x.terms[lead]) / given.terms[lead])
            rest = self._minus(x, given, k)
            if rest is None:
                continue
            if not rest.terms:
                yield "multiply", (constant(k), given)
            elif len(rest.terms) < len(x.terms):
                yield "add", (rest, self.algebra.scaled(given, k))

    def _minus(self, x: Form, y: Form, k: Number = 1) -> Form | None:
        return self.algebra.sum(x, y, -k)

    # --- products ---

    def _scaled(self, mono: Mono, c: Number) -> Iterator[Way]:
        rest = Form({mono: 1})
        inverse = 1 / Fraction(c)
        if c < 0:
            yield "negative", (Form({mono: -c}),)
        if digits(float(inverse)) < digits(float(c)):
            yield "divide", (rest, constant(inverse))
        yield "multiply", (constant(c), rest)
        low = tuple(i for i in mono if i[0].kind in KINDS)
        if low and len(low) < len(mono):  # numbers are multiplied first
            yield "multiply", (Form({low: c}), Form({tuple(i for i in mono if i not in low): 1}))
        over = tuple(_inverse(i) for i in mono if _under(i))
        if over:
            above = Form({tuple(i for i in mono if not _under(i)): c})
            yield "divide", (above, Form({over: 1}))

    def _product(self, mono: Mono) -> Iterator[Way]:
        under = tuple(_inverse(i) for i in mono if _under(i))
        over = tuple(i for i in mono if not _under(i))
        for (p, r), op in _ROOTS.items():
            inner = [_rooted(i, p, r) for i in mono]
            if all(i is not None for i in inner) and weight(inner) < weight(mono):
                yield op, (Form({tuple(i for i in inner if i): 1}),)
        if under and over:
            yield "divide", (Form({over: 1}), Form({under: 1}))
        elif under:
            yield "reciprocal", (Form({under: 1}),)
        groups: dict[object, list[Item]] = {}
        for item in mono:
            groups.setdefault((item[1], item[2]) if (item[1], item[2]) in _ROOTS else None, []).append(item)
            groups.setdefault(("kind", item[0].kind in KINDS), []).append(item)
        for group in groups.values():
            if 1 < len(group) < len(mono):
                rest = tuple(i for i in mono if i not in group)
                yield "multiply", self._numbers_first(Form({tuple(group): 1}), Form({rest: 1}))
        for item in sorted(mono, key=_print_order)[: 1 if len(mono) > 4 else None]:
            rest = tuple(i for i in mono if i is not item)
            if not _under(item):
                yield "multiply", self._numbers_first(Form({(item,): 1}), Form({rest: 1}))
            elif over:
                yield "divide", (Form({rest: 1}), Form({(_inverse(item),): 1}))

    def _numbers_first(self, x: Form, y: Form) -> tuple[Form, Form]:
        """Numbers before tensors."""
        return (y, x) if (KINDS.get(y.kind, 2), y.digest) < (KINDS.get(x.kind, 2), x.digest) else (x, y)

    def _item(self, item: Item) -> Iterator[Way]:
        atom, p, r = item
        x = self._plain(atom)
        if r == 1 and (p == 1 or atom.range[0] >= 0):
            yield from self._atom(atom)
            return
        nonnegative = atom.range[0] >= 0
        if (p, r) in _ROOTS:
            yield _ROOTS[p, r], (x,)
        elif nonnegative and (1, r) in _ROOTS and r:
            yield _ROOTS[1, r], (x,)
        if atom.op == "global_norm" and r == 2:
            yield "dot", (atom.args[0], atom.args[0])  # type: ignore[misc]
        if (p, r) == (0, 0):
            yield "divide", (x, x)
        elif (p, r) == (1, -1) or (nonnegative and r == -1):
            yield "reciprocal", (x,)
        elif r < 0:
            yield "reciprocal", (Form({(_inverse(item),): 1}),)
        elif r == int(r) and (int(r) % 2 == p or nonnegative):
            yield "power", (x, constant(r))
        elif p == 0:
            yield "power", (x if nonnegative else Form({((atom, 0, 1),): 1}), constant(r))
        if p == 1 and r not in (0, 1) and r > 0:
            yield "multiply", (Form({((atom, 1, 0),): 1}), Form({((atom, 0, r),): 1}))
            if r > 1:
                yield "multiply", (x, Form({((atom, 0, tidy(r - 1)),): 1}))
            else:
                yield "divide", (x, Form({((atom, 0, tidy(1 - r)),): 1}))
        for (q, s), op in _ROOTS.items():
            inner = _rooted(item, q, s)
            if inner is not None and (inner[1], inner[2]) != (1, 1) and weight([inner]) < weight([item]):
                yield op, (Form({(inner,): 1}),)

    def _plain(self, atom: Atom) -> Form:
        return sum_of(atom) if atom.op == SUM else of_atom(atom)

    def _atom(self, atom: Atom) -> Iterator[Way]:
        forms = tuple(a for a in atom.args if isinstance(a, Form))
        if atom.op == SPREAD:
            if atom.kind is not Kind.TENSOR:
                raise TooLarge
            nothing = of_atom(self.algebra.atom("multiply", (ZERO, self._w()), Kind.TENSOR, (0.0, 0.0)))
            yield "add", (nothing, forms[0])
        elif atom.op == "greater" and forms[1] == ZERO:
            yield from self._above(forms[0])
        else:
            yield atom.op, forms

    def _w(self) -> Form:
        return (
            of_atom(self.algebra.atoms[INPUT, W])
            if (INPUT, W) in self.algebra.atoms
            else of_atom(
                self.algebra.input(W)  # type: ignore[attr-defined]
            )
        )

    # --- sums ---

    def _sum(self, x: Form) -> Iterator[Way]:
        terms = sorted(x.terms.items(), key=_term_order)
        if x.is_mask:
            yield from self._not(x)
        yield from self._factored(x)
        if len(terms) <= 6:
            yield from self._interp(x, terms)
        yield from self._grouped(x, terms)
        yield from self._chosen(x)
        yield from self._bent(x)
        yield from self._peeled(terms)

    def _not(self, x: Form) -> Iterator[Way]:
        """1 - [y > 0]."""
        mono = next(m for m in x.terms if m != ONE)
        if x.terms != {ONE: 1, mono: -1}:
            return  # other sums are 0 or 1, too, such as a b - a
        if len(mono) == 1 and mono[0][0].op == "greater" and mono[0][0].args[1] == ZERO:
            inner = mono[0][0].args[0]
            assert isinstance(inner, Form)
            for op, args in self._above(inner):
                yield "less_equal" if op == "greater" else "greater_equal", args

    def _above(self, x: Form) -> Iterator[Way]:
        """The comparison x > 0, written with what is added on one side and what is subtracted on the other."""
        yield "greater", (x, ZERO)
        above = Form({m: c for m, c in x.terms.items() if c > 0})
        below = Form({m: -c for m, c in x.terms.items() if c < 0})
        if below.terms:
            yield (
                "greater" if above.terms else "less",
                (above, below) if above.terms else (self.algebra.scaled(x, -1), ZERO),
            )
        for mono, c in x.terms.items():
            if len(x.terms) > 1 and c != 1:  # divided by a coefficient
                scaled = self.algebra.scaled(x, 1 / abs(Fraction(c)))
                above = Form({m: k for m, k in scaled.terms.items() if m != mono})
                alone = Form({mono: 1})
                yield ("greater", (alone, self.algebra.scaled(above, -1))) if c > 0 else ("greater", (above, alone))

    def _factored(self, x: Form) -> Iterator[Way]:
        common = set.intersection(*(set(m) for m in x.terms))
        if common:
            factor = tuple(i for i in next(iter(x.terms)) if i in common)
            rest = Form({tuple(i for i in m if i not in common): c for m, c in x.terms.items()})
            over = tuple(i for i in factor if not _under(i))
            under = tuple(_inverse(i) for i in factor if _under(i))
            if over:
                inner = Form({tuple(i for i in m if i not in over): c for m, c in x.terms.items()})
                yield "multiply", self._numbers_first(Form({over: 1}), inner)
            if under:
                inner = Form({tuple(i for i in m if not (i in common and _under(i))): c for m, c in x.terms.items()})
                yield "divide", (inner, Form({under: 1}))
            if over and under:
                yield "multiply", self._numbers_first(Form({factor: 1}), rest)
        sizes = Counter(magnitude(c) for c in x.terms.values())
        wanted = [c for c, n in sizes.items() if c != 1 and 1 not in sizes]
        total = sum(x.terms.values())
        if len(x.terms) == 2 and abs(total) != 1 and total and any(is_state(m) for m in x.terms):
            wanted.append(magnitude(total))
        for c in wanted:
            yield "multiply", (constant(c), self.algebra.scaled(x, 1 / Fraction(c)))

    def _interp(self, x: Form, terms: list[tuple[Mono, Number]]) -> Iterator[Way]:
        if len(terms) > 2 and all(abs(c) == 1 for _, c in terms):
            return
        for mono, a in terms:
            if a in (0, 1) or not is_state(mono):
                continue
            rest = Form({m: c for m, c in x.terms.items() if m != mono})
            others = self.algebra.scaled(rest, 1 / (1 - Fraction(a)))
            if any(c == 1 for c in others.terms.values()) or others in self.given:
                yield "interp", (others, Form({mono: 1}), constant(a))
        for given in self.given:
            lead = self.algebra.lead(given)
            if lead in x.terms and given.number is None and given != x:
                a = tidy(Fraction(x.terms[lead]) / given.terms[lead])
                left = self._minus(x, given, a)
                if left is not None and left.terms and a != 1 and len(left.terms) < len(x.terms):
                    others = self.algebra.scaled(left, 1 / (1 - Fraction(a)))
                    yield "interp", (others, given, constant(a))

    def _grouped(self, x: Form, terms: Sequence[tuple[Mono, Number]]) -> Iterator[Way]:
        """The terms that share a factor, and the rest."""
        if len(terms) < 3:
            return
        shared = Counter(i for m, _ in terms for i in m)
        most = sorted((-n, i[0].digest, i[1], i[2]) for i, n in shared.items() if 1 < n < len(terms))[:4]
        for _, digest, p, r in most:
            some = Form({m: c for m, c in terms if any((i[0].digest, i[1], i[2]) == (digest, p, r) for i in m)})
            yield from self._added(some, self._without(x, some))

    def _without(self, x: Form, some: Form) -> Form:
        return Form({m: c for m, c in x.terms.items() if m not in some.terms})

    def _added(self, x: Form, y: Form) -> Iterator[Way]:
        """X + y, or a difference where one is negative throughout."""
        if all(c < 0 for c in y.terms.values()):
            yield "subtract", (x, self.algebra.scaled(y, -1))
        elif all(c < 0 for c in x.terms.values()):
            yield "subtract", (y, self.algebra.scaled(x, -1))
        else:
            yield "add", (x, y)

    def _peeled(self, terms: Sequence[tuple[Mono, Number]]) -> Iterator[Way]:
        """All but the last term, and it."""
        *first, last = terms
        yield from self._added(Form(dict(first)), Form(dict([last])))
        if len(first) > 1:
            yield from self._added(Form(dict([terms[0]])), Form(dict(terms[1:])))

    def _chosen(self, x: Form) -> Iterator[Way]:
        """where(b, y, z) for b (y - z) + z."""
        masks = {i[0] for m in x.terms for i in m if is_bool(i)}
        for atom in sorted(masks, key=lambda a: a.digest)[:2]:
            item: Item = (atom, 0, 1) if atom.is_mask else (atom, 0, 0)
            some = Form({tuple(i for i in m if i != item): c for m, c in x.terms.items() if item in m})
            rest = Form({m: c for m, c in x.terms.items() if item not in m})
            both = self.algebra.sum(some, rest)
            if not some.terms or not rest.terms or both is None:
                continue
            condition = of_atom(atom)
            yield "where", (condition, both, rest)
            if atom.op == "greater" and atom.args[1] == ZERO:
                other = self.algebra.sum(UNIT, condition, -1)
                if other is not None:
                    yield "where", (other, rest, both)

    def _bent(self, x: Form) -> Iterator[Way]:
        """A sum c |d| + rest as max(rest + c d, rest - c d), or as min for c < 0."""
        for mono, c in x.terms.items():
            if mono == ONE or any(p for _, p, _ in mono) or all(a.range[0] >= 0 for a, _, _ in mono):
                continue
            rest = Form({m: k for m, k in x.terms.items() if m != mono})
            signed = self._signed(mono, c)
            high, low = self.algebra.sum(rest, signed), self.algebra.sum(rest, signed, -1)
            if (
                high is not None
                and low is not None
                and len(high.terms) + len(low.terms) <= len(signed.terms) + len(x.terms)
            ):
                yield "max" if c > 0 else "min", (high, low)

    def _signed(self, mono: Mono, c: Number) -> Form:
        """A value of which a product is the size."""
        items = tuple((a, 0 if a.range[0] >= 0 else 1, r) for a, _, r in mono)
        return self.algebra.opened(Form({items: c}))


def is_state(mono: Mono) -> bool:
    """Whether a product is a state alone."""
    return len(mono) == 1 and mono[0][0].op == INPUT and mono[0][0].args[0] >= FIRST and mono[0][2] == 1  # type: ignore[operator]


def weight(items: Iterable[Item | None]) -> int:
    """How far exponents are from 1."""
    return sum(
        (abs(Fraction(i[2]).numerator) + Fraction(i[2]).denominator + (i[1] == 0) if i[2] else 6) for i in items if i
    )


def _under(item: Item) -> bool:
    return item[2] < 0


def _inverse(item: Item) -> Item:
    return item[0], item[1], tidy(-item[2])


def _rooted(item: Item, p: int, r: Number) -> Item | None:
    """The item y with sign(y)^p |y|^r = item; None where there is none."""
    atom, q, s = item
    signless = atom.range[0] >= 0 or atom.is_mask
    if atom.op == PRIME:
        return None
    if (p, r) == (1, 0):
        return (atom, 1, 1) if s == 0 and q == 1 else None
    if (p == 0) != (q == 0) and not signless:
        return None
    root = tidy(Fraction(s) / r)
    if s == 0:
        return None
    if (p, r) == (0, 1):
        return (atom, 1, s) if not signless and s == int(s) and int(s) % 2 else None
    if signless:
        return atom, 0, root
    if p == 0:  # of a product without sign: take the odd form where it is a plain power
        return (atom, int(root) % 2, root) if root == int(root) else (atom, 0, root)
    return atom, 1, root


def digits(x: float) -> float:
    """A little for each digit: of two spellings that with rounder numbers."""
    return 0.0001 * len(repr(x))


def _print_order(item: Item) -> tuple[int, str]:
    return KINDS.get(item[0].kind, 2), item[0].digest


def ordered(x: Form) -> Form:
    """The same form, its products in an order that does not depend on how it was made."""
    if len(x.terms) < 2:
        return x
    return Form(dict(sorted(x.terms.items(), key=_term_order)))


def _term_order(term: tuple[Mono, Number]) -> tuple[object, ...]:
    """Positive terms first, bare numbers last."""
    mono, c = term
    return mono == ONE, c < 0, [(a.digest, p, r) for a, p, r in mono]
