"""The rows that a search keeps for the end: the fittest of each niche, few that differ in numbers alone."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from stepsmith.dsl import Program
from stepsmith.dsl.keys import skeleton_key
from stepsmith.search.config import read_config
from stepsmith.search.elites import hall_of_fame
from stepsmith.search.fittest import _ALIKE, _KEPT, Fittest, front, skeleton
from stepsmith.search.ledger import Child
from stepsmith.search.population import Fold

MOMENTUM = "def f(w, g, m, lr={lr}):\n  m = interp(g, m, {beta})\n  return lr * m, m"
SIGN = "def f(w, g, m, lr={lr}):\n  m = interp(g, m, {beta})\n  return lr * sign(m), m"


def row(number: int, text: str, fitness: float, state: int = 1) -> Child:
    program = Program.parse(text)
    final, length, alike = str(program), len(program.statements), skeleton(program)
    sizes = {"state": state, "statements": length, "skeleton": alike}
    return Child(number, 0, None, "", final, final=final, fitness=fitness, **sizes)


def numbers(fittest: Fittest) -> list[int]:
    return [child.child for child in fittest]


def test_a_hall_of_fame_shows_one_of_those_whose_shortest_forms_differ_in_numbers_alone():
    """Dead code, and 2 m - m for m, are other texts of the same rule."""
    longer = "def f(w, g, m, lr=0.2):\n  m = interp(g, m, 0.8)\n  a = sqrt(w)\n  b = m + m - m\n  return lr * b, m"
    rows = [
        row(1, longer, 0.9),
        row(2, MOMENTUM.format(lr=0.1, beta=0.9), 0.8),
        row(3, SIGN.format(lr=0.1, beta=0.9), 0.7),
    ]
    assert hall(*rows) == [1, 3]


ORNATE = "def f(w, g, m, lr=0.1):\n  m = interp(g, m, 0.9)\n  return lr * (sign(m) + {} * g), m"


def hall(*rows: Child, most: int = 100) -> list[int]:
    fold = Fold(read_config(None, {}), [])
    for child in rows:
        fold.fittest.add(child)
    return [child.child for child in hall_of_fame(fold, most)]


def test_a_hall_of_fame_shows_one_of_those_that_act_alike_and_the_one_that_keeps_less():
    plain, ornate = SIGN.format(lr=0.1, beta=0.9), ORNATE.format(0.001)
    rows = [row(1, plain, 0.9, state=2), row(2, ornate, 0.8, state=2), row(3, ornate, 0.7, state=1)]
    assert hall(*rows, row(4, ORNATE.format(50), 0.6, state=2)) == [1, 3, 4]


def test_a_rule_is_shown_beside_a_better_one_that_is_the_same_with_ornaments():
    assert hall(row(1, ORNATE.format(0.001), 0.9), row(2, SIGN.format(lr=0.1, beta=0.9), 0.8)) == [1, 2]


def test_the_first_of_a_niche_is_shown_whatever_acts_like_it():
    longer = ORNATE.format(0.001)
    rows = [row(1, SIGN.format(lr=0.1, beta=0.9), 0.9), row(2, longer, 0.8), row(3, longer, 0.7)]
    assert hall(*(replace(r, elastic=int(r.child > 1)) for r in rows)) == [1, 2]


def test_niches_do_not_crowd_each_other_out_of_a_hall_of_fame():
    """Of the poorer, which has 0.8^5 = 0.33 of the children of the better, there is a quarter of what is shown."""
    rows = []
    for elastic, best, follows in ((1, 1.0, "g"), (2, 0.8, "sign(g)")):
        for i, share in enumerate(("w", "sign(w)", "cube(w)", "abs(w)", "1", "square(w)")):
            text = f"def f(w, g, lr=0.1):\n  return lr * {share} * {follows}"
            rows.append(replace(row(10 * elastic + i, text, best - i / 20, 0), elastic=elastic))
    assert hall(*rows, most=2) == [10, 20]
    assert hall(*rows, most=4) == [10, 11, 12, 20]
    assert sorted(hall(*rows, most=8)) == [10, 11, 12, 13, 14, 15, 20, 21]
    assert len(hall(*rows)) == len(rows)


def test_of_programs_that_differ_in_numbers_alone_the_fittest_three_are_kept():
    fittest = Fittest()
    tuned = [row(k, MOMENTUM.format(lr=0.1 + k, beta=0.5 + k / 100), fitness=k) for k in range(20)]
    other = row(20, SIGN.format(lr=0.1, beta=0.9), fitness=0.5)
    rows = [*tuned, other]
    random.Random(1).shuffle(rows)
    for child in rows:
        fittest.add(child)
    assert numbers(fittest) == [19, 18, 17, 20]


def test_the_order_of_rows_does_not_matter():
    texts = [form.format(lr=1 + k / 7, beta=k / 40) for k in range(40) for form in (MOMENTUM, SIGN)]
    rows = [row(k, text, fitness=(k * 37 % 80) / 80) for k, text in enumerate(texts)]
    one, other = Fittest(), Fittest()
    for child in rows:
        one.add(child)
    for child in reversed(rows):
        other.add(child)
    assert numbers(one) == numbers(other) and len(numbers(one)) == 2 * _ALIKE


def test_what_is_shorter_than_all_that_is_fitter_is_kept():
    ops = ("sign", "abs", "sqrt", "square", "cube", "sin", "cos", "tanh", "exp", "log", "arctan", "cbrt")
    long = [f"{one}({other}({one}(g)))" for one in ops for other in ops]
    rows = [row(k, f"def f(w, g, lr=0.1):\n  return lr * {update}", k + 10, 0) for k, update in enumerate(long)]
    short = [
        row(900 + k, f"def f(w, g, lr=0.1):\n  return lr * {update}", k, 0)
        for k, update in enumerate(("g", "-g", "sign(g)"))
    ]
    for order in ([*short, *rows], [*reversed(rows), *reversed(short)]):
        fittest = Fittest()
        for child in order:
            fittest.add(child)
        assert front(fittest) == [rows[-1], short[2], short[0]]
        assert len(numbers(fittest)) == _KEPT


def test_no_more_are_kept_than_are_wanted():
    ops = ("sign", "abs", "sqrt", "square", "cube", "sin", "cos", "tanh", "exp", "log", "arctan", "cbrt")
    updates = [f"{one}({other}(g))" for one in ops for other in ops]
    fittest, many = Fittest(), len(updates)
    for k, update in enumerate(updates):
        child = row(k, f"def f(w, g, lr=0.1):\n  return lr * {update}", fitness=k / many, state=0)
        fittest.add(child)
    assert numbers(fittest) == list(range(many - 1, many - 1 - _KEPT, -1))


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("lr * interp(g, m, 0.9), m", "lr * interp(g, m, 0.1), m", True),
        ("lr * (g + 2 * m), g", "lr * (3 * m + g), g", True),
        ("lr * (g + 2 * m), g", "lr * (g - 2 * m), g", False),
        ("lr * (g + m), g", "lr * (g + 2 * m), g", False),
        ("lr * max(g, 0), g", "lr * max(m, 0), g", False),
    ],
)
def test_a_skeleton_is_what_stays_when_numbers_change(one, other, alike):
    texts = [f"def f(w, g, m, lr={peak}):\n  return {ends}" for ends, peak in ((one, 0.1), (other, 0.3))]
    a, b = map(Program.parse, texts)
    assert (skeleton_key(a) == skeleton_key(b)) is alike
