"""From forms back to statements, in few of them.

A form is split, step by step, into a row and smaller forms: a common factor leaves a sum, a root is taken of a whole
product, a b + (1 - a) c is interp. Of the ways to split it the one with the fewest statements is taken; costs of
parts are kept, so a form is costed once however often it stands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import NamedTuple

from ..ops import OPS
from ..program import Arg, Const, Statement
from .algebra import Algebra, TooLarge
from .form import (
    PRIME,
    SUM,
    Atom,
    Form,
    Mono,
    Number,
    constant,
    exact,
    magnitude,
    tidy,
)
from .normal import INPUT
from .splits import KINDS, Splits, Way, digits, is_state, ordered

_MOST_WAYS = 4000
_DEEPEST = 60
_INEXACT = 5.0  # statements that a number is worth which no float prints


class Plan(NamedTuple):
    """What a form costs, and the first split."""

    cost: float
    way: Way | None = None  # None: an input or a number


class Speller(Splits):
    """Spells forms of one algebra as statements over slots.

    `given` are forms that are made anyway. `hints` are forms by which scales are chosen where they are free: inside
    a sign 0.1 g + 0.9 m is as good as g + 9 m, and the one that was written is preferred. `strict` refuses numbers
    that no float prints exactly, with TooLarge: rounding them is an error that a program may amplify.
    """

    def __init__(
        self,
        algebra: Algebra,
        slot_of: Callable[[int], int],
        first_local: int,
        hints: Iterable[Form] = (),
        strict: bool = True,
    ) -> None:
        super().__init__(algebra)
        self.strict = strict
        self.slot_of, self.next = slot_of, first_local
        self.scaled_atoms: dict[Atom, tuple[Atom, Number]] = {}
        self.hints: dict[Form, dict[Number, None]] = {}
        for hint in hints:
            k, prim = algebra.primitive(hint)
            self.hints.setdefault(prim, {})[magnitude(k)] = None
        self.statements: list[Statement] = []
        self.plans: dict[Form, Plan] = {}
        self.open: set[Form] = set()
        self.made: dict[Form, Arg] = {}
        self.ways = 0

    # --- emission ---

    def value(self, x: Form) -> Arg:
        """The slot or number that holds a form; statements are added for it."""
        x = self._opened(x)
        if x in self.made:
            return self.made[x]
        if x in self.given:  # from here on it is to be made
            self.given = [f for f in self.given if f != x]
            self.plans.clear()
        plan = self.plan(x)
        if plan.cost == math.inf:
            raise TooLarge
        self.made[x] = made = self._emit(x, plan)
        return made

    def _emit(self, x: Form, plan: Plan) -> Arg:
        number = _float(x)
        if number is not None:
            if self.strict and not _is_exact(x, number):
                raise TooLarge
            return Const(number)
        if plan.way is None:
            ((atom, _, _),) = next(iter(x.terms))
            assert atom.op == INPUT and isinstance(atom.args[0], int)
            return self.slot_of(atom.args[0])
        op, parts = plan.way
        return self.statement(op, tuple(self.value(part) for part in parts))

    def statement(self, op: str, args: tuple[Arg, ...]) -> int:
        """The slot of a new statement."""
        target, self.next = self.next, self.next + 1
        self.statements.append(Statement(target, op, args))
        return target

    # --- scales ---

    def nice(self, x: Form) -> Form:
        """The same value with free scales chosen such that it is spelled shortest."""
        terms: dict[Mono, Number] = {}
        for mono, c in ordered(x).terms.items():
            items, factor = [], constant(c)
            for atom, p, r in mono:
                new, k = self._nice_atom(atom)
                items.append((new, p, r))
                if k != 1:
                    power = self.algebra.power(constant(k), 0, r)
                    assert power is not None
                    factor = self.algebra.product(factor, power) or factor
            held = Form({tuple(sorted(i for i in items if i[0].op == PRIME)): 1})
            ((roots, c),) = (self.algebra.product(factor, held) or factor).terms.items()
            terms[tuple(sorted((*(i for i in items if i[0].op != PRIME), *roots)))] = c
        return Form(terms)

    def _nice_atom(self, atom: Atom) -> tuple[Atom, Number]:
        """An atom as a number times an atom that is spelled shorter."""
        if atom not in self.scaled_atoms:
            self.scaled_atoms[atom] = self._scaled_atom(atom) if atom.op not in (INPUT, PRIME) else (atom, 1)
        return self.scaled_atoms[atom]

    def _scaled_atom(self, atom: Atom) -> tuple[Atom, Number]:
        forms = tuple(a for a in atom.args if isinstance(a, Form))
        if len(forms) < len(atom.args) or not forms:
            return atom, 1
        args = [self.nice(a) for a in forms]
        free = _free(atom.op)
        factor: Number = 1
        if free is not None and args[0].number is None:
            k = self._best_scale(forms[0], args[0])
            args = [self.algebra.scaled(a, k) for a in args]
            factor = tidy(Fraction(1) / k) if free else 1
        elif atom.op == "dot":
            for place in range(2):
                k = self._best_scale(forms[place], args[place])
                args[place], factor = self.algebra.scaled(args[place], k), tidy(factor / Fraction(k))
        new = self.algebra.atom(atom.op, tuple(args), atom.kind, atom.range, atom.finite, atom.defined, atom.nonzero)
        return new, factor

    def _best_scale(self, was: Form, x: Form) -> Number:
        """By what a form is multiplied to be spelled shortest."""
        wanted = dict(self.hints.get(self.algebra.primitive(was)[1], {}))
        lead = magnitude(self.algebra.primitive(was)[0])
        tried: dict[Number, None] = {tidy(k / Fraction(lead)): None for k in wanted}
        tried[1] = None
        tried |= {tidy(1 / abs(Fraction(c))): None for c in ordered(x).terms.values()}
        total = sum(x.terms.values())
        if total and any(is_state(m) for m in x.terms):
            tried[tidy(1 / abs(Fraction(total)))] = None
        return min(tried, key=lambda k: self.plan(self.algebra.scaled(x, k)).cost)

    # --- the cheapest split ---

    def plan(self, x: Form) -> Plan:
        """The cheapest way found; raises TooLarge when too many were tried."""
        x = self._opened(x)
        if x in self.made or x in self.given:
            return Plan(0.0)
        known = self.plans.get(x)
        if known is not None:
            return known
        number = _float(x)
        if number is not None:
            return self._keep(x, Plan(digits(number) + (0 if _is_exact(x, number) else _INEXACT)))
        if self._is_input(x):
            return self._keep(x, Plan(0.0))
        if x in self.open or len(self.open) > _DEEPEST:
            return Plan(math.inf)
        x = ordered(x)
        self.open.add(x)
        best = Plan(math.inf)
        for op, parts in self.splits(x):
            self.ways += 1
            if self.ways > _MOST_WAYS:
                raise TooLarge
            cost = 1.0 + 0.001 * OPS[op].cost * (x.kind not in KINDS)
            for part in dict.fromkeys(parts):
                if cost >= best.cost:
                    break
                cost += self.plan(part).cost
            if cost < best.cost:
                best = Plan(cost, (op, parts))
        self.open.discard(x)
        return self._keep(x, best) if best.cost < math.inf else best

    def _keep(self, x: Form, plan: Plan) -> Plan:
        self.plans[x] = plan
        return plan

    def _is_input(self, x: Form) -> bool:
        single = x.single
        if single is None or single[1] != 1 or len(single[0]) != 1:
            return False
        ((atom, p, r),) = single[0]
        return atom.op == INPUT and r == 1 and (p == 1 or atom.range[0] >= 0)

    def _opened(self, x: Form) -> Form:
        """A sum that stands as one factor, as the sum."""
        if len(x.terms) == 1:
            ((mono, c),) = x.terms.items()
            if len(mono) == 1 and mono[0][0].op == SUM and mono[0][2] == 1:
                atom, p, _ = mono[0]
                if p or atom.range[0] >= 0:
                    return self.algebra.scaled(self._plain(atom), c)
        return x


def _free(op: str) -> int | None:
    """The degree, 0 or 1, of an atom whose first argument is kept at a scale of its own; None: its scale counts."""
    if op == "greater":
        return 0
    return 1 if op in (SUM, "clip", "rms", "norm", "global_norm", "mean", "sum", "amax", "std") else None


def _is_exact(x: Form, value: float) -> bool:
    return x.number is not None and exact(value) == x.number


def _float(x: Form) -> float | None:
    """The value of a form without inputs."""
    if not x.terms:
        return 0.0
    total = 0.0
    for mono, c in x.terms.items():
        if any(a.op != PRIME for a, _, _ in mono):
            return None
        part = float(c)
        for atom, _, r in mono:
            part *= float(atom.args[0]) ** float(r)  # type: ignore[arg-type]
        total += part
    return total
