"""Program to lines of JAX source, which exported optax files carry.

A tensor value is a list with one array per parameter, a scalar value a list of single numbers, a global value one
number. The lines hold no Python branch on a value, so that they can be traced: what `every` makes stands in a
`lax.cond` where it is costly. Values without a name that one expression reads are written inside it.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Sequence
from dataclasses import replace

from .flow import Flow, Node, flow
from .kind import Kind
from .kinds import axis_of
from .ops import OPS
from .program import FIRST, RESERVED, Arg, Const, G, Program, W
from .source import HEAVY, called_helpers, choose_names, early_numbers, guards_of, helpers

_HELPERS = "jax_helpers.py"
_INPUTS = {slot: name for slot, name in enumerate(RESERVED)} | {W: "params", G: "grads"}
_TAKEN = {*_INPUTS.values(), "w", "g", "jax", "jnp", "optax", "math", "np", "dtype", "x", "y", "z", "i", "places",
          "seed", *helpers(_HELPERS), *dir(builtins)}  # fmt: skip
_LONGEST = 92  # of an expression that holds others
_SUM, _PRODUCT, _ATOM = 1, 2, 3  # how tightly an expression holds together
#: Of rows spelled with operators: how tightly the result holds, and how tightly each argument must.
_BINDING: dict[str, tuple[int, tuple[int, ...]]] = {
    "add": (_SUM, (_SUM, _PRODUCT)),
    "subtract": (_SUM, (_SUM, _PRODUCT)),
    "interp": (_SUM, (_ATOM, _ATOM, _ATOM)),
    "multiply": (_PRODUCT, (_PRODUCT, _ATOM)),
    "divide by a number": (_PRODUCT, (_PRODUCT, _ATOM)),
    "cube": (_PRODUCT, (_ATOM,)),
    "negative": (_PRODUCT, (_ATOM,)),
    "matmul": (_PRODUCT, (_ATOM, _ATOM)),
}


def helpers_of(lines: Sequence[str]) -> list[str]:
    """The texts of the helpers that these lines call, for a file of its own."""
    return called_helpers(_HELPERS, lines)


class JaxSource:
    r"""The body of a step as source lines over lists of arrays `params` and `grads`.

    `lines` compute, `update` names the update (a list of arrays), `new_states` the new value of each live state by
    its index in the program. Where a line draws, it reads `places`, the indices of the parameters, and `seed`.

    >>> source = JaxSource(Program.parse("def f(w, g, m, lr):\n  m = interp(g, m, 0.9)\n  return lr * sign(m), m"))
    >>> print("\n".join(source.lines))
    m2 = [(1 - 0.9) * x + 0.9 * y for x, y in zip(grads, m)]
    update = [lr * jnp.sign(x) for x in m2]
    """

    def __init__(self, program: Program, hypers: dict[int, str] | None = None) -> None:
        self.program = program
        self.flow: Flow = flow(program, expand=True)
        if isinstance(self.flow.update, int) and self.flow.node(self.flow.update):
            self.flow = replace(self.flow, labels={self.flow.update: "update", **self.flow.labels})
        self.names = choose_names(self.flow, _INPUTS, hypers or {}, _TAKEN)
        self.lines: list[str] = []
        self._held: set[Arg] = {n for n in self._numbers() if self._fits_inside(n)}
        early = early_numbers(self.flow)
        self._guards = guards_of(self.flow, early)
        for number in sorted(self._numbers(), key=lambda n: n not in early):
            if number not in self._held:
                self._write(number)
        self.update = self._as_kind(self.flow.update, Kind.TENSOR)
        self.new_states = {index: self._as_kind(end, self.flow.kinds[FIRST + index]) for index, end in self.flow.states}

    def _numbers(self) -> range:
        return range(self.flow.first_node, self.flow.first_node + len(self.flow.nodes))

    def _node(self, number: Arg) -> Node:
        node = self.flow.node(number)
        assert node is not None
        return node

    def _fits_inside(self, number: int) -> bool:
        """Whether a value may stand inside the one expression that reads it."""
        ends = (self.flow.update, *(end for _, end in self.flow.states))
        if number in self.flow.labels or number in ends or not _is_expression(self._node(number).op):
            return False
        readers = [node for node in self.flow.nodes for arg in node.args if arg == number]
        if len(readers) != 1:
            return False
        row, position = OPS[readers[0].op], readers[0].args.index(number)
        if not (_is_expression(row.name) or row.cost >= HEAVY or row.like) or row.jax.count(f"{{{position}}}") != 1:
            return False
        return (self._node(number).kind is Kind.GLOBAL) == (readers[0].kind is Kind.GLOBAL)

    def _write(self, number: int) -> None:
        """Writes the line of a value, after those of the values inside it for which there is no room."""
        node = self._node(number)
        text, lists = self._spell(node)
        while len(text) > _LONGEST or len(lists) > 3:
            inside = [arg for arg in node.args if isinstance(arg, int) and arg in self._held]
            if not inside:
                break
            self._held.discard(inside[-1])
            self._write(inside[-1])
            text, lists = self._spell(node)
        if self._guards.get(number) and OPS[node.op].cost >= HEAVY:
            tests = [f"{self._text(cond)} {'!=' if side else '=='} 0" for cond, side in self._guards[number]]
            wanted = tests[0] if len(tests) == 1 else " & ".join(f"({test})" for test in tests)
            text = f"_when({wanted}, lambda: {text})"
        self.lines.append(f"{self.names[number]} = {text}")

    def _text(self, arg: Arg) -> str:
        if isinstance(arg, Const):
            return f"({arg.value!r})" if arg.value < 0 else repr(arg.value)
        return self.names[arg]

    def _as_kind(self, arg: Arg, kind: Kind) -> str:
        """The value as a list where its state is one."""
        alone = self.flow.kind(arg) is Kind.GLOBAL and kind is not Kind.GLOBAL
        return f"[{self._text(arg)}] * len(grads)" if alone else self._text(arg)

    def _spell(self, node: Node) -> tuple[str, list[str]]:
        """The value of a node, and the lists over which its expression runs."""
        row, lists = OPS[node.op], list[str]()
        if row.result is Kind.GLOBAL:
            return row.jax.format(*(self._text(a) for a in node.args)), lists
        if node.op == "worker_mean":  # of one worker
            return self._text(node.args[0]), lists
        text, _ = self._expression(node, lists)
        if node.kind is Kind.GLOBAL:
            return text, lists
        over = dict(zip("xyz", lists, strict=False))
        if row.draws:
            over = {"i": "places", **over}
        if row.like:
            over["w"] = "grads"
        source = next(iter(over.values())) if len(over) == 1 else f"zip({', '.join(over.values())})"
        return f"[{text} for {', '.join(over)} in {source}]", lists

    def _expression(self, node: Node, lists: list[str]) -> tuple[str, int]:
        """The value for one parameter, and how tightly the expression holds together."""
        row = OPS[node.op]
        plain = node.op == "divide" and isinstance(node.args[1], Const) and node.args[1].value != 0
        template = "{0} / {1}" if plain else row.jax
        holds, wanted = _BINDING.get("divide by a number" if plain else node.op, (_ATOM, ()))
        if not wanted:
            wanted = tuple(_ATOM if f"{{{i}}}." in template else _SUM for i in range(len(node.args)))
        args = [self._argument(a, least, lists) for a, least in zip(node.args, wanted, strict=True)]
        axis = axis_of(row, self.flow.kind(node.args[0])) if row.axis else None
        text = template.format(*args, axis=axis, like="w", draw="i, seed")
        if node.kind is Kind.SCALAR and row.needs_matrix and row.result is None:
            return f"({text}).reshape(())", _ATOM
        return text, holds

    def _argument(self, arg: Arg, least: int, lists: list[str]) -> str:
        if isinstance(arg, int) and arg in self._held:
            text, holds = self._expression(self._node(arg), lists)
            return text if holds >= least else f"({text})"
        text = self._text(arg)
        if self.flow.kind(arg) is Kind.GLOBAL:
            return text
        if text not in lists:
            lists.append(text)
        # Where there are more than three, the line is not used.
        return "xyz"[min(lists.index(text), 2)]


def _is_expression(op: str) -> bool:
    """Whether a row may stand inside another: it is cheap and made from the arrays of one parameter alone."""
    row = OPS[op]
    return row.cost < HEAVY and row.result is not Kind.GLOBAL and not (row.draws or row.like or op == "worker_mean")


def reads_places(source: JaxSource) -> bool:
    """Whether the lines draw random numbers."""
    return any(re.search(r"\bplaces\b", line) for line in source.lines)
