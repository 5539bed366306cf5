"""Text to Program. Every refusal is one ProgramError: what, line and column, and the mend.

The grammar is `grammar.lark`. Trees are small records made bottom-up while lark reduces, so that depth costs
no recursion until it is checked; then each expression is flattened into statements in evaluation order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from importlib import resources
from typing import Any

from lark import Lark, Token
from lark.exceptions import UnexpectedCharacters, UnexpectedEOF, UnexpectedToken, VisitError

from .errors import ProgramError, quoted
from .link import Linker
from .program import (
    Program,
)  # fmt: skip
from .syntax import trees

MAX_TEXT = 1_000_000  # characters

_READABLE = {
    "NAME": "a name", "NUMBER": "a number", "LPAR": "'('", "RPAR": "')'", "COMMA": "','", "EQUAL": "'='",
    "COLON": "':'", "DEF": "'def'", "RETURN": "'return'", "_NL": "a new line", "TIMES": "an operator",
    "LSQB": "'['", "RSQB": "']'", "IN": "'in'", "FOR": "'for'", "ELSE": "'else'",
}  # fmt: skip


class _JoinLines:
    """Drops newlines inside parentheses."""

    always_accept = ("_NL",)

    def process(self, stream: Iterator[Token]) -> Iterator[Token]:
        depth = 0
        for token in stream:
            depth += {"LPAR": 1, "RPAR": -1}.get(token.type, 0)
            if token.type != "_NL" or depth <= 0:
                yield token


@cache
def _grammar() -> Lark:
    text = resources.files(__package__).joinpath("grammar.lark").read_text("utf-8")
    return Lark(text, parser="lalr", postlex=_JoinLines(), transformer=trees(), maybe_placeholders=True)


def parse(text: str, source: str = "", resolve: Callable[[str], Program] | None = None) -> Program:
    r"""The program that a text says; `resolve` gives the fallbacks that it names and does not hold.

    Raises ProgramError with line, column and the mend.

    >>> parse("def sgd(w, g, lr):\n  return lr * gg")
    Traceback (most recent call last):
    stepsmith.dsl.errors.ProgramError: program:2:15: unknown name 'gg'; did you mean 'g'?
    """
    try:
        if len(text) > MAX_TEXT:
            raise ProgramError(f"text of {len(text)} characters; a program has at most {MAX_TEXT}")
        return _parsed(text, resolve)
    except ProgramError as error:
        raise _earliest(error, text, resolve).located(source) from None


def _parsed(text: str, resolve: Callable[[str], Program] | None) -> Program:
    try:
        tree: Any = _grammar().parse(text + "\n")
    except VisitError as error:
        raise error.orig_exc from None
    except (UnexpectedToken, UnexpectedCharacters, UnexpectedEOF) as error:
        raise _syntax(error, text) from None
    if "\0" in text:  # in a comment, which would make an exported file that Python does not read
        before = text.partition("\0")[0].split("\n")
        raise ProgramError("unexpected character '\\x00' in a comment; take it out", len(before), len(before[-1]) + 1)
    return Linker(tree, resolve).program(_leading_comment(text))


def _earliest(error: ProgramError, text: str, resolve: Callable[[str], Program] | None) -> ProgramError:
    """The error on the first wrong line, though calls are looked up before all names.

    The lines before an error are parsed alone, with any return; without the functions after it they say too little.
    """
    lines, first = text.split("\n"), error.line or 1
    if first < 3 or any(re.match(r"\s*def\b", line) for line in lines[first - 1 :]):
        return error
    try:
        _parsed("\n".join([*lines[: first - 1], "return 0"]), resolve)
    except ProgramError as other:
        if other.line is not None and other.line < first:
            return _earliest(other, text, resolve)
    return error


def _leading_comment(text: str) -> str:
    lines = []
    for line in text.split("\n"):
        if not line.strip().startswith("#"):
            if line.strip():
                break
            continue
        lines.append(line.strip()[1:].strip())
    return "\n".join(lines).strip("\n")


def _syntax(error: UnexpectedToken | UnexpectedCharacters | UnexpectedEOF, text: str) -> ProgramError:
    """A lexer's or parser's complaint in the words of a person."""
    line, column = max(error.line, 1), max(error.column, 1)
    lines = text.split("\n")  # as the grammar counts them
    expected = _expected(error.interactive_parser.accepts())
    if isinstance(error, UnexpectedCharacters):
        rest = lines[line - 1][column - 1 :]
        if re.match(r"\.?[0-9]", rest):
            word = re.match(r"[\w.]+", rest)
            shown = quoted(word.group() if word else rest)
            return ProgramError(f"malformed number {shown}; write 0.5, 2 or 1e-3", line, column)
        return ProgramError(f"unexpected character {quoted(rest[:1])}; {expected}", line, column)
    token = getattr(error, "token", None)
    if token is None or token.type == "$END" or line > len(lines):
        return ProgramError(f"unexpected end of the program; {expected}", len(lines), len(lines[-1]) + 1)
    if token.type == "_NL":
        return ProgramError(f"unexpected end of line; {expected}", line, column)
    if token.type == "EQUAL":
        return ProgramError("unexpected '='; assignments have one name on the left, comparisons are < <= > >=",
                            line, column)  # fmt: skip
    return ProgramError(f"unexpected {quoted(token)}; {expected}", line, column)


def _expected(types: set[str]) -> str:
    return "expected " + " or ".join(sorted({_READABLE[t] for t in types & _READABLE.keys()}))
