"""Keys see through what makes no difference, and never merge what differs."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from stepsmith.dsl import Const, Program, Statement
from stepsmith.dsl.flow import flow, reject_reason
from stepsmith.dsl.interpret import Interpreter
from stepsmith.dsl.keys import behaviour, behaviour_key, key, skeleton_key, structural_key
from stepsmith.dsl.program import G, W
from stepsmith.search.mutate import Mutator


def rule(body: str, header: str = "m, lr=1e-3") -> Program:
    """A program from statements separated by `;`, the last of them the returned values."""
    *lines, ends = body.split(";")
    return Program.parse("\n".join([f"def rule(w, g, {header}):", *lines, f"return {ends}"]))


# --- the structural key -----------------------------------------------------------------------------------

SAME_STRUCTURE = {
    "renaming": ("u = interp(g, m, 0.9); lr * u, u", "x = interp(g, v, 0.9); lr * x, x", "v, lr=1e-3"),
    "a dead statement": ("lr * (g + m), g", "x = cosh(g); lr * (g + m), g"),
    "a dead state": ("lr * g, m", "lr * g, interp(g, m, 0.5)"),
    "a state that only feeds itself": ("lr * g", "m = interp(g, m, 0.9); lr * g, m", "m, lr=1e-3"),
    "the paper's overwritten cosh": ("lr * (g + m), g", "u = lr * (g + m); m = cosh(u); m = g; u, m"),
    "the order of a sum": ("lr * (g + m), g", "(m + g) * lr, g"),
    "the order of max": ("lr * max(g, m), g", "lr * max(m, g), g"),
    "a shared expression": ("x = g * m; lr * (x + x), g", "lr * (g * m + m * g), g"),
    "a plain assignment": ("lr * (g + m), g", "x = g; y = x; lr * (y + m), x"),
    "a named number": ("lr * interp(g, m, 0.9), g", "lr * interp(g, m, b), g", "m, b=0.9, lr=1e-3"),
    "the order of states": ("lr * (m - v), g, g * g", "lr * (m - v), g * g, g", "v, m, lr=1e-3"),
    "independent statements": ("x = sin(g); y = cos(m); lr * x * y, g", "y = cos(m); x = sin(g); lr * x * y, g"),
}


@pytest.mark.parametrize("what", SAME_STRUCTURE)
def test_the_structural_key_sees_through(what):
    one, other, *header = SAME_STRUCTURE[what]
    first = "v, lr=1e-3" if "v" in header else "m, lr=1e-3"
    if what == "a state that only feeds itself":
        first = "lr=1e-3"
    if what == "the order of states":
        first = "m, v, lr=1e-3"
    a, b = rule(one, first), rule(other, *header)
    assert structural_key(a) == structural_key(b)
    assert key(a) == key(b)


def test_the_structural_key_of_a_random_program_survives_renaming_and_dead_code(random_programs):
    for program in random_programs[::20]:
        name = structural_key(program)
        renamed = replace(program, names=tuple(f"n{i}" for i in range(len(program.names))), name="x", doc="y")
        assert structural_key(renamed) == name
        fresh = 1 + max(program.first_local, *(s.target for s in program.statements))
        dead = [Statement(fresh, "cosh", (G,)), *program.statements, Statement(fresh, "multiply", (W, fresh))]
        assert structural_key(replace(program, statements=tuple(dead))) == name
        other = replace(program, returns=(G, *program.returns[1:]))
        if behaviour(other).digest != behaviour(program).digest:
            assert structural_key(other) != name


# --- recall -----------------------------------------------------------------------------------------------

M = "m = interp(g, m, 0.9); "
EQUAL = [
    ("lr * g * g * g, m", "lr * cube(g), m"),
    ("lr * (g * g) / g, m", "lr * square(g) / g, m"),
    (M + "lr * m / sqrt(m * m), m", M + "lr * sign(m), m"),
    (M + "lr * m / abs(m), m", M + "lr * sign(m), m"),
    (M + "lr * m / sqrt(square(m)), m", M + "lr * sign(m), m"),
    (M + "lr * m * reciprocal(abs(m)), m", M + "lr * sign(m), m"),
    (M + "lr * sign(m), m", M + "lr * sign(3.0 * m), m"),
    (M + "lr * sign(m), m", M + "lr * sign(cube(m)), m"),
    (M + "lr * sign(m), m", M + "lr * -sign(-m), m"),
    (M + "lr * sign(m), m", M + "lr * (0.0 - sign(0.0 - m)), m"),
    (M + "lr * sign(m), m", "m = 0.9 * m + 0.1 * g; lr * sign(m), m"),
    (M + "lr * sign(m), m", "m = 0.9 * m + g; lr * sign(m), m"),
    (M + "lr * sign(m), m", "m = m + (g - m) * 0.1; lr * sign(m), m"),
    (M + "lr * m, m", "m = interp(m, g, 0.1); lr * m, m"),
    (M + "lr * m, m", "m = 0.9 * m + g; lr * m, m"),
    (M + "lr * m, m", "m = 0.9 * m - g; -lr * m, m"),
    (M + "lr * m, m", M + "lr * 7.0 * m, m"),
    (M + "lr * m, m", "m = interp(5.0 * g, m, 0.9); lr * m, m"),
    (
        "lr * (sign(interp(g, m, 0.9)) + 0.1 * w), interp(g, m, 0.99)",
        "lr * sign(interp(g, m, 0.9)) + lr * 0.1 * w, interp(g, m, 0.99)",
    ),
    (
        "lr * (sign(interp(g, m, 0.9)) + 0.1 * w), interp(g, m, 0.99)",
        "u = interp(g, m, 0.9); (u / sqrt(u * u) + w * 0.1) * lr, interp(g, m, 0.99)",
    ),
    ("lr * (g + m), g", "lr * (g - (-m)), g"),
    ("lr * (g + m), g", "lr * g + m * lr, g"),
    ("lr * (g + m) * 0.5, g", "lr * interp(g, m, 0.5), g"),
    ("lr * g / m, g", "lr * g * reciprocal(m), g"),
    ("lr * g / m / w, g", "lr * g / (m * w), g"),
    ("lr * g / norm(g), m", "lr * g * reciprocal(norm(g)), m"),
    ("lr * g / norm(g), m", "lr * g / norm(2.0 * g), m"),
    ("lr * g / norm(g), m", "lr * g / norm(-g), m"),
    ("lr * g / global_norm(g), m", "lr * g / sqrt(dot(g, g)), m"),
    ("lr * g / rms(g), m", "lr * g / sqrt(mean(g * g)), m"),
    ("lr * (g - mean(g)) / std(g), m", "x = g - mean(g); lr * x / rms(x), m"),
    ("lr * cosine_sim(g, m) * g, g", "lr * dot(g, m) / (global_norm(g) * global_norm(m)) * g, g"),
    ("lr * clip(g, 0.5), m", "n = global_norm(g); lr * g * where(n < 0.5, 1.0, 0.5 / n), m"),
    ("lr * g * (g * m > 0), g", "lr * g * (0 < m * g), g"),
    ("lr * where(g > m, g, m), g", "lr * where(m < g, g, m), g"),
    ("lr * max(g, m), g", "lr * max(m, g) * 2.0, g"),
    ("lr * abs(g) * m, g", "lr * sqrt(g * g) * m, g"),
    ("lr * g * exp(m), g", "lr * g * exp(1.0 * m), g"),
    ("lr * cbrt(g), m", "lr * cbrt(2.0 * g), m"),
    ("lr * g * power(abs(m), 0.5), g", "lr * g * sqrt(m), g"),
    ("lr * g * g, m", "lr * g ** 2, m"),
    ("lr * g * interp(g, m, 0.9) * 0 + lr * g, m", "lr * g, m"),
    ("lr * g + (m - m), g", "lr * g, m"),
    ("lr * max(g, g), m", "lr * g, m"),
]
EQUAL_AT_OTHER_HEADERS = [
    ("lr * sign(m), interp(g, m, 0.9)", "m, lr=1e-3", "lr * sign(m), interp(g, m, 0.9)", "m, lr=0.5"),
    ("lr * (sign(g) + 0.1 * w)", "lr=1e-3", "lr * 0.01 * (sign(g) + 0.1 * w)", "lr"),
    ("lr = lr * 0.001; lr * g", "lr", "lr * g", "lr=3.0"),
    ("v = interp(g * g, v, 0.99); lr * g / sqrt(v), v", "v, lr=1e-3",
     "v = 0.99 * v + g * g; lr * g / sqrt(v), v", "v, lr=1e-3"),
    ("v = interp(square(g), v, 0.99); lr * g / sqrt(v), v", "v, lr=1e-3",
     "v = interp(g * g, v, 0.99); lr * (g / sqrt(v)), v", "v, lr=0.1"),
    ("lr * m / (1 - 0.9 ** t), interp(g, m, 0.9)", "m, lr, t", "lr * m / (1 - power(b, t)), interp(g, m, b)",
     "m, b=0.9, lr, t"),
    ("lr * (1 - progress) * g", "lr, progress", "lr * g - lr * progress * g", "lr=0.3, progress"),
    ("lr * g", "lr=1e-3", "m = interp(g, m, 0.5); lr * g, m", "m, lr=1e-3"),
]  # fmt: skip


BOTH = pytest.mark.parametrize("named", [key, behaviour_key])


@BOTH
def test_equal_programs_share_a_key(named):
    """Missing some is allowed; the floor is what was measured."""
    pairs = [(rule(a), rule(b)) for a, b in EQUAL]
    pairs += [(rule(a, x), rule(b, y)) for a, x, b, y in EQUAL_AT_OTHER_HEADERS]
    missed = [pair for pair in pairs if named(pair[0]) != named(pair[1])]
    print(f"{named.__name__}: {len(pairs) - len(missed)} of {len(pairs)} equal pairs; missed:")
    for a, b in missed:
        print(a, b, sep="")
    assert len(pairs) >= 50
    assert len(missed) <= 3


# --- near misses ------------------------------------------------------------------------------------------

ZOO = {
    "nesterov": ("m = 0.9 * m + g; lr * (g + 0.9 * m), m", "m, lr=0.01"),
    "adagrad": ("v = v + g * g; lr * g / (sqrt(v) + 1e-10), v", "v, lr=0.01"),
    "rmsprop": ("v = interp(g * g, v, 0.99); lr * g / (sqrt(v) + 1e-8), v", "v, lr=0.01"),
    "centred": ("m = interp(g, m, 0.95); v = interp(g * g, v, 0.99); lr * g / sqrt(v - m * m + 1e-4), m, v",
                "m, v, lr=0.01"),
    "adabelief": ("m = interp(g, m, 0.9); v = interp((g - m) ** 2, v, 0.999) + 1e-16; "
                  "lr * m / (sqrt(v) + 1e-16), m, v", "m, v, lr=1e-3"),
    "adamax": ("m = interp(g, m, 0.9); u = max(0.999 * u, abs(g)); lr * m / (u + 1e-8), m, u", "m, u, lr=1e-3"),
    "yogi": ("v = v - 0.001 * sign(v - g * g) * g * g; lr * g / (sqrt(v) + 1e-3), v", "v, lr=0.01"),
    "powersign": ("m = interp(g, m, 0.9); lr * exp(0.7 * sign(g) * sign(m)) * g, m", "m, lr=0.01"),
    "addsign": ("m = interp(g, m, 0.9); lr * (1.5 + sign(g) * sign(m)) * g, m", "m, lr=0.01"),
    "signum": ("m = interp(g, m, 0.9); lr * (sign(m) + 0.1 * w), m", "m, lr=1e-3"),
    "lars": ("m = 0.9 * m + (g + 1e-4 * w) * (norm(w) / (norm(g) + 1e-6)); lr * m, m", "m, lr=0.1"),
    "lamb": ("m = interp(g, m, 0.9); v = interp(g * g, v, 0.999); u = m / (sqrt(v) + 1e-6) + 0.01 * w; "
             "lr * u * norm(w) / norm(u), m, v", "m, v, lr=0.01"),
    "dynamic decay": ("lr * (sign(interp(g, m, 0.9)) + 0.1 * dot(g, w) * w), interp(g, m, 0.99)", "m, lr=1e-3"),
    "clipped": ("g = clip(g, 1.0); m = interp(g, m, 0.9); lr * m, m", "m, lr=0.1"),
    "warm": ("m = interp(g, m, 0.9); lr * m * min(1.0, t / 100.0), m", "m, lr=0.1, t"),
    "late": ("m = interp(g, m, 0.9); lr * where(t > 500, sign(m), m), m", "m, lr=0.1, t"),
    "soft sign": ("m = interp(g, m, 0.9); lr * tanh(30.0 * m), m", "m, lr=0.1"),
    "shrunk": ("lr * sign(g) * max(abs(g) - 0.01, 0.0)", "lr=0.1"),
    "shifted": ("m = interp(g, m, 0.9); lr * sign(m - 0.5), m", "m, lr=0.1"),
    "log scale": ("v = interp(log(g), v, 0.9); lr * g * exp(-0.5 * v), v", "v, lr=0.1"),
    "cautious scale": ("u = sign(interp(g, m, 0.9)); k = (g * u > 0.0); lr * u * k / max(mean(k), 0.01), "
                       "interp(g, m, 0.99)", "m, lr=1e-3"),
}  # fmt: skip


def nudged(program: Program, relative: float) -> list[Program]:
    """The program with one number, other than the peak learning rate, multiplied by 1 + relative."""
    found = []
    for index, value in enumerate(program.hypers):
        hypers = list(program.hypers)
        hypers[index] = value * (1 + relative)
        found.append(replace(program, hypers=tuple(hypers)))
    for place, statement in enumerate(program.statements):
        for position, arg in enumerate(statement.args):
            if isinstance(arg, Const) and arg.value != 0:
                args = list(statement.args)
                args[position] = Const(arg.value * (1 + relative))
                statements = list(program.statements)
                statements[place] = statement._replace(args=tuple(args))
                found.append(replace(program, statements=tuple(statements)))
    return found


def scales_only(program: Program, other: Program) -> bool:
    """Whether two programs differ by one positive factor: such as a nudge of lr * 0.001."""
    return all(near(run(program, seed, 1.0), run(other, seed, 1.0)) for seed in (1, 2))


def run(program: Program, seed: int, scale: float, steps: int = 40, schedule: int = 0) -> np.ndarray:
    """Updates on a probe of the tests' own: other shapes, seeds and scales than the key's."""
    random = np.random.default_rng(seed)
    shapes = [(6,), (2, 3), ()]
    runner = Interpreter(program, shapes)
    w = [np.asarray(random.standard_normal(s)) for s in shapes]
    rows = []
    for t in range(1, steps + 1):
        g = [np.asarray(scale * random.standard_normal(s) * np.exp(random.standard_normal(s))) for s in shapes]
        if t % 7 == 3:
            g[0] = 0 * g[0]
        part = t / steps
        lr = (1.0, 1 - part, 0.5 + 0.5 * np.cos(np.pi * part), min(1.0, 10 * part))[schedule]
        rows.append(np.concatenate([np.ravel(u) for u in runner.step(w, g, lr, t, part)]))
        w = [x - 0.01 * random.standard_normal(x.shape) for x in w]
    return np.stack(rows)


def near(a: np.ndarray, b: np.ndarray, tolerance: float = 1e-9) -> bool:
    both = np.isfinite(a) & np.isfinite(b) & (a != 0) & (b != 0)
    factor = np.median(b[both] / a[both]) if both.any() else 1.0
    with np.errstate(all="ignore"):
        return bool(factor > 0 and (np.abs(b - factor * a) <= tolerance * np.abs(b))[both].all())


@pytest.mark.parametrize("relative", [1e-3, 1e-6, -1e-3])
@BOTH
def test_a_nudged_number_changes_the_key(starts, relative, named):
    programs = {**starts, **{name: rule(*parts) for name, parts in ZOO.items()}}
    pairs = [(p, child) for p in programs.values() for child in nudged(p, relative)]
    merged = [pair for pair in pairs if named(pair[0]) == named(pair[1])]
    wrong = [pair for pair in merged if not scales_only(*pair)]
    print(f"{len(pairs)} nudges, {len(merged)} share a key, {len(wrong)} of them wrongly")
    assert len(pairs) - len(merged) > 70
    assert not wrong, "\n".join(f"{a}{b}" for a, b in wrong)


AWAY = [
    ("lr * (sign(interp(g, m, 0.9)) + 0.1 * w), interp(g, m, 0.99)", [
        "m = interp(g, m, 0.99); lr * (sign(interp(g, m, 0.9)) + 0.1 * w), m",  # the state first
        "lr * sign(interp(g, m, 0.9)), interp(g, m, 0.99)",  # no decay
        "lr * (sign(interp(g, m, 0.9)) - 0.1 * w), interp(g, m, 0.99)",
        "lr * (sign(interp(g, m, 0.95)) + 0.1 * w), interp(g, m, 0.99)",
        "lr * (sign(interp(g, m, 0.9)) + 0.1 * w), interp(g, m, 0.98)",
        "lr * (sign(interp(m, g, 0.9)) + 0.1 * w), interp(g, m, 0.99)",
        "lr * (interp(g, m, 0.9) + 0.1 * w), interp(g, m, 0.99)",
        "lr * (tanh(1e9 * interp(g, m, 0.9)) + 0.1 * w), interp(g, m, 0.99)",
        "lr * (sign(interp(g, m, 0.9) + 1e-12) + 0.1 * w), interp(g, m, 0.99)",
        "lr * (sign(g) + 0.1 * w), interp(g, m, 0.99)",
        "-lr * (sign(interp(g, m, 0.9)) + 0.1 * w), interp(g, m, 0.99)",
        "lr * sign(interp(g, m, 0.9)) + 0.1 * w, interp(g, m, 0.99)",  # decay that ignores lr
        "lr * lr * (sign(interp(g, m, 0.9)) + 0.1 * w), interp(g, m, 0.99)",
    ]),
    ("m = interp(g * g, m, 0.999); lr * g / (sqrt(m) + 1e-8), m", [
        "m = interp(g * g, m, 0.999); lr * g / (sqrt(m) + 1e-10), m",
        "m = interp(g * g, m, 0.999); lr * g / sqrt(m + 1e-8), m",
        "m = interp(g * g, m, 0.999); lr * g / sqrt(m + 1e-16), m",
        "m = interp(g * g, m, 0.999); lr * g / sqrt(m), m",
        "lr * g / (sqrt(m) + 1e-8), interp(g * g, m, 0.999)",
        "m = interp(g * g, m, 0.999); lr * g / (m + 1e-8), m",
        "m = interp(abs(g), m, 0.999); lr * g / (m + 1e-8), m",
        "m = max(g * g, m * 0.999); lr * g / (sqrt(m) + 1e-8), m",
        "m = interp(g * w, m, 0.999); lr * g / (sqrt(m) + 1e-8), m",
    ]),
    ("m = interp(g, m, lr); lr * (1.5 + sign(g) * sign(m)) * g, m", [  # signs that hardly ever differ
        "m = interp(g, m, lr); lr * (0.5 + sign(g) * sign(m)) * g, m",
        "m = interp(g, m, lr); lr * (1.5 + sign(g) * sign(g)) * g, m",
    ]),
    ("m = m + 1 / square(g); lr * g / (sqrt(m) + 1e-10), m", [  # an eps behind a huge state
        "m = m + 1 / square(g); lr * g / sqrt(m), m",
        "m = m + 1 / square(g); lr * g / (sqrt(m) + 1e-9), m",
    ]),
    ("lr * clip(g, 1e6), m", ["lr * g, m", "lr * clip(g, 1e7), m", "lr * clip(g, 1e12), m", "lr * clip(g, lr), m"]),
    ("lr * max(g, -1e12), m", ["lr * g, m", "lr * max(g, -1e13), m", "lr * max(g, -1e12) * 2 + lr * g, m"]),
    ("lr * min(g, 1e12), m", ["lr * g, m", "lr * max(g, -1e12), m", "lr * min(g, 2e12), m"]),
    ("lr * sign(m - 5), g", ["lr * sign(m - 6), g", "lr * sign(m), g", "lr * sign(m + 5), g", "lr * sign(m - w), g"]),
    ("lr * sign(m - 3 * w), g", ["lr * sign(m - 3.001 * w), g", "lr * sign(m * m * m - 3 * w), g"]),
    ("lr * g / norm(g), m", [
        "lr * g / global_norm(g), m", "lr * g / rms(g), m", "lr * g / amax(g), m", "lr * g / amax(abs(g)), m",
        "lr * g / sum(abs(g)), m", "lr * g / norm(w), m", "lr * g / dot(g, g), m", "lr * g / std(g), m",
        "lr * g / (norm(g) + 1e-6), m", "lr * g / mean(abs(g)), m", "lr * sign(g), m", "lr * g, m",
    ]),
    ("lr * g * mean(g), m", ["lr * g * rms(g), m", "lr * g * sum(g), m", "lr * g * abs(mean(g)), m",
                             "lr * g * mean(abs(g)), m", "lr * g * dot(g, g), m", "lr * g * dot(g, w), m"]),
    ("lr * abs(g + 1e10), m", ["lr * (g + 1e10), m", "lr * sign(g + 1e10), m", "lr * abs(g - 1e10), m"]),
    ("lr * sin(g), m", ["lr * tan(g), m", "lr * arctan(g), m", "lr * sinh(g), m", "lr * g, m", "lr * cos(g), m"]),
    ("lr * sin(1e-12 * g), m", ["lr * 1e-12 * g, m", "lr * tan(1e-12 * g), m", "lr * sin(1.001e-12 * g), m"]),
    ("lr * log(g) * g, m", ["lr * log2(g) * g + lr * g, m", "lr * log1p(g) * g, m"]),
    ("lr * power(g, 2.0) * g, m", ["lr * power(g, 2.0001) * g, m", "lr * power(abs(g), 2.0001) * g, m"]),
    ("lr * g * (abs(m) < 1e15), g", ["lr * g, m", "lr * g * (abs(m) < 1e16), g", "lr * g * (abs(g) < 1e15), g"]),
]  # fmt: skip
AWAY_IN_TIME = [
    ("lr * where(t > 500, g, sign(g))", ["lr * where(t > 700, g, sign(g))", "lr * where(t >= 500, g, sign(g))",
                                         "lr * where(t < 500, g, sign(g))", "lr * where(t > 501, g, sign(g))"]),
    ("lr * where(t > 1e6, g, sign(g))", ["lr * where(t > 2e6, g, sign(g))", "lr * sign(g)",
                                         "lr * where(t > 1e6, g * 2, sign(g))", "lr * where(t > 1e6, w, sign(g))"]),
    ("lr * (g + (progress > 0.95) * 5 * w)", ["lr * (g + (progress > 0.95) * 7 * w)", "lr * g",
                                              "lr * (g + (progress > 0.96) * 5 * w)"]),
    ("lr * (g * (progress < 0.95) + 5)", ["lr * (g + (progress < 0.95) * 5)", "lr * (g + 5)",
                                          "lr * (g + 5) * (progress < 0.95)"]),
    ("lr * g * (t > 500 * get_pi())", ["lr * g * (t > 500 * get_e())", "lr * g * (t > 500)"]),
    ("lr * g * (t * 1.5 > 4000)", ["lr * g * (t + 1.5 > 4000)", "lr * g * (t > 4000)"]),
    ("lr * g * (t - 500) / (t - 500)", ["lr * g * (t - 700) / (t - 700)", "lr * g"]),
    ("lr * g * (1 - 0.9 ** t)", ["lr * g * (1 - 0.91 ** t)", "lr * g", "lr * g * (1 - 0.9 ** (t + 1))",
                                 "lr * g * (1 - 0.9 ** progress)"]),
    ("lr * g * sign(t - 1e5) + g", ["g - lr * g", "lr * g * sign(t - 1e6) + g"]),
    ("lr * g * min(1, t / 1e5)", ["lr * g * t", "lr * g * min(1, t / 1.001e5)"]),
    ("g", ["lr * g / lr", "lr * g / (lr * 1e-8 + (g - g))", "sign(lr) * g"]),  # lr ends at 0
    ("lr * g * sin(t)", ["lr * g * sin(t + 44 * get_pi())", "lr * g * sin(t * (1 + 2 * get_pi()))"]),
]  # fmt: skip


@BOTH
def test_near_misses_keep_their_own_keys(named):
    pairs = [(rule(a), rule(b)) for a, others in AWAY for b in others]
    pairs += [(rule(a, "lr=1e-3, t, progress"), rule(b, "lr=1e-3, t, progress")) for a, bs in AWAY_IN_TIME for b in bs]
    families = [[rule(a), *map(rule, others)] for a, others in AWAY]
    pairs += [pair for family in families for pair in combinations(family[1:], 2)]
    merged = [f"{a}{b}" for a, b in pairs if named(a) == named(b)]
    print(f"{len(pairs)} near misses")
    assert len(pairs) >= 200
    assert not merged, "\n".join(merged)


def test_what_the_probe_cannot_see_makes_the_key_structural():
    seen = rule("lr * where(t > 500, g, sign(g))", "lr, t")
    unseen = rule("lr * where(t > 1e9, g, sign(g))", "lr, t")
    assert not behaviour(seen).blind
    assert behaviour(unseen).blind
    assert not behaviour(rule("lr * (sign(g) + decay * w)", "lr, decay=0.0")).blind


# --- no false merge among mutants -------------------------------------------------------------------------


def truly_alike(a: Program, b: Program) -> bool:
    """One positive factor apart on fresh probes, or as far apart as rounding in the programs themselves explains."""
    factors = []
    for seed, scale, steps, schedule in ((1, 1e-7, 20, 0), (2, 1e-3, 30, 1), (3, 1.0, 210, 2), (4, 1e5, 30, 3)):
        with np.errstate(all="ignore"):
            x, y = run(a, seed, scale, steps, schedule), run(b, seed, scale, steps, schedule)
            usual = np.isfinite(x) & np.isfinite(y) & (np.minimum(np.abs(x), np.abs(y)) > 1e-150)
            if not usual.any():
                continue
            factors.append(np.median((y / x)[usual]))
            difference = np.abs(y - factors[0] * x)
            if (difference[usual] > 1e-6 * np.abs(y)[usual]).mean() > 0.01:
                return False
    return all(f > 0 and abs(f / factors[0] - 1) < 1e-6 for f in factors)


@pytest.mark.parametrize("space", ["lion45", "elementwise"])
def test_mutants_that_share_a_key_behave_alike(starts, space):
    """Children of known rules, a few edits deep; those with one key and unlike text are run against each other."""
    parents = [*starts.values(), *(rule(*parts) for parts in ZOO.values())]
    families: dict[str, dict[str, Program]] = defaultdict(dict)
    mutator = Mutator(space)
    for number in range(2_000):
        random = np.random.Generator(np.random.Philox(key=[len(space), number]))
        program = parents[number % len(parents)]
        for _ in range(int(random.integers(1, 5))):
            program, _ = mutator.mutate(program, random)
        seen = behaviour(program)
        if reject_reason(flow(program)) is None and seen.finite and seen.rms > 0:
            families[behaviour_key(program, seen)].setdefault(structural_key(program), program)
    groups = [list(family.values()) for family in families.values()]
    merged = [(first, other) for first, *others in groups for other in others]
    wrong = [f"{a}{b}" for a, b in merged[:60] if not truly_alike(a, b)]
    print(f"{len(families)} keys, {len(merged)} pairs of unlike text share one")
    assert len(merged) >= 30
    assert not wrong, "\n".join(wrong)


def test_two_averages_that_differ_in_their_rate_are_no_tuning_of_one():
    lion = "u = sign(interp(g, m, {})); m = interp(g, m, {}); lr * u, m"
    signum = "m = interp(g, m, {}); lr * sign(m), m"
    assert skeleton_key(rule(lion.format(0.9, 0.99))) == skeleton_key(rule(lion.format(0.7, 0.8)))
    assert skeleton_key(rule(signum.format(0.9))) == skeleton_key(rule(signum.format(0.8)))
    assert skeleton_key(rule(signum.format(0.9))) != skeleton_key(rule(lion.format(0.9, 0.99)))
