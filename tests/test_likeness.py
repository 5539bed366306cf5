"""How alike two rules act: what counts as ornament, and what as another rule."""

from __future__ import annotations

import pytest

from stepsmith.discovered import load
from stepsmith.dsl import Program
from stepsmith.dsl.likeness import action, likeness

RULE = "def f(w, g, m, lr=0.1, t, progress):\n  m = interp(g, m, 0.9)\n  return lr * {}, m"


def alike(one: str, other: str) -> float:
    return likeness(action(Program.parse(RULE.format(one))), action(Program.parse(RULE.format(other))))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("sign(m)", "(2 * sign(m) + 0.01 * g)"),
        ("sign(m)", "min(m + sign(m), sign(m) + 0.001)"),
        ("m", "(m * (1 + lr) - 1e-4 * w)"),
        ("(sign(m) + sign(g))", "(sign(m) + sign(g) + lr * m)"),
    ],
)
def test_ornaments_do_not_make_another_rule(one, other):
    assert alike(one, other) == pytest.approx(alike(other, one), abs=1e-12)
    assert alike(one, other) > 0.98


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("m", "g"),
        ("m", "m / rms(m)"),  # in every tensor the same way: how large against other tensors counts
        ("m / (abs(m) + 1e-8)", "m / (abs(m) + 1e-3)"),
        ("sign(m)", "sign(m + g)"),
        ("sign(m)", "sign(m) * progress"),
        ("sign(m)", "(sign(m) + sign(g))"),
        ("sign(m)", "(sign(m) + 10 * w)"),
        ("m", "-m"),
    ],
)
def test_another_rule_is_told(one, other):
    assert alike(one, other) < 0.98


def test_what_is_not_finite_is_like_nothing_and_what_never_moves_is_like_itself_alone():
    assert alike("m", "m / (g - g)") == alike("m / (g - g)", "m / (g - g)") == 0
    assert alike("m", "(m - m)") == 0


def test_known_rules_lie_as_their_families_do():
    names = ("adamw", "nadamw", "c_adamw", "lion", "signum", "muon", "momentum")
    of = {name: action(load(name)) for name in names}
    nearest = {name: max((likeness(of[name], of[other]), other) for other in names if other != name) for name in names}
    assert nearest["adamw"][1] == "nadamw" and nearest["nadamw"][1] == "adamw"
    assert nearest["signum"][1] == "adamw" and nearest["muon"][0] < 0.9


def test_of_a_routed_rule_both_parts_count():
    text = "def f(w, g, lr=0.1) for matrix else h:\n  return lr * sign(g)\ndef h(w, g, lr=0.1):\n  return lr * {}"
    signs, plain = (action(Program.parse(text.format(update))) for update in ("sign(g)", "g"))
    assert likeness(signs, signs) == pytest.approx(1) and likeness(signs, plain) < 0.98
