"""Families: what a program does in one step tells them, however it is written, and rules beside them are none."""

from dataclasses import replace

import numpy as np
import pytest

from stepsmith.discovered import entries, identify, load
from stepsmith.discovered.families import families
from stepsmith.dsl import Program
from stepsmith.dsl.transforms import SCALES, cautious, cautious_decay, low_bit_state
from stepsmith.search.mutate import Mutator


def named(program):
    return [family.name for family in families(program)]


def rule(update, *states, header="m, lr"):
    """A rule of one state, from lines of its body."""
    *lines, last = update.split("; ")
    body = "".join(f"  {line}\n" for line in lines)
    return Program.parse(f"def f(w, g, {header}):\n{body}  return lr * ({last}), {', '.join(states)}")


LION = {
    "written otherwise": rule("sign(g + 3 * m)", "0.9 * m + g"),
    "clipped": rule("g = clip(g, 0.1); sign(interp(g, m, 0.7))", "interp(g, m, 0.95)"),
    "clipped always": rule("g = clip(g, 1e-6); sign(interp(g, m, 0.7))", "interp(g, m, 0.95)"),
    "with decay": rule("sign(interp(g, m, 0.9)) + 0.1 * w", "interp(g, m, 0.99)"),
    "with decay that fades": rule("sign(interp(g, m, 0.9)) + 0.1 ** t * w", "interp(g, m, 0.99)", header="m, lr, t"),
    "by its root": rule("u = interp(g, m, 0.9); u / sqrt(u * u)", "interp(g, m, 0.99)"),
    "slower in the sign": rule("sign(interp(g, m, 0.99))", "interp(g, m, 0.8)"),
    "negative momentum": rule("sign(g - 2 * m)", "0.9 * m - g"),
    "with an eps": rule("u = interp(g, m, 0.9); u / (sqrt(square(u)) + 1e-8)", "interp(g, m, 0.99)"),
    "with L2": rule("g = g + 0.01 * w; sign(interp(g, m, 0.9))", "interp(g, m, 0.99)"),
    "with a cautious decay": cautious_decay(replace(load("lion"), hypers=(0.9, 0.99, 0.1))),
    "in bfloat16": rule("sign(interp(g, m, 0.9))", "interp(g, m, 0.99)", header="m: bf16, lr"),
    "in 8 bits": low_bit_state(load("lion")),
    "for matrices": Program.parse(str(load("lion")).replace("):", ") for matrix else sgd:"), resolve=load),
    "for vectors": Program.parse(str(load("lion")).replace("):", ") for vector else sgd:"), resolve=load),
    "whose rate moves": rule("sign(interp(g, m, 0.9))", "interp(g, m, 1 - 1 / (t + 5))", header="m, lr, t"),
}
NO_LION = {
    "one rate": rule("m = interp(g, m, 0.9); sign(m)", "m"),
    "Nesterov's, one rate": rule("sign(interp(g, m, 0.9))", "interp(g, m, 0.9)"),
    "no sign": rule("interp(g, m, 0.9)", "interp(g, m, 0.99)"),
    "a soft sign": rule("tanh(interp(g, m, 0.9))", "interp(g, m, 0.99)"),
    "sign of an average of signs": rule("sign(interp(sign(g), m, 0.9))", "interp(g, m, 0.99)"),
    "an average of signs": rule("sign(interp(g, m, 0.9))", "interp(sign(g), m, 0.99)"),
    "momentum against the gradient": rule("sign(g - m)", "interp(g, m, 0.99)"),
    "a state that grows": rule("sign(g + m)", "1.1 * m + g"),
    "no momentum": rule("sign(g)", "interp(g, m, 0.99)"),
    "a mask": rule("m = interp(g, m, 0.9); sign(m) * (m * g > 0)", "m"),
    "a sum of signs": rule("sign(g) + sign(m)", "interp(g, m, 0.99)"),
    "a threshold": rule("sign(g) * (abs(g) > 0.3 * abs(m))", "interp(g, m, 0.99)"),
    "a higher threshold": rule("sign(g) * (abs(g) > 3 * abs(m))", "interp(g, m, 0.9)"),
    "only at first": rule(
        "sign(interp(g, m, 0.9)) * (t < 100) + m * (t >= 100)", "interp(g, m, 0.99)", header="m, lr, t"
    ),
    "less and less": rule(
        "sign(interp(g, m, 0.9)) * (1 - progress) + progress * m", "interp(g, m, 0.99)", header="m, lr, progress"
    ),
    "one rate and a clip": rule("h = clip(g, 0.1); sign(interp(h, m, 0.9))", "interp(g, m, 0.9)"),
    "signs of two sizes": rule("sign(interp(g, m, 0.9)) * (1 + 0.1 * sign(g))", "interp(g, m, 0.99)"),
}
CAUTIOUS = {
    "a sum of sizes": rule("m = interp(g, m, 0.9); m + abs(m) * sign(g)", "m"),
    "a maximum": rule("m = interp(g, m, 0.9); max(m * g, 0) / g", "m"),
    "damped": rule("m = interp(g, m, 0.9); m * (1.5 + sign(g * m))", "m"),
    "a sum of signs": rule("m = interp(g, m, 0.9); sign(m) + sign(g)", "m"),
    "a sum of signs, all but equal": rule("m = interp(g, m, 0.9); sign(m) + 1.03 * sign(g)", "m"),
    "with decay": rule("m = interp(g, m, 0.9); m * (m * g > 0) + 0.1 * w", "m"),
    "behind another mask": rule("m = interp(g, m, 0.9); m * (m * g > 0) * (abs(m) > 0.03)", "m"),
    "above almost 0": rule("m = interp(g, m, 0.9); m * (m * g > 1e-10)", "m"),
    "by the momentum before": rule("n = m; m = interp(g, m, 0.9); m * (n * g > 0)", "m"),
}  # fmt: skip
NO_CAUTION = {
    "momentum": rule("m = interp(g, m, 0.9); m", "m"),
    "the gradient's sign": rule("m = interp(g, m, 0.9); abs(m) * sign(g)", "m"),
    "a sum of signs, of which the gradient's rules": rule("m = interp(g, m, 0.9); sign(m) + 1.05 * sign(g)", "m"),
    "bold": rule("m = interp(g, m, 0.9); m * (1.5 - sign(g * m))", "m"),
    "a mask of its own": rule("m = interp(g, m, 0.9); m * (m > 0)", "m"),
    "a mask over a tensor": rule("m = interp(g, m, 0.9); m * (dot(m, g) > 0)", "m"),
    "no momentum, one sign": Program.parse("def f(w, g, lr):\n  return lr * max(sign(g), 0)"),
    "no momentum, a shift": Program.parse("def f(w, g, lr):\n  return lr * (sign(g) + 1)"),
    "sizes of one sign": rule("m = interp(g, m, 0.9); abs(m) * (g > 0)", "m"),
    "an average of signs": rule("m = interp(sign(g), m, 0.99); m", "m"),
    "a quick average of signs": rule("m = interp(sign(g), m, 0.7); m", "m"),
    "a little of the sign": rule("m = interp(g, m, 0.9); sign(m) + 0.03 * sign(g)", "m"),
    "overflow": rule("m = interp(g, m, 0.9); exp(1e6 * abs(m) + 1000)", "m"),
    "hardly damped": rule("m = interp(g, m, 0.9); m * (1 + 0.01 * sign(g * m))", "m"),
    "only for large gradients": rule("m = interp(g, m, 0.9); m * (m * g > -1e-6)", "m"),
}


@pytest.mark.parametrize("name", LION)
def test_signs_of_interpolations_are_of_the_lion_family(name):
    assert named(LION[name]) == ["lion"]


@pytest.mark.parametrize("name", NO_LION)
def test_rules_beside_lion_are_not_of_its_family(name):
    assert "lion" not in named(NO_LION[name])


@pytest.mark.parametrize("name", CAUTIOUS)
def test_masks_where_signs_disagree_are_cautious(name):
    assert named(CAUTIOUS[name]) == ["cautious"]


@pytest.mark.parametrize("name", NO_CAUTION)
def test_other_masks_are_not_cautious(name):
    assert named(NO_CAUTION[name]) == []


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", ["adamw", "lion", "momentum", "signum", "nadamw", "adabelief", "rmsprop"])
def test_the_transform_makes_any_rule_cautious(name, scale):
    made = cautious(load(name), scale)
    lion = ["lion"] if name == "lion" else []
    assert named(made) == lion + (["cautious"] if name != "rmsprop" else [])  # whose update has the gradient's sign


def test_no_other_catalogued_rule_belongs_to_a_family():
    found = {entry.name: named(entry.program) for entry in entries()}
    assert {name: of for name, of in found.items() if of} == {
        "lion": ["lion"], "c_lion": ["lion", "cautious"], "c_adamw": ["cautious"],
        "addsign": ["cautious"],  # a gradient whose sign is against its average counts nothing
        "agreeing_signs": ["cautious"], "mixed_signs": ["cautious"],  # finds
        "decayed_lion": ["lion"], "fading_lion": ["lion"], "plain_lion": ["lion"],
    }  # fmt: skip


def test_the_two_rates_are_those_of_the_rule():
    random = np.random.default_rng(0)
    for inside, rate in random.uniform(0.05, 0.98, (20, 2)):
        text = f"def f(w, g, m, lr):\n  u = sign(interp(g, m, {inside}))\n  return lr * u, interp(g, m, {rate})"
        [family] = families(Program.parse(text))
        assert family.detail.startswith(f"sign of an interpolation at {inside:.3g}, momentum at {rate:.3g}")


def test_whatever_a_search_writes_is_answered():
    random, mutator = np.random.default_rng(3), Mutator("elementwise")
    for start in [load("signum"), load("adamw"), LION["clipped"]] * 60:
        program = start
        for _ in range(6):
            program, _ = mutator.mutate(program, random)
        assert set(named(program)) <= {"lion", "cautious"}


def test_identify_says_the_family_of_what_is_no_known_rule():
    assert str(identify(LION["clipped always"])).startswith("of the lion family (sign of an interpolation at 0.7, ")
    assert identify(load("lion")).families and str(identify(load("lion"))) == "lion"
