"""A rule is known again, however it is written."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest

from stepsmith.discovered import entries, identify, load
from stepsmith.dsl import Const, Program, Statement, build
from stepsmith.dsl.kinds import check
from stepsmith.dsl.program import NOWHERE, G, W

RULES = [e.name for e in entries() if not e.program.schedule]


def rewritten(program: Program, random: np.random.Generator) -> Program:
    """One neutral edit of a statement outside repeats: an argument by another road, or a statement no one reads."""
    statements = list(program.statements)
    fresh = 1 + max([program.first_local, *(s.target for s in statements)])
    depth = np.cumsum([{"repeat": 1, "end": -1}.get(s.op, 0) for s in statements])
    places = [i for i, s in enumerate(statements) if s.target != NOWHERE and not depth[i] and ":" not in s.op]
    place = int(random.choice(places))
    target, op, args = statements[place]
    edit = random.integers(6)
    if edit == 0 and op == "interp" and not isinstance(args[2], Const):
        edit = 1
    if edit == 0 and op == "interp":
        a = args[2].value
        statements[place : place + 1] = [
            Statement(fresh, "multiply", (Const(float(1 - Decimal(repr(a)))), args[0])),
            Statement(fresh + 1, "multiply", (args[1], args[2])),
            Statement(target, "add", (fresh, fresh + 1)),
        ]
    elif edit <= 1 and op in ("add", "multiply"):
        statements[place] = Statement(target, op, args[::-1])
    elif edit <= 2 and op == "subtract":
        statements[place : place + 1] = [
            Statement(fresh, "negative", (args[1],)), Statement(target, "add", (fresh, args[0])),
        ]  # fmt: skip
    elif edit <= 3 and op in ("add", "subtract", "multiply", "interp", "abs", "square", "sign"):
        first = args[0]
        statements[place : place + 1] = [
            Statement(fresh, "multiply", (first, Const(4.0))), Statement(fresh + 1, "divide", (fresh, Const(4.0))),
            Statement(target, op, (fresh + 1, *args[1:])),
        ]  # fmt: skip
    elif edit == 4 and op == "square":
        statements[place] = Statement(target, "multiply", (args[0], args[0]))
    else:
        statements.insert(place, Statement(fresh, "cosh", (int(random.choice([W, G])),)))
    found = build(
        statements, program.returns, program.states, program.hypers, program.lr, program.names, program.name,
        periods=program.periods, roles=program.roles, fallback=program.fallback,
    )  # fmt: skip
    check(found)
    return found


@pytest.mark.parametrize("name", RULES)
def test_a_catalogued_rule_is_itself_after_twenty_neutral_rewrites(name):
    rule = load(name)
    assert str(identify(rule)) == name
    random = np.random.default_rng(len(name))
    for _ in range(20):
        rule = rewritten(rule, random)
    found = identify(replace(rule, names=(), name="f"))
    assert (found.how, found.rule) == ("equal", name), f"{found}\n{rule}"


def test_lion_with_other_constants_and_the_scaling_of_a_mask():
    text = "def f(w, g, m, lr):\n u = sign(interp(g, m, 0.899))\n return lr * (u + 0.4602 * w), interp(g, m, 0.996991)"
    found = identify(Program.parse(text))
    assert (found.how, found.rule) == ("with other constants", "lion")
    assert "0.899 for 0.9" in found.detail and "0.996991 for 0.99" in found.detail
    from stepsmith.dsl.transforms import cautious

    assert str(identify(cautious(load("adamw"), "sum_plus_one"))).startswith("cautious(adamw, scale=sum_plus_one)")
    assert identify(load("signum").with_lr(3.0)).rule == "signum"


def test_what_nobody_knows_has_a_neighbour():
    strange = Program.parse("def f(w, g, m, lr):\n m = interp(tanh(g), m, 0.7)\n return lr * arctan(m) + 0.0 * w, m")
    found = identify(strange)
    assert (found.how, found.rule) == ("nearest", "nesterov") and "cosine" in found.detail


def test_of_neighbours_that_are_equally_near_the_shortest_is_named():
    """8 bits of a state, or a clip of a gradient that is below it, hardly change an update."""
    adam = "def f(w, g, m, v, lr, t):\n m = interp(g, m, 0.9)\n v = interp(g * g, v, 0.999)\n"
    bent = " u = m / (1 - 0.9 ** t) / (sqrt(v / (1 - 0.999 ** t)) + 1e-8)\n return lr * (u + 1e-6 * arctan(u)), m, v"
    assert identify(Program.parse(adam + bent)).rule == "adamw"


def test_what_is_not_finite_has_no_neighbour():
    wild = Program.parse("def f(w, g, m, lr, t):\n m = interp(g, m, 0.7)\n return lr * m * exp(1e6 * t), m")
    assert str(identify(wild)) == "nothing known"
