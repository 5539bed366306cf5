"""Values in cells: where the signs of all that matters are known, forms are quotients of sums of positive factors.

In a cell every power is a plain one, common factors leave a sum whatever they are, and a quotient of sums has one
shortest spelling. So what a program writes with masks, choices, maxima, absolute values or signs is the same diagram of
cells if it is the same value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from fractions import Fraction

from ..interval import Interval
from ..kind import Kind
from ..ops import OPS
from ..program import T
from .algebra import SINGLE, UNIT, ZERO, Algebra, TooLarge, sum_of
from .diagram import (
    LONG,
    SIGN,
    THRESHOLD,
    Cell,
    Diagram,
    Key,
    Leaf,
    Node,
    Test,
    Unknown,
    atoms_in,
    explore,
    feasible,
    leaves,
    mapped,
    ordered,
    zipped,
)
from .form import ONE, PRIME, SUM, Atom, Form, Item, Mono, Number, constant, hashed, magnitude, of_atom, shaped, tidy
from .normal import INPUT, SPREAD, value_range

SIZE, SIGNED = "|x|", "x"  # |x| where x is not 0; x where its sign does not matter
_SQUARED = 6  # terms of a sum that is squared inside a mean
_MOST = 120  # terms of a sum
_DIVISIONS = 40
_MOST_PRODUCTS = 8_000  # a program that needs more is known by its normal form
_SHARED: Key = (-1, "", 0.0, "")  # stands for all tests that elements share


class Positive(Algebra):
    """Forms of which every atom but the signed ones is positive."""

    most_terms = _MOST
    expanded = _MOST

    def base(self, prim: Form) -> Atom:
        """The atom of a sum that is positive."""
        low, high = prim.range
        range_ = (max(low, 0.0), high) if high > 0 else (0.0, math.inf)  # a cell that is not there
        return self.atom(SUM, (prim,), prim.kind, range_, nonzero=True)

    def gathered(self, x: Form) -> Form:
        """Fractions are brought together at the end."""
        return x

    def _times(self, x: Mono, cx: Number, y: Mono, cy: Number) -> Form | None:
        """The product of two products, which may be fractions."""
        return super()._times(x, cx, y, cy) if x and y else self._product(x or y, cx * cy)

    def _product(self, items: object, c: Number) -> Form | None:
        """A product; a factor's power 0 is 1."""
        return super()._product([i for i in items if i[2] or i[1]], c)  # type: ignore[attr-defined]

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
                shared.append((atom, _parity(atom, least), least))
        lead = self.lead(x)
        shared += [i for i in lead if i[0].op == PRIME]
        mono = tuple(sorted(shared))
        return mono, self.divided(x, mono) if mono else x

    def divided(self, x: Form, mono: Mono) -> Form:
        """X over a product."""
        inverse = tuple((a, p, tidy(-r)) for a, p, r in mono)
        terms: dict[Mono, Number] = {}
        for m, c in x.terms.items():
            part = self._times(m, c, inverse, 1)
            assert part is not None
            terms.update(part.terms)
        return Form(terms)


class Cells:
    """Diagrams of forms. One serves all forms of one program."""

    def __init__(self, count: Atom, forms: Iterable[Form] = ()) -> None:
        """`count` is the number of elements of a tensor; raises TooLarge where a value may be no finite number."""
        if not all(atom.finite and atom.defined for form in forms for atom in atoms_in(form)):
            raise TooLarge
        self.count = count
        self.left = _MOST_PRODUCTS
        self.algebra = Positive(off=("masks by signs",))
        self.plain: dict[Atom, Atom] = {}  # a factor and the atom whose size or value it is
        self.squares: dict[Atom, str] = {}  # sums of squares, and what is 0 where they are
        self.together: dict[Form, Form] = {}
        self.arguments: dict[Atom, list[Diagram]] = {}  # of calls whose result depends on more than one element
        self.values: dict[Atom, list[tuple[dict[Key, object], Form]]] = {}
        self.asked: list[dict[Key, object]] = []  # answers that went into values being made
        self.reductions: dict[tuple[Atom, object], Form] = {}

    def diagram(self, form: Form) -> Diagram:
        """The diagram of a form; raises TooLarge where it has too many cells."""
        tree = explore(lambda cell: self.leaf(form, cell), {}, lambda test: True)
        return self.ordered(tree)

    def ordered(self, tree: Diagram) -> Diagram:
        """A tree as a diagram."""
        return ordered(tree, self.settled, self.reduced)

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
                if answer == 0 and test.squared:
                    x = self.with_zero(x, test.squared, cell)
                    held = atoms_in(x)
        for test, answer in sorted(cell.values(), key=lambda known: known[0].key):
            if answer == 0 and test.rank != SIGN:
                x = self.shortest(self.where_zero(x, test, cell))
        return x

    def with_zero(self, x: Form, squared: str, cell: Cell) -> Form:
        """A value where a plain atom is 0 at every element."""
        for atom in [a for a in atoms_in(x) if a.op == SIGNED and _inside(a).digest == squared]:
            x = self.replaced(x, atom, ZERO, cell)
        return x

    def leaf(self, form: Form, cell: Cell) -> Form:
        """The value in a cell, spelled in one way, with what the cell says to be equal taken as equal."""
        return self.settled(self.shortest(self.evaluated(form, cell)), cell)

    # --- values ---

    def evaluated(self, form: Form, cell: Cell) -> Form:
        """The value of a program's form; raises Unknown where it needs a sign."""
        total = ZERO
        for mono, c in form.terms.items():
            part = constant(c)
            for atom, p, r in mono:
                part = self.product(part, self.raised(self.atom_value(atom, cell), p, r, cell))
                if not part.terms:
                    break
            total = self.sum(total, part)
        return total

    def atom_value(self, atom: Atom, cell: Cell) -> Form:
        """The value of a program's atom, remembered with the answers that it took."""
        if atom.op == PRIME:
            return self.algebra._number(Fraction(int(atom.args[0])), 0, 1)  # type: ignore[arg-type]
        known = self.values.setdefault(atom, [])
        found = next(((n, v) for n, v in known if all(_said(key, cell) == answer for key, answer in n.items())), None)
        if found is None:
            self.asked.append({})
            try:
                value = self._atom_value(atom, cell)
            finally:
                needed = self.asked.pop()
            found = needed, value
            known.append(found)
        for asked in self.asked:
            asked.update(found[0])
        return found[1]

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

    def _atom_value(self, atom: Atom, cell: Cell) -> Form:
        args = [a for a in atom.args if isinstance(a, Form)]
        if atom.op in (SUM, SPREAD):
            return self.evaluated(args[0], cell)
        if atom.op == INPUT:
            return self.factor(atom, cell)
        if atom.op == "greater":
            difference = self.sum(self.evaluated(args[0], cell), self.evaluated(args[1], cell), -1)
            return UNIT if self.sign(difference, cell) > 0 else ZERO
        if atom.op == "clip" and (args[1].number or 0) > 0:
            return self.clipped(atom, args[0], args[1], cell)
        if not OPS[atom.op].elementwise or atom.op == "worker_mean":
            return self.reduction(atom, args, cell)
        return self.called(atom.op, [self.shortest(self.evaluated(a, cell)) for a in args], atom, cell)

    def factor(self, atom: Atom, cell: Cell) -> Form:
        """An input or a call as a factor: its size with its sign where that is known, else itself."""
        low, high = atom.range
        if low == high == 0:
            return ZERO
        known = self.answer(self.sign_test(atom).key, cell)
        sign = known if known is not None else 1 if low > 0 or (low >= 0 and atom.nonzero) else -1 if high < 0 else None
        if sign is None:
            return _one(self.made(SIGNED, atom))
        return self.algebra.scaled(_one(self.made(SIZE, atom)), sign) if sign else ZERO

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
            return self.algebra._number(x.number, p, r)
        whole = isinstance(r, int) and r > 0 and r % 2 == p
        single = x.single
        if single is not None and all(a.nonzero or whole or (a.range[0] >= 0 and r > 0) for a, _, _ in single[0]):
            sign = -1 if p and single[1] < 0 else 1
            found = self.algebra._product([(a, _parity(a, r * s), tidy(r * s)) for a, _, s in single[0]], sign)
            assert found is not None
            return self.product(found, self.algebra._number(magnitude(single[1]), 0, r))
        if whole and r <= 3 and len(x.terms) <= _SQUARED:
            found = x
            for _ in range(int(r) - 1):
                found = self.times(found, x)
            return found
        sign = self.sign(x, cell)
        if sign == 0:
            return ZERO
        return self.algebra.scaled(self.positive_power(self.algebra.scaled(x, sign), r), sign if p else 1)

    def positive_power(self, x: Form, r: Number) -> Form:
        """A positive value raised to a power."""
        mono, rest = self.algebra.common(self.shortest(x))
        self.demand_signs(Form({mono: 1}))
        k, prim = self.algebra.primitive(rest)
        prim = prim if k > 0 else self.algebra.scaled(prim, -1)
        powers = [(a, 0, tidy(r * s)) for a, _, s in mono]
        if prim != UNIT:
            powers.append((self.algebra.base(prim), 0, r))
        found = self.algebra._product(powers, 1)
        assert found is not None
        return self.product(found, self.algebra._number(magnitude(k), 0, r))

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
        x = self.shortest(x)
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
        for atom in self.factors(x):
            quotient = self.quotient(x, sum_of(atom))
            if quotient is not None:
                return self.sign(quotient, cell) * self.sign(sum_of(atom), cell)
        k, prim = self.algebra.primitive(x)
        test, sign = self.threshold(prim) if len(prim.terms) == 2 else (self.long_test(prim), 1)
        sign = sign if k > 0 else -sign
        if test.whole and test.threshold != math.floor(test.threshold):
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
        return Test(SIGN, atom.digest, of_atom(atom), atom.kind in SINGLE, values, squared=self.squares.get(atom, ""))

    def long_test(self, prim: Form) -> Test:
        """Of a sum of more than two products."""
        single = prim.kind in SINGLE
        return Test(LONG, prim.digest, prim, single, sum=prim)

    def threshold(self, x: Form) -> tuple[Test, int]:
        """1 - c M as the test of a power of M against a number, and the sign with which it counts."""
        (left, a), (right, b) = sorted(x.terms.items(), key=lambda term: [(i[0].digest, str(i[2])) for i in term[0]])
        ratio = self.algebra._times(left, 1, tuple((g, p, tidy(-r)) for g, p, r in right), 1)  # left / right
        assert ratio is not None
        ((mono, c),) = ratio.terms.items()  # a c M + b, where primes may have left a number
        items = [i for i in mono if i[0].op != PRIME]
        primes = Form({tuple(i for i in mono if i[0].op == PRIME): c})
        sums = [i for i in items if i[0].op == SUM]
        exponent = sums[0][2] if len(sums) == 1 else items[0][2]
        power = 1 / Fraction(exponent)
        bound = self.algebra._number(-Fraction(b) / Fraction(a), 0, power)
        down = self.power(primes, tidy(-power))
        bound = self.product(bound, down)
        sign = (1 if a > 0 else -1) * (1 if exponent > 0 else -1)
        if len(sums) == 1:  # a sum against a product is a longer sum
            whole = sum_of(sums[0][0])
            self.demand_signs(whole)
            others = Form({tuple((g, 0, tidy(-r * power)) for g, _, r in items if g is not sums[0][0]): 1})
            _, longer = self.algebra.common(self.sum(whole, self.product(bound, others), -1))
            k, prim = self.algebra.primitive(longer)
            return self.long_test(prim), sign if k > 0 else -sign
        quantity = Form({tuple((g, 0, tidy(r * power)) for g, _, r in items): 1})
        test = Test(
            THRESHOLD, quantity.digest, quantity, quantity.kind in SINGLE, threshold=_float(bound), exact=bound,
            whole=len(items) == 1 and _is_whole(quantity), sum=x, turned=(a > 0) != (exponent > 0),
        )  # fmt: skip
        return test, sign

    def floored(self, test: Test) -> Test:
        """At the whole number below."""
        below = math.floor(test.threshold)
        return Test(THRESHOLD, test.quantity, test.form, test.single, threshold=float(below), exact=constant(below),
                    whole=True, sum=self.sum(test.form, constant(below), -1))  # fmt: skip

    # --- calls ---

    def called(self, op: str, args: list[Form], atom: Atom, cell: Cell) -> Form:
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
        range_ = max(range_[0], atom.range[0]) if sign > 0 else range_[0], range_[1]
        made = self.algebra.atom(op, tuple(args), atom.kind, range_, nonzero=nonzero)
        return self.algebra.scaled(self.factor(made, cell), sign)

    def modulo(self, x: Form, n: int) -> Form:
        """Mod n its terms are the same."""
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
        return self.algebra.scaled(self.sum(whole, self.factor(rest, cell), -1), 1 / Fraction(n))

    def clipped(self, atom: Atom, x: Form, most: Form, cell: Cell) -> Form:
        """clip(x, c): x, or c x / |x| where the norm of all is more than c."""
        squares = self.reduction(atom, [x], cell)
        norm = self.raised(squares, 0, Fraction(1, 2), cell)
        value = self.evaluated(x, cell)
        if self.sign(self.sum(norm, most, -1), cell) <= 0:
            return value
        return self.product(value, self.product(self.raised(norm, 1, -1, cell), most))

    def reduction(self, atom: Atom, args: list[Form], cell: Cell) -> Form:
        """A call whose result depends on more than one element; signs of what all share are asked for outside."""
        shared = {key: known for key, known in cell.items() if known[0].single}
        name = atom, _said(_SHARED, cell)
        if name not in self.reductions:
            self.asked.append({})  # what its elements ask is no one else's
            try:
                self.reductions[name] = self.reduction_value(atom, args, shared)
            finally:
                self.asked.pop()
        if self.asked:
            self.asked[-1][_SHARED] = _said(_SHARED, cell)
        return self.reductions[name]

    def reduction_value(self, atom: Atom, args: list[Form], shared: Cell) -> Form:
        """The value of a reduction in a cell of tests that all elements share."""
        cell = shared
        if atom.op in ("rms", "global_norm"):
            op = "mean" if atom.op == "rms" else "squares"
            return self.raised(self.linear(op, args[0], atom.kind, shared, 2, cell), 0, Fraction(1, 2), cell)
        if atom.op == "clip" and len(args) == 1:  # what its norm is the root of
            return self.linear("squares", args[0], Kind.GLOBAL, shared, 2, cell)
        if atom.op == "std":
            spread = self.linear("mean", args[0], atom.kind, shared, 2, cell, centred=True)
            return self.raised(spread, 0, Fraction(1, 2), cell)
        if atom.op == "mean":
            return self.linear("mean", args[0], atom.kind, shared, 1, cell)
        if atom.op == "sum":
            return self.product(
                self.linear("mean", args[0], atom.kind, shared, 1, cell), self.atom_value(self.count, cell)
            )
        if atom.op == "norm":
            squares = self.linear("mean", args[0], atom.kind, shared, 2, cell)
            return self.raised(self.product(squares, self.atom_value(self.count, cell)), 0, Fraction(1, 2), cell)
        inner = [self.inner(lambda known, a=a: self.leaf(a, known), shared) for a in args]  # type: ignore[misc]
        made = self.opaque(atom.op, inner, atom.kind, atom.range, atom.nonzero)
        return self.factor(made, cell)

    def inner(self, value: Callable[[Cell], Form], shared: Cell) -> Diagram:
        """The diagram of what differs from element to element."""
        return self.ordered(explore(value, shared, lambda test: not test.single))

    def linear(self, op: str, x: Form, kind: Kind, shared: Cell, power: int, cell: Cell, centred: bool = False) -> Form:
        """A sum or mean of elements, or of their squares, without the factors that all elements share."""
        middle = self.linear("mean", x, kind, shared, 1, cell) if centred else ZERO

        def value(known: Cell) -> Form:
            found = self.leaf(x, known)
            if centred:
                found = self.shortest(self.sum(found, middle, -1))
            if power == 2:
                return self.shortest(self.raised(found, 0, 2, known))
            return found

        inner = self.inner(value, shared)
        forms = [leaf.form for leaf in leaves(inner)]
        if isinstance(inner, Leaf) and inner.form.number is not None and op == "mean":
            return inner.form
        mono, k = self.shared_factor(forms)
        if not k:
            return ZERO
        k = magnitude(k) if power == 2 else k
        rest = mapped(inner, lambda f: self.algebra.scaled(self.algebra.divided(f, mono), 1 / Fraction(k)))
        ranges = [leaf.form.range for leaf in leaves(rest)]
        low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
        if op != "mean":
            low, high = (0.0 if low >= 0 else -math.inf), (0.0 if high <= 0 else math.inf)
        made = self.opaque(op, [rest], kind, (low, high), low > 0 or high < 0)
        if power == 2:
            self.squares[made] = _zero_where(rest)
        return self.product(self.factor(made, cell), Form({mono: k}))

    def shared_factor(self, forms: Iterable[Form]) -> tuple[Mono, Number]:
        """What all elements share: numbers of each tensor that are not 0, and a coefficient."""
        monos = [m for f in forms for m in f.terms]
        if not monos:
            return ONE, 0
        mono = tuple(i for i in monos[0] if i[0].kind in SINGLE and i[0].nonzero and all(i in m for m in monos))
        first = next(f for f in forms if f.terms)
        return mono, first.terms[self.algebra.lead(first)]

    def opaque(self, op: str, args: list[Diagram], kind: Kind, range_: Interval, nonzero: bool) -> Atom:
        """The atom of a call on diagrams."""
        key = (op, *(a.digest for a in args))
        if key not in self.algebra.atoms:
            digest = shaped(op) + hashed(f"{op}({','.join(a.digest for a in args)})")
            inside = {a for d in args for leaf in leaves(d) for a in atoms_in(leaf.form)}
            held = tuple(of_atom(a) for a in sorted(inside))
            self.algebra.atoms[key] = atom = Atom(op, held, kind, digest, range_, nonzero=nonzero)
            self.arguments[atom] = args
        return self.algebra.atoms[key]

    # --- arithmetic that is always possible here ---

    def sum(self, x: Form, y: Form, c: Number = 1) -> Form:
        """X + c y."""
        return _there(self.algebra.sum(x, y, c))

    def times(self, x: Form, y: Form) -> Form:
        """X y, multiplied out."""
        self.left -= 1
        if self.left < 0:
            raise TooLarge
        total = ZERO
        for left, a in x.terms.items():
            for right, b in y.terms.items():
                total = self.sum(total, _there(self.algebra._times(left, a, right, b)))
        return total

    def product(self, x: Form, y: Form) -> Form:
        """X y, where one of them is a single product."""
        return self.times(x, y)

    def power(self, x: Form, r: Number) -> Form:
        """Of a single positive product."""
        assert x.single is not None
        mono, c = x.single
        found = _there(self.algebra._product([(a, p, tidy(r * s)) for a, p, s in mono], 1))
        return self.product(found, self.algebra._number(c, 0, r))

    # --- one spelling of a quotient of sums ---

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
        # a sum whose root stands above it is written as one power
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
            total = self.sum(total, part)
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
            ratio = _there(self.algebra._times(lead, rest.terms[lead], tuple((a, p, tidy(-r)) for a, p, r in top), 1))
            ((mono, c),) = ratio.terms.items()
            c = Fraction(c) / y.terms[top]
            if any(r < 0 and not a.nonzero for a, _, r in mono) or not _within(mono, x, y):
                return None
            part = Form({mono: tidy(c)})
            found = self.sum(found, part)
            rest = self.sum(rest, self.times(part, y), -1)
        return None

    # --- cells that say the same ---

    def where_zero(self, x: Form, test: Test, cell: Cell) -> Form:
        """A value where a test's quantity is its threshold, or its sum 0: one factor or product leaves."""
        if test.rank == THRESHOLD:
            ((mono, _),) = test.form.terms.items()
            (atom, _, _), *others = mono
            assert test.exact is not None
            value = self.product(test.exact, Form({tuple((a, p, tidy(-r)) for a, p, r in others): 1}))
            return self.replaced(x, atom, value, cell)
        return self.shortest(self.modulo_sum(x, test.form, cell))

    def modulo_sum(self, x: Form, zero: Form, cell: Cell) -> Form:
        """X where a sum is 0, however deep: the sum's leading product is what is left of it."""
        lead = self.algebra.lead(zero)
        rest = Form({m: tidy(-c) for m, c in zero.terms.items() if m != lead})
        held = {a: r for a, _, r in lead}
        total = ZERO
        for mono, c in x.terms.items():
            part = constant(c)
            for a, p, r in mono:
                value = _one(a) if a.op != SUM else self.modulo_sum(sum_of(a), zero, cell)
                odd = isinstance(r, int) and r % 2 == 1
                if a.op == PRIME:
                    part = self.product(part, Form({((a, p, r),): 1}))
                elif not value.terms and r < 0:
                    raise TooLarge  # a quotient by 0
                else:
                    part = self.product(part, self.raised(value, 1 if odd else 0, r, cell))
            for m, k in part.terms.items():
                powers = {a: r for a, _, r in m}
                one = Form({m: k})
                if all(a in powers and powers[a] >= r for a, r in held.items()):
                    one = self.times(self.algebra.divided(one, lead), rest)
                total = self.sum(total, one)
        return total

    def replaced(self, x: Form, atom: Atom, value: Form, cell: Cell) -> Form:
        """X with another value for a factor, however deep; raises Unknown where a sign is needed."""
        return self.shortest(self._replaced(x, atom, value, {}, cell))

    def _replaced(self, x: Form, atom: Atom, value: Form, known: dict[Atom, Form], cell: Cell) -> Form:
        total = ZERO
        for mono, c in x.terms.items():
            part = constant(c)
            for a, _, r in mono:
                if a.op == PRIME:
                    part = self.product(part, Form({((a, 0, r),): 1}))
                    continue
                if a not in known:
                    known[a] = value if a is atom else self._atom_replaced(a, atom, value, known, cell)
                new = known[a]
                if not new.terms and r < 0:
                    raise TooLarge  # a quotient by 0
                odd = isinstance(r, int) and r % 2 == 1
                part = self.product(part, self.raised(new, 1 if odd else 0, r, cell))
            total = self.sum(total, part)
        return total

    def _atom_replaced(self, a: Atom, atom: Atom, value: Form, known: dict[Atom, Form], cell: Cell) -> Form:
        if a.op not in (SUM, SIZE, SIGNED) or atom not in atoms_in(of_atom(a)):
            return _one(a)
        (inside,) = a.args
        assert isinstance(inside, Form)
        if a.op == SUM:
            return self._replaced(inside, atom, value, known, cell)
        plain = self.plain[a]
        if plain.op not in OPS or not OPS[plain.op].elementwise:
            if atom.kind in SINGLE and not cell:
                raise TooLarge  # its diagram may ask for this factor
            return _one(a)  # other elements count, too
        args = [self._replaced(f, atom, value, known, cell) for f in plain.args if isinstance(f, Form)]
        return self.called(plain.op, args, plain, cell)

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
        if size not in atoms_in(top):
            return top if all(f == top for f in forms.values()) else None
        if 1 not in forms or not _grows(top, size):
            return None
        if 0 in forms:
            low = self.replaced(top, size, ZERO, {})
            squared = self.squares.get(self.plain[size], "")
            if (self.with_zero(low, squared, {}) if squared else low) != forms[0]:
                return None
        if -1 in forms and self.replaced(top, size, self.algebra.scaled(_one(size), -1), {}) != forms[-1]:
            return None
        return self.replaced(top, size, _one(signed), {})

    def continued(self, forms: dict[int, Form], test: Test) -> Form | None:
        """The form that holds above and below a threshold, and on it."""
        if forms[1] != forms[-1]:
            return None
        return forms[1] if 0 not in forms or self.shortest(self.where_zero(forms[1], test, {})) == forms[0] else None

    def moved(self, test: Test, children: Mapping[int, Diagram]) -> Diagram | None:
        """Of a whole number: with the least threshold of those that say the same."""
        if not test.whole or 1 not in children or 0 not in children:
            return None
        atoms = [i[0] for m in test.form.terms for i in m]
        first = test
        while children[0].digest == self.at(children[1], test, atoms).digest:
            test = self.floored(replace(test, threshold=test.threshold - 0.5))
            low, _ = test.bounds
            if test.threshold < low:
                return children[1]
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
            return Leaf(self.shortest(self.where_zero(diagram.form, test, {})))
        if any(a in atoms_in(diagram.test.form) for a in atoms):
            raise TooLarge
        kept = {v: self.at(child, test, atoms) for v, child in diagram.children.items()}
        return self.reduced(diagram.test, kept)


def _said(key: Key, cell: Cell) -> object:
    """The answer to a test in a cell; to all that elements share."""
    if key == _SHARED:
        return tuple(sorted((key, answer) for key, (test, answer) in cell.items() if test.single))
    return cell[key][1] if key in cell else None


def _one(atom: Atom) -> Form:
    return Form({((atom, _parity(atom, 1), 1),): 1})


def _parity(atom: Atom, r: Number) -> int:
    """Of a whole power of a factor that may be negative; its sign counts where it is odd."""
    return int(r) % 2 if atom.range[0] < 0 else 0


def _there(x: Form | None) -> Form:
    if x is None:
        raise TooLarge
    return x


def _zero_where(squares: Diagram) -> str:
    """The plain atom that is 0 where a sum of these squares is; "" where more may be."""
    if isinstance(squares, Leaf):
        held = [a for a, _, _ in squares.form.single[0] if not a.nonzero] if squares.form.single else []
        return _inside(held[0]).digest if len(held) == 1 and held[0].op == SIGNED else ""
    parts = {v: [leaf.form for leaf in leaves(child)] for v, child in squares.children.items()}
    if squares.test.rank != SIGN or 0 not in parts or any(f.terms for f in parts.pop(0)):
        return ""
    return squares.test.quantity if all(f.nonzero for forms in parts.values() for f in forms) else ""


def _inside(atom: Atom) -> Atom:
    """The plain atom of a factor."""
    (inside,) = atom.args
    assert isinstance(inside, Form) and inside.single is not None
    return inside.single[0][0][0]


def _grows(x: Form, atom: Atom) -> bool:
    """Whether a factor stands in positive powers alone, however deep."""
    for mono in x.terms:
        for a, _, r in mono:
            if a is atom and r <= 0:
                return False
            if a.op == SUM and not all(_grows(f, atom) for f in a.args if isinstance(f, Form)):
                return False
    return True


def _float(x: Form) -> float:
    single = x.single
    assert single is not None
    return float(single[1]) * math.prod(float(a.args[0]) ** float(r) for a, _, r in single[0])  # type: ignore[arg-type]


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
