"""A wrong text gets one line that says what, where and the mend; nothing else ever escapes the parser."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stepsmith.dsl import Program, ProgramError, check

ODD = [
    "\0", "\t", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "é", "Ω", "²", "٣", "１", "😀", "\ud800",
    "\\", '"', "'", "`", "#", "\n", "\n\n", "(", ")", ",", "=", ":", "**", "<", ">=", "-", "+", "*", "/", "%", "@",
    "1e999", "1e-999", "0x10", "1_000", "1.2.3", "1e", ".", "..", "0", "inf", "nan", "def", "return", "lambda", "lr",
    "w", "g", "t", "progress", "scalar", "global", "invert", "identity", "interp", "sqrt", "(" * 300, ")" * 300,
    "x" * 5000, "1" * 5000, "-" * 2000, "((((", "return w\n", "def f(w, g, lr):\n",
]  # fmt: skip


def mangled(text: str, random: np.random.Generator) -> str:
    """The text after a few deletions, insertions, swaps or a cut."""

    def at() -> int:
        return int(random.integers(len(text) + 1))

    for _ in range(int(random.integers(1, 5))):
        start, end = sorted((at(), at()))
        match int(random.integers(6)):
            case 0:  # a few characters go
                text = text[:start] + text[start + int(random.integers(1, 6)) :]
            case 1 | 2:
                text = text[:start] + ODD[int(random.integers(len(ODD)))] + text[start:]
            case 3:  # two stretches change places
                length = min(end - start, int(random.integers(1, 12)))
                text = text[:start] + text[end : end + length] + text[start + length : end] + (
                    text[start : start + length] + text[end + length :]
                )  # fmt: skip
            case 4 if random.random() < 0.3:
                text = text[:end]
            case 5:  # two lines change places, or one stands twice
                lines = text.split("\n")
                i, j = (int(k) for k in random.integers(len(lines), size=2))
                lines[i] = lines[j]
                text = "\n".join(lines)
    return text


def expect_a_good_error(text: str) -> bool:
    """Parses the text, or gets the one kind of error. Whether it parsed."""
    try:
        program = Program.parse(text)
    except ProgramError as error:
        assert len(str(error).splitlines()) == 1, repr(str(error))
        assert len(str(error)) < 400, repr(str(error))[:1000]
        assert str(error).isprintable(), repr(str(error))
        lines = text.split("\n")
        assert error.line is not None and 1 <= error.line <= len(lines), (error, text)
        assert 1 <= error.column <= len(lines[error.line - 1]) + 1, (error, text)
        return False
    assert Program.parse(str(program)) == program
    return True


def test_a_mangled_text_parses_or_raises_a_located_error(starts):
    from_starts = [str(p) for p in starts.values()]
    parsed = 0
    for number in range(5_000):
        random = np.random.Generator(np.random.Philox(key=number))
        parsed += expect_a_good_error(mangled(from_starts[number % len(from_starts)], random))
    print(f"{parsed} of 5,000 mangled texts still parse")
    assert 250 < parsed < 2_500


HEADER = "def f(w, g, m, lr=0.1):\n"

MISTAKES = {
    "a misspelt function": (HEADER + "  m = sgin(g)\n  return lr * m, m",
        "2:7: unknown function 'sgin'; did you mean 'sign'?"),
    "a misspelt name": (HEADER + "  update = lr * g\n  return updaet, m",
        "3:10: unknown name 'updaet'; did you mean 'update'?"),
    "a state that the header lacks": (
        "def f(w, g, lr):\n  m = 0.9 * m + g\n  return lr * m", "2:13: unknown name 'm'; it is read before it has a "
        "value; what is kept from step to step stands in the header: def f(w, g, m, ...)"),
    "a name from nowhere": (HEADER + "  return lr * q, m", "2:15: unknown name 'q'; known: g, lr, m, w"),
    "a name, and a function after it": (HEADER + "  m = q\n  x = sgin(g)\n  return lr * m, m",
        "2:7: unknown name 'q'; known: g, lr, m, w"),
    "a name, and a syntax after it": (HEADER + "  m = q\n  x = = g\n  return lr * m, m",
        "2:7: unknown name 'q'; known: g, lr, m, w"),
    "a function without its brackets": (HEADER + "  return sqrt, m",
        "2:10: 'sqrt' is a function; call it, as in sqrt(...)"),
    "a state that is not returned": (HEADER + "  return lr * m",
        "2:3: return gives 1 value; the header wants 2: return update, m"),
    "a value too many": (HEADER + "  return lr * m, m, m",
        "2:3: return gives 3 values; the header wants 2: return update, m"),
    "no lr in the header": ("def f(w, g):\n  return lr * g",
        "2:10: 'lr' is a reserved input that the header does not name; add it"),
    "no w in the header": ("def f(g, lr):\n  return lr * g",
        "1:5: the header lacks 'w'; write def f(w, g, ..., lr=1e-3):"),
    "too few arguments": (HEADER + "  return lr * interp(g, m), m", "2:15: interp takes 3 arguments, not 2"),
    "arguments for a constant": (HEADER + "  return g * get_pi(g), m", "2:14: get_pi takes 0 arguments, not 1"),
    "a norm of a number": (HEADER + "  return norm(3) * g, m",
        "2:10: norm needs a tensor as argument 1; 3.0 is one number"),
    "a norm of a norm": (HEADER + "  return norm(norm(g)) * g, m",
        "2:10: norm needs a tensor as argument 1; the expression is one number per tensor"),
    "clipping to a tensor": (HEADER + "  return clip(g, w), m",
        "2:10: clip needs one number as argument 2; w is a tensor"),
    "a tensor for a scalar state": ("def f(w, g, n: scalar, lr):\n  return lr * g, g",
        "2:3: state 'n' is one number per tensor but a tensor is returned for it; declare 'n' without ': scalar'"),
    "a scalar for a global state": ("def f(w, g, n: global, lr):\n  return lr * g, norm(g)",
        "2:3: state 'n' is one number but one number per tensor is returned for it; reduce it further"),
    "an update that is a number": (HEADER + "  return lr, m",
        "2:3: the update is one number; it must be a tensor, as g and w are"),
    "an unknown kind": ("def f(w, g, n: skalar, lr):\n  return lr * g, n",
        "1:16: unknown kind 'skalar'; did you mean 'scalar'?"),
    "10,000 nested calls": (HEADER + "  return " + "sqrt(" * 10_000 + "g" + ")" * 10_000 + ", m",
        "2:49510: expression nests deeper than 100; name a part of it on a line of its own"),
    "no return": (HEADER + "  m = g", "2:3: the program has no return; end with: return update, m"),
    "no body": (HEADER, "2:1: unexpected end of the program; expected 'return' or a name"),
    "two returns": (HEADER + "  return g, m\n  return g, m",
        "3:3: statement after return; return is the last line"),
    "a reserved name as a variable": ("def f(w, g, lr):\n  t = g * g\n  return lr * t",
        "2:3: 't' is a reserved input; add it to the header or choose another name"),
    "a reserved input with a default": ("def f(w, g=1, lr):\n  return lr * g",
        "1:10: 'g' is a reserved input and takes no default; leave it out"),
    "a reserved input with a kind": ("def f(w, g: scalar, lr):\n  return lr * g",
        "1:13: 'g' is a reserved input and takes no annotation; leave it out"),
    "a hyperparameter with a kind": ("def f(w, g, b: scalar = 0.9, lr):\n  return lr * g",
        "1:16: 'b' has a default, so it is a hyperparameter and takes no annotation"),
    "a parameter twice": ("def f(w, g, m, m, lr):\n  return lr * g, m, m",
        "1:16: 'm' stands twice in the header; rename one"),
    "a number too large": (HEADER + "  return 1e999 * g, m",
        "2:10: 1e999 is too large for a float; write a smaller number"),
    "a number in another notation": (HEADER + "  return 0x10 * g, m",
        "2:10: malformed number '0x10'; write 0.5, 2 or 1e-3"),
    "the published function that no one can call": (HEADER + "  return invert(g), m",
        "2:10: invert cannot be called: bitwise inversion has no meaning on floats; "
        "the published code admits no valid call"),
    "a double equals": (HEADER + "  m = g == w\n  return g, m",
        "2:9: unexpected '='; assignments have one name on the left, comparisons are < <= > >="),
    "an unclosed bracket": (HEADER + "  return sqrt(g, m",
        "2:19: unexpected end of the program; expected '(' or ')' or ',' or an operator"),
    "python after all": ("import torch\n", "1:1: unexpected 'import'; expected 'def' or a new line"),
    "a method call": (HEADER + "  return g.abs(), m",
        "2:11: unexpected character '.'; expected '(' or ',' or a new line or an operator"),
    "a foreign letter": (HEADER + "  return μ, m",
        "2:10: unexpected character 'μ'; expected '(' or a name or a number"),
    "a NUL": (HEADER + "  return \0, m", r"2:10: unexpected character '\x00'; expected '(' or a name or a number"),
    "a NUL in a comment": ("# a\0b\n" + HEADER + "  return g, m",
        r"1:4: unexpected character '\x00' in a comment; take it out"),
    "an axis by number": (HEADER + "  return sum(g, 0) * g, m",
        "2:10: sum takes 1 argument, and of a matrix one of the axes fan_in, fan_out, short, long, rank after it"),
    "the first of several behind a name like def": (HEADER + "  a = nope\n  b = nope(g)\n  default = g\n  return g, m",
        "2:7: unknown name 'nope'; known: g, lr, m, w"),
    "a mistake behind windows line ends": (HEADER.replace("\n", "\r\n") + "  m = g\r\n  return lr * q, m\r\n",
        "3:15: unknown name 'q'; known: g, lr, m, w"),
    "a mistake behind tabs": (HEADER + "\treturn\tlr\t*\tq,\tm", "2:14: unknown name 'q'; known: g, lr, m, w"),
    "an empty text": ("", "1:1: unexpected end of the program; expected 'def'"),
    "comments alone": ("# a\n# b\n", "3:1: unexpected end of the program; expected 'def'"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_its_message(mistake):
    text, message = MISTAKES[mistake]
    with pytest.raises(ProgramError) as caught:
        Program.parse(text)
    assert str(caught.value) == f"program:{message}"
    with pytest.raises(ProgramError) as caught:
        Program.parse(text, source="my.opt")
    assert str(caught.value) == f"my.opt:{message}"
    assert (caught.value.line, caught.value.column) == tuple(int(n) for n in message.split(":")[:2])


def test_a_text_of_megabytes_is_refused_at_once():
    with pytest.raises(ProgramError, match=r"^text of 1000001 characters; a program has at most 1000000$"):
        Program.parse("x" * 1_000_001)


@pytest.mark.parametrize(
    "text",
    [
        HEADER + "  return " + "(" * 10_000 + "g" + ")" * 10_000 + ", m",  # brackets alone are no depth
        (HEADER + "  m = interp(g, m, 0.9)\n  return lr * m, m\n").replace("\n", "\r\n"),
        HEADER + "\treturn\tlr\t*\tg,\tm",
        HEADER + "return (lr *\n\n   g), m  # a comment\n\n# another",
        "\n\n# a comment\n\n" + HEADER + "  return lr * g, m",
        "def f(w, g, m, lr=-1e-3,):\n  return -lr * g ** -2, m,",
        "def f(lr, g, w):\n  return lr * g",
    ],
)
def test_what_a_person_may_write_parses(text):
    assert expect_a_good_error(text)


def test_a_program_built_with_an_infinite_number_is_refused():
    program = Program.parse("def f(w, g, b=2.0, lr=1.0):\n  return lr * g / b")
    for broken in (replace(program, hypers=(float("inf"),)), program.with_lr(float("nan"))):
        with pytest.raises(ProgramError, match="numbers are finite"):
            check(broken)
