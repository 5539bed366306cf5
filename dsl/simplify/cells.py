"""Values in cells: where the signs of all that matters are known, forms are quotients of sums of positive factors.

In a cell every power is a plain one, common factors leave a sum whatever they are, and a quotient of sums has one
shortest spelling. So what a program writes with masks, choices, maxima, absolute values or signs is the same diagram of
cells if it is the same value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from fractions import Fraction

from ..interval import Interval
from ..kind import Kind
from ..ops import OPS
from .algebra import SINGLE, UNIT, ZERO, TooLarge
from .borders import Borders
from .diagram import SIGN, Cell, Diagram, Key, Leaf, atoms_in, explore, leaves, mapped, ordered
from .form import ONE, PRIME, SUM, Atom, Form, Mono, Number, constant, hashed, magnitude, of_atom, shaped
from .normal import INPUT, SPREAD
from .signs import SIGNED, inside

_SHARED: Key = (-1, "", 0.0, "")  # stands for all tests that elements share


class Cells(Borders):
    """Diagrams of forms. One serves all forms of one program."""

    def __init__(self, count: Atom, forms: Iterable[Form] = ()) -> None:
        """`count` is the number of elements of a tensor; raises TooLarge where a value may be no finite number."""
        super().__init__()
        if not all(atom.finite and atom.defined for form in forms for atom in atoms_in(form)):
            raise TooLarge
        self.count = count
        self.arguments: dict[Atom, list[Diagram]] = {}  # of calls whose result depends on more than one element
        self.values: dict[Atom, list[tuple[dict[Key, object], Form]]] = {}
        self.reductions: dict[tuple[Atom, object], Form] = {}

    def diagram(self, form: Form) -> Diagram:
        """The diagram of a form; raises TooLarge where it has too many cells."""
        tree = explore(lambda cell: self.leaf(form, cell), {}, lambda test: True)
        return self.ordered(tree)

    def ordered(self, tree: Diagram) -> Diagram:
        """A tree as a diagram."""
        return ordered(tree, self.settled, self.reduced)

    def leaf(self, form: Form, cell: Cell) -> Form:
        """The value in a cell, spelled in one way, with what the cell says to be equal taken as equal."""
        return self.settled(self.algebra.shortest(self.evaluated(form, cell)), cell)

    def evaluated(self, form: Form, cell: Cell) -> Form:
        """The value of a program's form; raises Unknown where it needs a sign."""
        total = ZERO
        for mono, c in form.terms.items():
            part = constant(c)
            for atom, p, r in mono:
                part = self.algebra.times(part, self.raised(self.atom_value(atom, cell), p, r, cell))
                if not part.terms:
                    break
            total = self.algebra.plus(total, part)
        return total

    def atom_value(self, atom: Atom, cell: Cell) -> Form:
        """The value of a program's atom, remembered with the answers that it took."""
        if atom.op == PRIME:
            return self.algebra.number_power(Fraction(int(atom.args[0])), 0, 1)  # type: ignore[arg-type]
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

    def _atom_value(self, atom: Atom, cell: Cell) -> Form:
        args = [a for a in atom.args if isinstance(a, Form)]
        if atom.op in (SUM, SPREAD):
            return self.evaluated(args[0], cell)
        if atom.op == INPUT:
            return self.factor(atom, cell)
        if atom.op == "greater":
            difference = self.algebra.plus(self.evaluated(args[0], cell), self.evaluated(args[1], cell), -1)
            return UNIT if self.sign(difference, cell) > 0 else ZERO
        if atom.op == "clip" and (args[1].number or 0) > 0:
            return self.clipped(atom, args[0], args[1], cell)
        if not OPS[atom.op].elementwise or atom.op == "worker_mean":
            return self.reduction(atom, args, cell)
        return self.called(atom.op, [self.algebra.shortest(self.evaluated(a, cell)) for a in args], atom, cell)

    def clipped(self, atom: Atom, x: Form, most: Form, cell: Cell) -> Form:
        """clip(x, c): x, or c x / |x| where the norm of all is more than c."""
        squares = self.reduction(atom, [x], cell)
        norm = self.raised(squares, 0, Fraction(1, 2), cell)
        value = self.evaluated(x, cell)
        if self.sign(self.algebra.plus(norm, most, -1), cell) <= 0:
            return value
        return self.algebra.times(value, self.algebra.times(self.raised(norm, 1, -1, cell), most))

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
            return self.algebra.times(
                self.linear("mean", args[0], atom.kind, shared, 1, cell), self.atom_value(self.count, cell)
            )
        if atom.op == "norm":
            squares = self.linear("mean", args[0], atom.kind, shared, 2, cell)
            return self.raised(self.algebra.times(squares, self.atom_value(self.count, cell)), 0, Fraction(1, 2), cell)
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
                found = self.algebra.shortest(self.algebra.plus(found, middle, -1))
            if power == 2:
                return self.algebra.shortest(self.raised(found, 0, 2, known))
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
        return self.algebra.times(self.factor(made, cell), Form({mono: k}))

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


def _said(key: Key, cell: Cell) -> object:
    """The answer to a test in a cell; to all that elements share."""
    if key == _SHARED:
        return tuple(sorted((key, answer) for key, (test, answer) in cell.items() if test.single))
    return cell[key][1] if key in cell else None


def _zero_where(squares: Diagram) -> str:
    """The plain atom that is 0 where a sum of these squares is; "" where more may be."""
    if isinstance(squares, Leaf):
        held = [a for a, _, _ in squares.form.single[0] if not a.nonzero] if squares.form.single else []
        return inside(held[0]).digest if len(held) == 1 and held[0].op == SIGNED else ""
    parts = {v: [leaf.form for leaf in leaves(child)] for v, child in squares.children.items()}
    if squares.test.rank != SIGN or 0 not in parts or any(f.terms for f in parts.pop(0)):
        return ""
    return squares.test.quantity if all(f.nonzero for forms in parts.values() for f in forms) else ""
