"""Values in cells: where the signs of all that matters are known, forms are quotients of sums of positive factors.

In a cell every power is a plain one, common factors leave a sum whatever they are, and a quotient of sums has one
shortest spelling. So what a program writes with masks, choices, maxima, absolute values or signs is the same diagram of
cells if it is the same value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from fractions import Fraction

from ..interval import Interval
from ..kind import Kind
from ..ops import OPS
from .algebra import SINGLE, UNIT, ZERO, TooLarge
from .borders import Borders
from .diagram import SIGN, Cell, Diagram, Key, Leaf, explore, leaves, mapped, ordered
from .form import (
    HALF,
    ONE,
    PRIME,
    SUM,
    Atom,
    Form,
    Mono,
    Number,
    atoms_in,
    constant,
    hashed,
    magnitude,
    of_atom,
    shaped,
)
from .normal import INPUT, SPREAD
from .signs import SIGNED, inside

_SHARED: Key = (-1, "tensor", 0.0, "")  # stands for all tests that the elements of a tensor share
_WHOLE: Key = (-1, "all", 0.0, "")  # for all that the elements of all tensors share
_KINDS: dict[Key, tuple[Kind, ...]] = {_SHARED: SINGLE, _WHOLE: (Kind.GLOBAL,)}


class Cells(Borders):
    """Diagrams of forms. One serves all forms of one program."""

    def __init__(self, count: Atom, forms: Iterable[Form] = ()) -> None:
        """`count` is the number of elements of a tensor; raises TooLarge where a value may be no finite number."""
        super().__init__()
        if not all(atom.finite and atom.defined for atom in atoms_in(*forms)):
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
        if self.asked:
            self.asked[-1].update(found[0])
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
        return self.called(
            atom.op, [self.algebra.shortest(self.evaluated(a, cell)) for a in args], atom, cell, atom.range[0]
        )

    def clipped(self, atom: Atom, x: Form, most: Form, cell: Cell) -> Form:
        """clip(x, c): x, or c x / |x| where the norm of all is more than c."""
        squares = self.reduction(atom, [x], cell)
        norm = self.raised(squares, 0, HALF, cell)
        value = self.evaluated(x, cell)
        if self.sign(self.algebra.plus(norm, most, -1), cell) <= 0:
            return value
        return self.algebra.times(value, self.algebra.times(self.raised(norm, 1, -1, cell), most))

    def reduction(self, atom: Atom, args: list[Form], cell: Cell) -> Form:
        """A call whose result depends on more than one element; signs of what all share are asked for outside."""
        whole = atom.op == "clip" or OPS[atom.op].result is Kind.GLOBAL  # over all tensors, whose scalars are unlike
        outer = _WHOLE if whole else _SHARED
        name = atom, _said(outer, cell)
        if name not in self.reductions:
            self.asked.append({})  # what its elements ask is no one else's
            try:
                shared = {key: known for key, known in cell.items() if known[0].kind in _KINDS[outer]}
                self.reductions[name] = self.reduction_value(atom, args, shared, _KINDS[outer])
            finally:
                self.asked.pop()
        if self.asked:
            self.asked[-1][outer] = _said(outer, cell)
        return self.reductions[name]

    def reduction_value(self, atom: Atom, args: list[Form], shared: Cell, kinds: Collection[Kind]) -> Form:
        """The value of a reduction in a cell of tests that all elements share, which are of these kinds."""
        x = args[0]
        if atom.op == "global_norm" or (atom.op == "clip" and len(args) == 1):  # clip: what its norm is the root of
            squares = self.linear("squares", x, Kind.GLOBAL, shared, kinds, 2)
            return self.raised(squares, 0, HALF, shared) if atom.op == "global_norm" else squares
        if atom.op in ("rms", "std"):
            squares = self.linear("mean", x, atom.kind, shared, kinds, 2, centred=atom.op == "std")
            return self.raised(squares, 0, HALF, shared)
        if atom.op == "mean":
            return self.linear("mean", x, atom.kind, shared, kinds, 1)
        if atom.op in ("sum", "norm") and x.kind is Kind.TENSOR:
            total = self.linear("mean", x, atom.kind, shared, kinds, 1 if atom.op == "sum" else 2)
            total = self.algebra.times(total, self.atom_value(self.count, shared))
            return total if atom.op == "sum" else self.raised(total, 0, HALF, shared)
        inner = [self.inner(lambda known, a=a: self.leaf(a, known), shared, kinds) for a in args]  # type: ignore[misc]
        return self.factor(self.opaque(atom.op, inner, atom.kind, atom.range, atom.nonzero), shared)

    def inner(self, value: Callable[[Cell], Form], shared: Cell, kinds: Collection[Kind]) -> Diagram:
        """The diagram of what differs from element to element, or from tensor to tensor."""
        return self.ordered(explore(value, shared, lambda test: test.kind not in kinds))

    def linear(
        self, op: str, x: Form, kind: Kind, shared: Cell, kinds: Collection[Kind], power: int, centred: bool = False
    ) -> Form:
        """A sum or mean of elements, or of their squares, without the factors that all elements share."""
        middle = self.linear("mean", x, kind, shared, kinds, 1) if centred else ZERO

        def value(known: Cell) -> Form:
            found = self.leaf(x, known)
            if centred:
                found = self.algebra.shortest(self.algebra.plus(found, middle, -1))
            if power == 2:
                return self.algebra.shortest(self.raised(found, 0, 2, known))
            return found

        inner = self.inner(value, shared, kinds)
        forms = [leaf.form for leaf in leaves(inner)]
        if isinstance(inner, Leaf) and inner.form.number is not None and op == "mean":
            return inner.form
        mono, k = self.shared_factor(forms, kinds)
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
            self.zeros[made] = frozenset(filter(None, [_zero_where(rest)]))
        return self.algebra.times(self.factor(made, shared), Form({mono: k}))

    def shared_factor(self, forms: Iterable[Form], kinds: Collection[Kind]) -> tuple[Mono, Number]:
        """What all elements share: factors of these kinds that are not 0, and a coefficient."""
        monos = [m for f in forms for m in f.terms]
        if not monos:
            return ONE, 0
        mono = tuple(i for i in monos[0] if i[0].kind in kinds and i[0].nonzero and all(i in m for m in monos))
        first = next(f for f in forms if f.terms)
        return mono, first.terms[self.algebra.lead(first)]

    def opaque(self, op: str, args: list[Diagram], kind: Kind, range_: Interval, nonzero: bool) -> Atom:
        """The atom of a call on diagrams."""
        key = (op, *(a.digest for a in args))
        if key not in self.algebra.atoms:
            digest = shaped(op) + hashed(f"{op}({','.join(a.digest for a in args)})")
            inside = {a for d in args for a in atoms_in(*(leaf.form for leaf in leaves(d)))}
            held = tuple(of_atom(a) for a in sorted(inside))
            self.algebra.atoms[key] = atom = Atom(op, held, kind, digest, range_, nonzero=nonzero)
            self.arguments[atom] = args
        return self.algebra.atoms[key]


def _said(key: Key, cell: Cell) -> object:
    """The answer to a test in a cell; to all that elements share."""
    if key in _KINDS:
        return tuple(sorted((test.key, answer) for test, answer in cell.values() if test.kind in _KINDS[key]))
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
