"""A program's text gives the program back exactly."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stepsmith.dsl import SPACES, Const, Program, Statement, build
from stepsmith.dsl.program import FIRST, LR, G


@pytest.mark.chunks(4, 1)
def test_random_programs_survive_their_text(random_programs, chunk):
    for program in random_programs[chunk]:
        text = str(program)
        again = Program.parse(text)
        assert again == program, text
        assert hash(again) == hash(program)
        assert str(again) == text
        assert (again.name, again.doc) == (program.name, program.doc)


def test_the_random_programs_are_of_many_kinds(random_programs):
    assert len(random_programs) == 20_000
    assert len(set(random_programs)) > 19_000
    assert {len(p.states) for p in random_programs} == {0, 1, 2, 3}
    assert {str(s.kind) for p in random_programs for s in p.states} == {"global", "scalar", "tensor"}
    assert {s.op for p in random_programs for s in p.statements} == set(SPACES["elementwise"].ops)


def test_the_published_programs_parse_as_they_stand(starts):
    assert [len(starts[name].statements) for name in ("adamw", "program4", "lion")] == [9, 12, 6]
    assert str(starts["lion"]) == (
        "def lion(w, g, m, lr):\n"
        "    update = interp(g, m, 0.9)\n"
        "    update = sign(update)\n"
        "    m = interp(g, m, 0.99)\n"
        "    wd = w * 0.1\n"
        "    update = update + wd\n"
        "    update = update * lr\n"
        "    return update, m\n"
    )


def test_names_do_not_count():
    one = Program.parse("def one(w, g, m, lr=0.1, b=0.9):\n u = interp(g, m, b)\n return lr * u, u")
    other = Program.parse("def other(w, g, v, lr=0.1, c=0.9):\n x = interp(g, v, c)\n return lr * x, x")
    nested = Program.parse("def one(w, g, m, lr=0.1, b=0.9):\n return lr * interp(g, m, b), g")
    assert one == other and hash(one) == hash(other) and str(one) != str(other)
    assert one != nested


@pytest.mark.parametrize(
    "change", ["lr=0.2", "b=0.8", "g, m: scalar", "interp(m, g, b)", "m = m", "- 1e-9 * g, m", "max(g, m)"]
)
def test_everything_else_counts(change):
    text = "def f(w, g, m, lr=0.1, b=0.9):\n u = interp(g, m, b)\n return lr * norm(u) * g, m"
    changed = {
        "lr=0.2": text.replace("lr=0.1", "lr=0.2"),
        "b=0.8": text.replace("b=0.9", "b=0.8"),
        "g, m: scalar": text.replace("g, m,", "g, m: scalar,", 1),
        "interp(m, g, b)": text.replace("(g, m, b)", "(m, g, b)"),
        "m = m": text.replace(" return", " m = m\n return"),
        "- 1e-9 * g, m": text.replace("* g, m", "* g - 1e-9 * g, m"),
        "max(g, m)": text.replace("interp(g, m, b)", "max(g, m)"),
    }[change]
    assert Program.parse(changed) != Program.parse(text)


def test_comment_and_name_are_kept():
    text = "# Lion: a sign.\n#\n# Second paragraph.\ndef lion(w, g, lr=0.1):\n    return lr * sign(g)\n"
    program = Program.parse(text)
    assert program.doc == "Lion: a sign.\n\nSecond paragraph."
    assert str(program) == text


@pytest.mark.parametrize("doc", ["#\n#\n", "# a\n#\n", "#a\u2028b\x0cc\n", "#  indented\n\n# apart\n"])
def test_a_comment_settles_after_one_printing(doc):
    program = Program.parse(doc + "def f(w, g, lr):\n    return lr * g\n")
    again = Program.parse(str(program))
    assert again.doc == program.doc and str(again) == str(program)


NUMBERS = [0.1, 1 / 3, 1e-8, 1e22, 123456789.0, 5e-324, 1.7976931348623157e308, 2.0**-1074, 0.30000000000000004]


@pytest.mark.parametrize("number", [*NUMBERS, *(-n for n in NUMBERS)])
def test_a_number_keeps_its_last_bit(number):
    text = f"def f(w, g, b={number!r}, lr={number!r}):\n return lr * g ** {number!r} * -({number!r}) - {number!r} / b"
    program = Program.parse(text)
    assert {value for _, value in program.constants()} <= {number, -number}
    assert Program.parse(str(program)) == program


@pytest.mark.parametrize(
    "expression",
    ["g - (w - m)", "(g - w) - m", "g - w - m", "-(-g)", "-(g * w)", "-g * w", "(-g) ** w", "-(g ** w)", "g ** -w",
     "(g < w) < m", "g < (w < m)", "(g < w) * m", "(g + w) * m", "g / (w / m)", "g / w / m", "negative(3.0) * g",
     "g * -3.0", "(-3.0) ** g", "-(3.0 ** g)", "where(g < 0, -g, g)", "g - -2.0", "g ** w ** m"],
)  # fmt: skip
def test_brackets_are_printed_where_they_mean_something(expression):
    program = Program.parse(f"def f(w, g, m, lr):\n return {expression}, m")
    assert Program.parse(str(program)) == program
    assert str(Program.parse(str(program))) == str(program)


def test_a_deep_program_is_printed_in_parts():
    """200 unnamed statements, each the argument of the next: the parser takes no expression that deep."""
    statements = [Statement(FIRST, "multiply", (G, LR))]
    statements += [Statement(FIRST + i, "subtract", (FIRST + i - 1, Const(1.0))) for i in range(1, 200)]
    program = build(statements, (FIRST + 199,))
    assert Program.parse(str(program)) == program


def test_names_that_clash_are_made_unique():
    statements = [Statement(FIRST, "square", (G,)), Statement(FIRST + 1, "sqrt", (FIRST,))]
    statements += [Statement(FIRST + 2, "add", (FIRST, FIRST + 1))]
    for names in (("a", "a", "a"), ("lr", "g", "t"), ("t0", "", "t0"), ("sqrt", "square", "def_"), ()):
        program = build(statements, (FIRST + 2,), names=names)
        assert Program.parse(str(program)) == program


def test_a_program_with_another_peak_differs_only_there(starts):
    lion = starts["lion"]
    assert lion.with_lr(0.5).peak == 0.5 and lion.peak == 1.0
    assert replace(lion.with_lr(0.5), lr=None) == lion
    assert "lr=0.5" in str(lion.with_lr(0.5))


def test_a_copy_of_an_unnamed_value_is_kept():
    statements = [Statement(FIRST, "sign", (G,)), Statement(FIRST + 1, "identity", (FIRST,))]
    statements += [Statement(FIRST + 2, "multiply", (LR, FIRST + 1))]
    program = build(statements, (FIRST + 2,), names=("", "x", ""))
    assert Program.parse(str(program)) == program
