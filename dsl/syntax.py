"""What the grammar makes of a text: expressions as nodes, headers and functions as records, each with its place."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from lark import Token, Transformer, v_args

from .errors import ProgramError, did_you_mean, quoted, short
from .matrix_ops import REDUCED
from .ops import ALIASES, INFIX, NOT_CALLABLE, OPS
from .program import (
    MAX_DEPTH,
)  # fmt: skip

CALLABLE = {*(op for op in OPS if ":" not in op), *ALIASES} - {"identity"}  # identity is written x = y
_ALONG = {op.partition(":")[0] for op in OPS if ":" in op}  # reductions that take an axis


class Node(NamedTuple):
    """An expression: a number, a name, or an op over nodes; where it stands; how deep it is."""

    op: str  # an op of the table, or "" for a number or a name
    leaf: Token | float | None
    args: tuple[Node, ...]
    token: Token
    depth: int


class Parameter(NamedTuple):
    """A header entry."""

    token: Token
    annotation: Annotation | None
    default: float | None


class Form(NamedTuple):
    """A part of an annotation: a name with a number, or two axes."""

    token: Token
    number: Token | None = None
    axes: tuple[Token, ...] = ()
    period: bool = False  # written `every 10`


class Annotation(NamedTuple):
    """What a header says of a name: a kind, a codec, both, or the period of an oracle."""

    form: Form
    codec: Form | None


class Route(NamedTuple):
    """The roles that a program is for, and the name of the program for the others."""

    roles: tuple[Token, ...]
    fallback: Token | None


class Definition(NamedTuple):
    """A function of the text."""

    name: Token
    parameters: list[Parameter]
    route: Route | None
    body: list[tuple[Token, Any]]


def number_of(token: Token) -> float:
    """The number that a token says; raises ProgramError where no float holds it."""
    value = float(token)
    if not math.isfinite(value):
        raise at(token, f"{short(token)} is too large for a float; write a smaller number")
    return value


def at(token: Token, message: str) -> ProgramError:
    """An error at a token."""
    return ProgramError(message, token.line, token.column)


@v_args(inline=True)
class _Trees(Transformer[Token, Any]):
    """Reductions of the grammar to nodes."""

    def signed(self, minus: Token | None, number: Token) -> float:
        return -number_of(number) if minus else number_of(number)

    def parameter(self, name: Token, annotation: Annotation | None, default: float | None) -> Parameter:
        return Parameter(name, annotation, default)

    def named(self, name: Token, number: Token | None) -> Form:
        return Form(name, number)

    def period(self, word: Token, number: Token) -> Form:
        if word != "every":
            raise at(word, f"unexpected {quoted(word)}; a period is written: every {number}")
        return Form(word, number, period=True)

    def axes(self, rows: Token, columns: Token) -> Form:
        return Form(rows, axes=(rows, columns))

    def annotation(self, form: Form, codec: Form | None) -> Annotation:
        return Annotation(form, codec)

    def route(self, *names: Token | None) -> Route:
        return Route(tuple(n for n in names[:-1] if n is not None), names[-1])

    def header(self, name: Token, *rest: Parameter | Route | None) -> tuple[Token, list[Parameter], Route | None]:
        route = rest[-1] if rest and isinstance(rest[-1], Route) else None
        return name, [p for p in rest if isinstance(p, Parameter)], route

    def definition(self, header: tuple[Token, list[Parameter], Route | None], *body: tuple[Token, Any]) -> Definition:
        return Definition(*header, list(body))

    def repeat(self, word: Token, count: Token) -> tuple[Token, float]:
        return word, number_of(count)

    def end(self, word: Token) -> tuple[Token, None]:
        return word, None

    def number(self, token: Token) -> Node:
        return Node("", number_of(token), (), token, 1)

    def variable(self, token: Token) -> Node:
        return Node("", token, (), token, 1)

    def infix(self, left: Node, symbol: Token, right: Node) -> Node:
        return self._op(INFIX[str(symbol)], (left, right), symbol)

    def minus(self, token: Token, value: Node) -> Node:
        if isinstance(value.leaf, float):
            return value._replace(leaf=-value.leaf)
        return self._op("negative", (value,), token)

    def power(self, base: Node, exponent: Node) -> Node:
        return self._op("power", (base, exponent), base.token)

    def call(self, name: Token, *args: Node | None) -> Node:
        given = tuple(a for a in args if a is not None)
        op = ALIASES.get(str(name), str(name))
        if op in NOT_CALLABLE:
            raise at(name, f"{name!s} cannot be called: {NOT_CALLABLE[op]}")
        if op not in CALLABLE:
            raise at(name, f"unknown function {quoted(name)}; {did_you_mean(name, CALLABLE)}")
        if op in _ALONG and len(given) == 2 and isinstance(given[1].leaf, Token):
            axis = given[1].leaf
            if axis not in REDUCED:
                raise at(axis, f"unknown axis {quoted(axis)}; {did_you_mean(axis, REDUCED)}")
            return self._op(f"{op}:{axis}", given[:1], name)
        if op in _ALONG and len(given) != 1:
            raise at(name, f"{name!s} takes 1 argument, and of a matrix one of the axes {', '.join(REDUCED)} after it")
        if len(given) != OPS[op].arity:
            wanted = OPS[op].arity
            plural = "" if wanted == 1 else "s"
            raise at(name, f"{name!s} takes {wanted} argument{plural}, not {len(given)}")
        return self._op(op, given, name)

    def _op(self, op: str, args: tuple[Node, ...], token: Token) -> Node:
        depth = 1 + max((a.depth for a in args), default=0)
        if depth > MAX_DEPTH:
            raise at(token, f"expression nests deeper than {MAX_DEPTH}; name a part of it on a line of its own")
        return Node(op, None, args, token, depth)

    def assign(self, name: Token, value: Node) -> tuple[Token, Node]:
        return name, value

    def returns(self, token: Token, *values: Node | None) -> tuple[Token, list[Node]]:
        return token, [v for v in values if v is not None]

    def start(self, *definitions: Definition) -> list[Definition]:
        return list(definitions)


def trees() -> Transformer[Token, Any]:
    """What lark calls as it reduces: gives a list of definitions."""
    return _Trees()
