r"""Abstract interpretation of programs: what holds of every value at every step, whatever the gradients are.

A domain says what is known of inputs, and what a row makes of what is known of its arguments. States start at 0, of
which everything holds, and are solved as a fixed point: what is known of a state is right when a step keeps it. Then
by induction it holds at all steps. Roundings are left aside, and so are NaN and what overflows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, TypeAlias

import numpy as np

from .flow import Flow, Node
from .kind import Kind
from .kinds import COUNTED, shown_op
from .ops import OPS
from .program import FIRST, GAUSS_NEWTON, HUTCHINSON, NOISE, TWO_POINT, Arg, Const, G, W

Fact: TypeAlias = Any  # what a domain knows of a value
ZERO: Fact = "zero"  # the value is 0 everywhere


class Broken(Exception):
    """A proof does not go through; the message is the op that stops it."""


class Domain:
    """What can be known of a value."""

    def fixed(self, kind: Kind) -> Fact:
        """Of a value that depends on no tensor that is transformed."""
        raise NotImplementedError

    def input(self, slot: int, kind: Kind) -> Fact:
        """Of a reserved input."""
        raise NotImplementedError

    def apply(self, live: Flow, node: Node, facts: Sequence[Fact]) -> Fact:
        """Of the result of a node, by its arguments. Raises Broken."""
        raise NotImplementedError

    def join(self, a: Fact, b: Fact) -> Fact:
        """Of a value that is the one or the other, neither ZERO. Raises Broken."""
        if a != b:
            raise Broken(f"of {self.shown(a)} and {self.shown(b)}")
        return a

    def joined(self, facts: Sequence[Fact]) -> Fact:
        """Of one of several."""
        result = ZERO
        for fact in facts:
            if fact is not ZERO:
                result = fact if result is ZERO else self.join(result, fact)
        return result

    def shown(self, fact: Fact) -> str:
        """A fact in words."""
        return str(fact)

    def keeps(self, live: Flow, codec: Any, fact: Fact) -> None:
        """Raises Broken where a state that is kept to a low rank loses the property."""


def solve(live: Flow, domain: Domain, codecs: Sequence[Any] = ()) -> Fact:
    r"""What holds of the update; raises Broken where a step keeps nothing of the domain.

    `live` is expanded; `codecs` are those of its states, in the order of `live.states`.

    >>> from .flow import flow
    >>> from .program import Program
    >>> rms = Program.parse("def f(w, g, v, lr):\n  v = interp(g * g, v, 0.9)\n  return lr * sqrt(v), v")
    >>> solve(flow(rms, expand=True), Degree()), solve(flow(rms, expand=True), Parity())
    (1.0, 'even')
    """
    states: dict[int, Fact] = {FIRST + index: ZERO for index, _ in live.states}
    while True:
        facts = _step(live, domain, states)
        new = {}
        for place, (index, end) in enumerate(live.states):
            slot = FIRST + index
            fact = _read(live, domain, facts, end)
            if fact is not ZERO and codecs and codecs[place] is not None and codecs[place].needs_matrix:
                domain.keeps(live, codecs[place], fact)
            try:
                new[slot] = domain.joined([states[slot], fact])
            except Broken as broken:
                raise Broken(f"state {live.labels.get(slot) or index} is {broken}") from None
        if new == states:
            return _read(live, domain, facts, live.update)
        states = new


def _step(live: Flow, domain: Domain, states: dict[int, Fact]) -> dict[int, Fact]:
    """What holds of every value, if that holds of the states."""
    facts = dict(states)
    numbers = known_numbers(live)
    for number, node in enumerate(live.nodes, live.first_node):
        args = [_read(live, domain, facts, a) for a in node.args]
        try:
            facts[number] = _made(live, domain, numbers, number, args)
        except Broken as broken:
            names = [live.labels.get(number), *(live.labels.get(a) for a in node.args if a in live.hypers)]
            label = next((f" ({name})" for name in names if name), "")
            raise Broken(f"{shown_op(node.op)} {broken}{label}") from None
    return facts


def _made(live: Flow, domain: Domain, numbers: dict[Arg, float], number: int, args: list[Fact]) -> Fact:
    node = live.nodes[number - live.first_node]
    if number in numbers:
        return domain.fixed(Kind.GLOBAL) if numbers[number] else ZERO
    if ZERO in args and ("bilinear" in OPS[node.op].traits or node.op == "divide"):
        return ZERO
    if node.op == "where":
        chosen = numbers.get(node.args[0], float("nan"))
        if args[0] is ZERO or chosen == chosen:
            return args[1] if args[0] is not ZERO and chosen else args[2]
    if all(a is ZERO for a in args):
        same = not OPS[node.op].needs_matrix  # at all elements
        return ZERO if _keeps_zero(node.op) else domain.fixed(Kind.GLOBAL if same else node.kind)
    return domain.apply(live, node, args)


def _read(live: Flow, domain: Domain, facts: dict[int, Fact], arg: Arg) -> Fact:
    if isinstance(arg, Const):
        return domain.fixed(Kind.GLOBAL) if arg.value else ZERO
    if arg in live.hypers:
        return domain.fixed(Kind.GLOBAL) if live.hypers[arg] else ZERO
    return facts[arg] if arg in facts else domain.input(arg, live.kind(arg))


def known_numbers(live: Flow) -> dict[Arg, float]:
    """The values that are numbers by the text alone."""
    numbers: dict[Arg, float] = {a: a.value for n in live.nodes for a in n.args if isinstance(a, Const)}
    numbers.update(live.hypers.items())
    with np.errstate(all="ignore"):
        for number, node in enumerate(live.nodes, live.first_node):
            row = OPS[node.op]
            if row.elementwise and row.meaning is not None and all(a in numbers for a in node.args):
                numbers[number] = float(row.meaning(*(np.float64(numbers[a]) for a in node.args)))
    return numbers


@cache
def _keeps_zero(op: str) -> bool:
    """Whether a row is 0 where all its arguments are."""
    row = OPS[op]
    if not row.elementwise or row.meaning is None:
        return (degree_of(op) or 0) > 0
    with np.errstate(all="ignore"):
        return float(row.meaning(*[np.float64(0)] * row.arity)) == 0


@cache
def degree_of(op: str) -> float | None:
    """The k of a row with f(c x) = c^k f(x) for c > 0, x all its arguments; None where there is none.

    >>> degree_of("sqrt"), degree_of("less"), degree_of("exp")
    (0.5, 0.0, None)
    """
    return next((float(word[7:]) for word in OPS[op].traits if word.startswith("degree:")), None)


def split(node: Node, facts: Sequence[Fact]) -> tuple[list[Fact], list[Fact]]:
    """Arguments of which a row's traits speak, and the numbers that steer it."""
    if node.op in ("interp", "quantile"):
        return list(facts[:-1]), list(facts[-1:])
    if node.op == "where":
        return list(facts[1:]), list(facts[:1])
    patterns = OPS[node.op].patterns
    steering = {i for i, p in enumerate(patterns) if p in (*COUNTED, ".")}
    if not steering:
        return list(facts), []
    # random_projection has t beside its arguments
    matrices = [f for i, f in enumerate(facts[: len(patterns)]) if i not in steering]
    return matrices, [f for i, f in enumerate(facts) if i in steering or i >= len(patterns)]


# --- scale --------------------------------------------------------------------------------------------------


class Degree(Domain):
    """Homogeneity in the gradients: a value of degree d becomes c^d times itself when all gradients become c times.

    A loss that is c times larger has c times the gradient, the curvature and the difference of losses.
    """

    def fixed(self, kind: Kind) -> Fact:
        """Degree 0."""
        return 0.0

    def input(self, slot: int, kind: Kind) -> Fact:
        """1 for what scales with the loss."""
        return {G: 1.0, HUTCHINSON: 1.0, TWO_POINT: 1.0, GAUSS_NEWTON: 2.0}.get(slot, 0.0)

    def shown(self, fact: Fact) -> str:
        """As "degree 2"."""
        return f"degree {fact:g}"

    def apply(self, live: Flow, node: Node, facts: Sequence[Fact]) -> Fact:
        """Degrees add in products and multiply in powers; a sum wants them equal."""
        if "bilinear" in OPS[node.op].traits:
            return facts[0] + facts[1]
        if node.op == "divide":
            return facts[0] - facts[1]
        if node.op == "power":
            return self._power(live, node, facts)
        main, steering = split(node, facts)
        if node.op != "where":  # a choice sees whether its condition is 0, which no scale changes
            self._plain(steering)
        if node.op == "where":
            return self.joined(main)
        degree = degree_of(node.op)
        if degree is None:
            self._plain(main)
            return 0.0
        joined = self.joined(main)
        if joined is ZERO:
            return ZERO if degree > 0 else 0.0
        return round(degree * joined, 12)

    def _power(self, live: Flow, node: Node, facts: Sequence[Fact]) -> Fact:
        base, power = facts
        self._plain([power])
        if base is ZERO or base == 0:
            return 0.0
        number = known_numbers(live).get(node.args[1])
        if number is None:
            raise Broken(f"of {self.shown(base)} to a power that varies")
        return round(base * number, 12)

    def _plain(self, facts: Sequence[Fact]) -> None:
        for fact in facts:
            if fact is not ZERO and fact != 0:
                raise Broken(f"of {self.shown(fact)}")


# --- signs --------------------------------------------------------------------------------------------------


class Parity(Domain):
    """Signs, element by element: an odd value flips where w and g flip, an even one does not.

    Noise is odd: flipped, it is noise of the same distribution.
    """

    def fixed(self, kind: Kind) -> Fact:
        """Even."""
        return "even"

    def input(self, slot: int, kind: Kind) -> Fact:
        """Odd for vectors in the space of weights."""
        return "odd" if slot in (W, G, NOISE) else "even"

    def apply(self, live: Flow, node: Node, facts: Sequence[Fact]) -> Fact:
        """Even of even ones; beyond that by the row's traits, and matrix products of even ones alone."""
        row = OPS[node.op]
        if node.op.partition(":")[0] in ("size", "eye") or all(f is ZERO or f == "even" for f in facts):
            return "even"
        if node.op == "dot" or (row.elementwise and (node.op == "divide" or "bilinear" in row.traits)):
            parity = "even" if facts[0] == facts[1] else "odd"
            if node.op == "dot" and parity == "odd":
                raise Broken("of odd and even values")
            return parity
        if not row.elementwise and node.op not in ("transpose", "wide", "unwide", "worker_mean"):
            if "by_size" in row.traits:
                return "even"
            raise Broken("of odd values")
        if node.op == "power":
            return self._power(live, node, facts)
        main, steering = split(node, facts)
        if node.op != "where" and any(f == "odd" for f in steering):
            raise Broken("steered by odd values")
        if node.op == "where" or "linear" in row.traits:
            return self.joined(main)
        if len(main) == 1 and row.traits & {"odd", "even"}:
            return "even" if "even" in row.traits else "odd"
        raise Broken("of odd values")

    def _power(self, live: Flow, node: Node, facts: Sequence[Fact]) -> Fact:
        number = known_numbers(live).get(node.args[1])
        if facts[1] == "odd" or number is None or number != int(number):
            raise Broken("of odd values")
        return "odd" if number % 2 else "even"

    def keeps(self, live: Flow, codec: Any, fact: Fact) -> None:
        """A matrix of even values stays one."""
        if fact == "odd":
            raise Broken(f"a state in {codec} is odd")
