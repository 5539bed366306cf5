"""Signs of values in a cell: which are known, and what is asked where they are not."""

from __future__ import annotations

import math
from fractions import Fraction

from ..ops import OPS
from ..program import T
from .algebra import UNIT, ZERO, TooLarge, sum_of
from .diagram import LONG, SIGN, THRESHOLD, Cell, Key, Test, Unknown, feasible
from .form import ONE, PRIME, SUM, Atom, Form, Number, constant, hashed, magnitude, of_atom, shaped, tidy
from .normal import INPUT, value_range
from .positive import Positive, parity

SIZE, SIGNED = "|x|", "x"  # |x| where x is not 0; x where its sign does not matter
_NEAR = 1e-9
_SQUARED = 6  # terms of a sum that is multiplied out


class Signs:
    """Factors, their powers and their signs."""

    def __init__(self) -> None:
        self.algebra = Positive()
        self.plain: dict[Atom, Atom] = {}  # a factor and the atom whose size or value it is
        self.zeros: dict[Atom, frozenset[str]] = {}  # plain atoms that are 0, at every element, where this one is
        self.asked: list[dict[Key, object]] = []  # answers that went into values being made

    def answer(self, key: Key, cell: Cell) -> int | None:
        """What a cell says of a test."""
        found = cell[key][1] if key in cell else None
        if self.asked:
            self.asked[-1][key] = found
        return found

    def open_answers(self, test: Test, cell: Cell) -> tuple[int, ...]:
        """The answers to a test that a cell leaves open."""
        found = self.answer(test.key, cell)
        if found is not None:
            return (found,)
        if self.asked:
            self.asked[-1].update({key: answer for key, (_, answer) in cell.items()})
        return feasible(test, cell)

    def factor(self, atom: Atom, cell: Cell) -> Form:
        """An input or a call as a factor: its size with its sign where that is known, else itself."""
        low, high = atom.range
        if low == high == 0:
            return ZERO
        known = self.answer(self.sign_test(atom).key, cell)
        sign = known if known is not None else 1 if low > 0 or (low >= 0 and atom.nonzero) else -1 if high < 0 else None
        if sign is None:
            return one(self.made(SIGNED, atom))
        return self.algebra.scaled(one(self.made(SIZE, atom)), sign) if sign else ZERO

    def made(self, op: str, atom: Atom) -> Atom:
        """The factor of an atom."""
        key = (op, atom.digest)
        if key not in self.algebra.atoms:
            digest = shaped(f"{op} {atom.digest[:8]}") + hashed(f"{op} {atom.digest}")
            low, high = atom.range
            size = max(0.0, low, -high), max(abs(low), abs(high))
            range_ = size if op == SIZE else atom.range
            made = Atom(op, (of_atom(atom),), atom.kind, digest, range_, nonzero=op == SIZE)
            self.algebra.atoms[key] = made
            self.plain[made] = atom
        return self.algebra.atoms[key]

    def raised(self, x: Form, p: int, r: Number, cell: Cell) -> Form:
        """sign(x)^p |x|^r of a value."""
        if (p, r) == (1, 1):
            return x
        if x.number is not None:
            return self.algebra.number_power(x.number, p, r)
        whole = isinstance(r, int) and r > 0 and r % 2 == p
        single = x.single
        if single is not None and all(a.nonzero or whole or (a.range[0] >= 0 and r > 0) for a, _, _ in single[0]):
            sign = -1 if p and single[1] < 0 else 1
            found = self.algebra.from_items([(a, parity(a, r * s), tidy(r * s)) for a, _, s in single[0]], sign)
            assert found is not None
            return self.algebra.times(found, self.algebra.number_power(magnitude(single[1]), 0, r))
        if whole and r <= 3 and len(x.terms) <= _SQUARED:
            found = x
            for _ in range(int(r) - 1):
                found = self.algebra.times(found, x)
            return found
        sign = self.sign(x, cell)
        if sign == 0:
            return ZERO
        return self.algebra.scaled(self.positive_power(self.algebra.scaled(x, sign), r), sign if p else 1)

    def positive_power(self, x: Form, r: Number) -> Form:
        """A positive value raised to a power."""
        mono, rest = self.algebra.common(self.algebra.shortest(x))
        self.demand_signs(Form({mono: 1}))
        k, prim = self.algebra.primitive(rest)
        prim = prim if k > 0 else self.algebra.scaled(prim, -1)
        powers = [(a, 0, tidy(r * s)) for a, _, s in mono]
        if prim != UNIT:
            powers.append((self.algebra.base(prim), 0, r))
        found = self.algebra.from_items(powers, 1)
        assert found is not None
        return self.algebra.times(found, self.algebra.number_power(magnitude(k), 0, r))

    def demand_signs(self, x: Form) -> None:
        """Raises Unknown for the first signed factor that may be 0."""
        for mono in x.terms:
            for atom, _, _ in mono:
                if atom.op == SIGNED:
                    raise Unknown(self.sign_test(self.plain[atom]))

    def sign(self, x: Form, cell: Cell) -> int:
        """The sign of a value in a cell; raises Unknown."""
        if x.number is not None:
            return (x.number > 0) - (x.number < 0)
        low, high = x.range
        if low > 0 or high < 0:
            return 1 if low > 0 else -1
        x = self.algebra.shortest(x)
        if x.number is not None or x.single is None:
            return self.sum_sign(x, cell)
        self.demand_signs(x)
        return 1 if x.single[1] > 0 else -1

    def sum_sign(self, x: Form, cell: Cell) -> int:
        """The sign of a sum."""
        if x.number is not None:
            return (x.number > 0) - (x.number < 0)
        if x.nonzero:
            low, high = x.range
            if low >= 0 or high <= 0:
                return 1 if low >= 0 else -1
        self.demand_signs(x)
        _, x = self.algebra.common(x)
        low, high = x.range
        if low > 0 or high < 0:
            return 1 if low > 0 else -1
        if all(a.op == PRIME for m in x.terms for a, _, _ in m):
            return _sign_of_roots(x)
        for atom in self.factors(x):
            quotient = self.algebra.quotient(x, sum_of(atom))
            if quotient is not None:
                return self.sign(quotient, cell) * self.sign(sum_of(atom), cell)
        k, prim = self.algebra.primitive(x)
        test, sign = self.threshold(prim) if len(prim.terms) == 2 else (self.long_test(prim), 1)
        sign = sign if k > 0 else -sign
        if test.whole and not isinstance(_exactly(test), int):
            test, above = self.floored(test), 1
        else:
            above = 0
        answers = self.open_answers(test, cell)
        if len(answers) > 1:
            raise Unknown(test)
        if above:
            return sign if answers[0] > 0 else -sign
        return sign * answers[0]

    def factors(self, x: Form) -> list[Atom]:
        """Sums that may divide a sum."""
        if len(x.terms) < 4:
            return []
        held = {a for m in x.terms for a, _, _ in m}
        sums = [a for a in self.algebra.atoms.values() if a.op == SUM and len(sum_of(a).terms) < len(x.terms)]
        return sorted(a for a in sums if all(b in held for m in sum_of(a).terms for b, _, _ in m))

    def sign_test(self, atom: Atom) -> Test:
        """The test of a plain atom."""
        low, high = atom.range
        signs = {1: high > 0, 0: not atom.nonzero, -1: low < 0}
        values = tuple(v for v, there in signs.items() if there)
        return Test(SIGN, atom.digest, of_atom(atom), atom.kind, values, zeros=self.zeros.get(atom, frozenset()))

    def long_test(self, prim: Form) -> Test:
        """Of a sum of more than two products."""
        return Test(LONG, prim.digest, prim, prim.kind, sum=prim)

    def threshold(self, x: Form) -> tuple[Test, int]:
        """1 - c M as the test of a power of M against a number, and the sign with which it counts."""
        (left, a), (right, b) = sorted(x.terms.items(), key=lambda term: [(i[0].digest, str(i[2])) for i in term[0]])
        ratio = self.algebra.mono_product(left, 1, tuple((g, p, tidy(-r)) for g, p, r in right), 1)  # left / right
        assert ratio is not None
        ((mono, c),) = ratio.terms.items()  # a c M + b, where primes may have left a number
        items = [i for i in mono if i[0].op != PRIME]
        primes = Form({tuple(i for i in mono if i[0].op == PRIME): c})
        sums = [i for i in items if i[0].op == SUM]
        exponent = sums[0][2] if len(sums) == 1 else items[0][2]
        power = 1 / Fraction(exponent)
        bound = self.algebra.number_power(-Fraction(b) / Fraction(a), 0, power)
        down = self.algebra.raised(primes, tidy(-power))
        bound = self.algebra.times(bound, down)
        sign = (1 if a > 0 else -1) * (1 if exponent > 0 else -1)
        if len(sums) == 1:  # a sum against a product is a longer sum
            whole = sum_of(sums[0][0])
            self.demand_signs(whole)
            others = Form({tuple((g, 0, tidy(-r * power)) for g, _, r in items if g is not sums[0][0]): 1})
            _, longer = self.algebra.common(self.algebra.plus(whole, self.algebra.times(bound, others), -1))
            k, prim = self.algebra.primitive(longer)
            return self.long_test(prim), sign if k > 0 else -sign
        quantity = Form({tuple((g, 0, tidy(r * power)) for g, _, r in items): 1})
        test = Test(
            THRESHOLD, quantity.digest, quantity, quantity.kind, threshold=_float(bound), exact=bound,
            whole=len(items) == 1 and _is_whole(quantity), sum=x, turned=(a > 0) != (exponent > 0),
        )  # fmt: skip
        return test, sign

    def floored(self, test: Test) -> Test:
        """At the whole number below."""
        number = _exactly(test)
        if number is None and abs(test.threshold - round(test.threshold)) < _NEAR:
            raise TooLarge  # an irrational threshold that a float does not tell from a whole one
        below = math.floor(test.threshold if number is None else number)
        return Test(THRESHOLD, test.quantity, test.form, test.kind, threshold=float(below), exact=constant(below),
                    whole=True, sum=self.algebra.plus(test.form, constant(below), -1))  # fmt: skip

    def called(self, op: str, args: list[Form], atom: Atom, cell: Cell, low: float = -math.inf) -> Form:
        """An elementwise call."""
        traits = OPS[op].traits
        if op == "floor":
            found = self.floor(args[0], cell)
            if found is not None:
                return found
        if op == "mod" and _is_whole(args[0]) and isinstance(args[1].number, int):
            args = [self.modulo(args[0], args[1].number), args[1]]
        sign = 1
        if len(args) == 1 and traits & {"odd", "even"}:
            if not args[0].terms and "odd" in traits:
                return ZERO
            if args[0].terms and args[0].terms[self.algebra.lead(args[0])] < 0:
                args, sign = [self.algebra.scaled(args[0], -1)], -1 if "odd" in traits else 1
        elif "commutative" in traits:
            args.sort(key=lambda f: f.digest)
        if "odd" in traits and len(args) == 1 and "rising" in traits:
            range_ = value_range(op, [args[0].range])
            nonzero = args[0].nonzero
        else:
            range_, nonzero = value_range(op, [a.range for a in args]), atom.nonzero
        made = self.algebra.atom(op, tuple(args), atom.kind, range_, nonzero=nonzero)
        return self.algebra.scaled(self.factor(made, cell), sign)

    def modulo(self, x: Form, n: int) -> Form:
        """Mod n its terms are the same; mod(x, 0) is x."""
        if n == 0:
            return x
        return Form(
            {m: (c % n if m == ONE and isinstance(c, int) else c) for m, c in x.terms.items() if m != ONE or c % n}
        )

    def floor(self, x: Form, cell: Cell) -> Form | None:
        """Of whole k over a whole n it is (k - mod(k, n)) / n."""
        n = math.lcm(*(Fraction(c).denominator for c in x.terms.values())) if x.terms else 1
        whole = self.algebra.scaled(x, n)
        if not _is_whole(whole):
            return None
        if n == 1:
            return x
        args = (self.modulo(whole, n), constant(n))
        rest = self.algebra.atom("mod", args, whole.kind, (0.0, float(n)))
        return self.algebra.scaled(self.algebra.plus(whole, self.factor(rest, cell), -1), 1 / Fraction(n))


def one(atom: Atom) -> Form:
    """The form of a factor."""
    return Form({((atom, parity(atom, 1), 1),): 1})


def inside(atom: Atom) -> Atom:
    """The plain atom of a factor."""
    (inside,) = atom.args
    assert isinstance(inside, Form) and inside.single is not None
    return inside.single[0][0][0]


def _exactly(test: Test) -> Number | None:
    """The threshold, where it is rational."""
    return test.exact.number if test.exact is not None else None


def _float(x: Form) -> float:
    single = x.single
    assert single is not None
    return float(single[1]) * math.prod(float(a.args[0]) ** float(r) for a, _, r in single[0])  # type: ignore[arg-type]


def _sign_of_roots(x: Form) -> int:
    """The sign of a sum of roots of numbers; raises TooLarge where floats do not tell."""
    parts = [_float(Form({m: c})) for m, c in x.terms.items()]
    total = math.fsum(parts)
    if abs(total) <= _NEAR * max(map(abs, parts)):
        raise TooLarge
    return 1 if total > 0 else -1


def _is_whole(x: Form) -> bool:
    """Whether a value is always a whole number."""
    return all(
        isinstance(c, int) and all(isinstance(r, int) and r > 0 and _whole_atom(a) for a, _, r in m)
        for m, c in x.terms.items()
    )


def _whole_atom(atom: Atom) -> bool:
    if atom.op in (SIZE, SIGNED):
        inside = atom.args[0]
        assert isinstance(inside, Form)
        return _is_whole(inside)
    if atom.op == INPUT:
        return atom.args[0] == T
    return atom.op == "floor" or (atom.op == "mod" and all(isinstance(a, Form) and _is_whole(a) for a in atom.args))
