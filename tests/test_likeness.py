"""How alike two rules act: what counts as ornament, and what as another rule."""

from __future__ import annotations

import numpy as np
import pytest

from stepsmith.discovered import entries, load
from stepsmith.dsl import Program
from stepsmith.dsl.likeness import Action, action, likeness

RULE = "def f(w, g, m, lr=0.1, t, progress):\n  m = interp(g, m, 0.9)\n  return lr * {}, m"


def alike(one: str, other: str) -> float:
    return likeness(action(Program.parse(RULE.format(one))), action(Program.parse(RULE.format(other))))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("sign(m)", "(2 * sign(m) + 0.01 * g)"),
        ("sign(m)", "min(m + sign(m), sign(m) + 0.001)"),
        ("m", "(m * (1 + lr) - 1e-4 * g)"),
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
        ("m", "where(t > 40, sign(m), m)"),
        ("g", "clip(g, 0.1)"),  # at the leap alone
        ("sign(m)", "(sign(m) + sign(g))"),
        ("sign(m)", "(sign(m) + 0.01 * w)"),  # a decay, which adds up over a run
        ("m", "-m"),
    ],
)
def test_another_rule_is_told(one, other):
    assert alike(one, other) < 0.98


def test_what_is_not_finite_is_like_nothing_and_what_never_moves_like_its_kind():
    assert alike("m", "m * exp(1e6 * t)") == alike("m * exp(1e6 * t)", "m * exp(1e6 * t)") == 0
    assert alike("m", "(m - m)") == 0 and alike("(m - m)", "(m - m)") == 1


def test_a_tensor_that_one_rule_never_moves_tells_them_apart():
    assert alike("g", "g * (rms(g) > 0.0045)") == 0


@pytest.mark.parametrize("factor", [1e200, 1e-200])
def test_a_factor_on_all_updates_does_not_matter(factor):
    assert alike("m", f"({factor} * m)") == pytest.approx(1)


def test_known_rules_lie_as_their_families_do():
    names = ("adamw", "nadamw", "c_adamw", "lion", "signum", "muon", "momentum")
    of = {name: action(load(name)) for name in names}
    nearest = {name: max((likeness(of[name], of[other]), other) for other in names if other != name) for name in names}
    assert nearest["adamw"][1] == "nadamw" and nearest["nadamw"][1] == "adamw"
    assert max(likeness(of["muon"], of[other]) for other in names if other != "muon") < 0.9


ROUTED = "def f(w, g, lr=0.1) for {role} else h:\n  return lr * {own}\ndef h(w, g, lr=0.1):\n  return lr * {other}"


@pytest.mark.parametrize("role", ["matrix", "vector", "head"])
def test_of_a_routed_rule_both_parts_and_the_route_count(role):
    def routed(own: str, other: str, role: str = role) -> Action:
        return action(Program.parse(ROUTED.format(role=role, own=own, other=other)))

    signs = routed("sign(g)", "sign(g)")
    assert likeness(signs, routed("sign(g)", "sign(g)")) == pytest.approx(1)
    assert likeness(signs, routed("sign(g)", "g")) < 0.98
    assert likeness(signs, routed("g", "sign(g)")) < 0.98
    assert likeness(signs, routed("sign(g)", "sign(g)", "embedding")) == 0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("hutchinson: every 1", "abs(g)"),
        ("gauss_newton: every 1", "square(g)"),
        ("gauss_newton: every 10", "gauss_newton: every 1"),
    ],
)
def test_what_is_asked_of_the_model_counts(one, other):
    def asking(what: str) -> Action:
        oracle = f", {what}" if ":" in what else ""
        return action(Program.parse(f"def f(w, g, lr=0.1{oracle}):\n  return lr * {what.partition(':')[0]}"))

    assert likeness(asking(one), asking(one)) == pytest.approx(1)
    assert likeness(asking(one), asking(other)) < 0.98


def test_all_known_rules_and_random_ones_act(random_programs):
    rules = [entry.program for entry in entries() if not entry.program.schedule]
    for rule in [*rules, *random_programs[::1000]]:
        acts = action(rule)
        finite = all(np.isfinite(x).all() for x in acts.updates)
        assert likeness(acts, acts) == pytest.approx(1 if finite else 0), str(rule)
