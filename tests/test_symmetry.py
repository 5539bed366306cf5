"""Symmetries have known answers for published rules, and what is proved holds on probes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from stepsmith.discovered import load, names
from stepsmith.dsl import OPS, Program, symmetry_probe
from stepsmith.dsl.abstract import ZERO, Parity, degree_of
from stepsmith.dsl.bounds import bound
from stepsmith.dsl.interpret import Interpreter
from stepsmith.dsl.ops import ROWS
from stepsmith.dsl.symmetry import (
    _proof,
    _turns,
    bounded,
    correction,
    degree,
    is_odd,
    permutation,
    rotation,
    scale,
    sign,
    symmetries,
)
from stepsmith.search.mutate import Mutator

sys.path.append(str(Path(__file__).parent))

from rounding import disturbance

SGD = "\ndef sgd(w, g, lr=0.1):\n return lr * g\n"
MUON = """def muon(w, g, m, lr=0.02, beta=0.95) for matrix, embedding, head else sgd:
  m = interp(g, m, beta)
  x = m / norm(m)
  repeat 5:
    s = x @ transpose(x)
    x = 3.4445 * x + (-4.775 * s + 2.0315 * (s @ s)) @ x
  end
  return lr * max(1, size(g, fan_out) / size(g, fan_in)) ** 0.5 * x, m
""" + SGD  # fmt: skip
ADAM = """def adam(w, g, m, v, t, lr=1e-3, beta1=0.9, beta2=0.999, eps=0.0):
  m = interp(g, m, beta1)
  v = interp(square(g), v, beta2)
  return lr * (m / (1 - beta1 ** t)) / (sqrt(v / (1 - beta2 ** t)) + eps), m, v
"""


def f(update: str, head: str = "", ends: str = "", body: str = "") -> Program:
    return Program.parse(f"def f(w, g, {head}lr, t):\n {body}\n return {update}{ends}")


def matrix(update: str, head: str = "", ends: str = "", body: str = "") -> Program:
    return Program.parse(f"def f(w, g, {head}lr, t) for matrix else sgd:\n {body}\n return {update}{ends}" + SGD)


# --- published rules ----------------------------------------------------------------------------------------

KNOWN = {  # scale, sign, permutation, rotation, bounded, needs bias correction
    "sgd": ("no", "proved", "proved", "proved", "no", "no"),
    "signsgd": ("proved", "proved", "proved", "no", "proved", "no"),
    "signum": ("proved", "proved", "proved", "no", "proved", "no"),
    "lion": ("proved", "proved", "proved", "no", "proved", "no"),
    "c_lion": ("proved", "proved", "proved", "no", "proved", "no"),
    "adamw": ("no", "proved", "proved", "no", "probed", "no"),
    "adamw_plain": ("proved", "proved", "proved", "no", "probed", "probed"),
    "adamw_clip": ("no", "proved", "proved", "no", "proved", "no"),
    "rmsprop": ("no", "proved", "proved", "no", "probed", "probed"),
    "momentum": ("no", "proved", "proved", "proved", "no", "probed"),
    "nesterov": ("no", "proved", "proved", "proved", "no", "probed"),
    "addsign": ("no", "proved", "proved", "no", "no", "no"),
}


@pytest.mark.parametrize("name", KNOWN)
def test_published_rules(name):
    found = symmetries(load(name))
    assert tuple(v.verdict for v in found.values()) == KNOWN[name], found


def test_degrees_are_reported():
    assert [degree(load(n)) for n in ("sgd", "momentum", "nesterov", "lion", "adamw")] == [1, 1, 1, 0, None]
    assert scale(load("sgd")).detail == "degree 1"
    assert scale(load("adamw")).detail == "add of degree 1 and degree 0 (eps)"
    assert degree(f("lr * g / (v + 0)", "v, ", ", interp(g * g, v, 0.9)")) == -1
    assert degree(f("lr * cbrt(g) * v ** 0.25", "v, ", ", max(v * 0.9, g * g)")) == pytest.approx(5 / 6)
    assert scale(f("lr * exp(log(abs(g)))")).detail == "degree 1 on probes"


def test_adam_is_scale_invariant_where_eps_is_0():
    assert scale(Program.parse(ADAM)).verdict == "proved"
    assert scale(Program.parse(ADAM.replace("eps=0.0", "eps=1e-30"))).verdict == "no"
    assert bounded(Program.parse(ADAM)).verdict == "probed"


def test_a_bound_says_its_number():
    assert bounded(load("lion")).detail == "|update| <= 1 lr at w = 0"
    assert bounded(load("c_lion")).detail.startswith("|update| <= 1000 lr at w = 0, up to ")
    assert str(bounded(load("adamw_clip"))).startswith("proved, finite (the proof gives above 1e4 lr), up to 1 lr on ")
    assert correction(load("adamw_plain")).detail == "update 10 is 6.36 times that after 3000 steps"


def test_muon_turns_with_rows_and_columns():
    muon = Program.parse(MUON)
    assert scale(muon).verdict == "proved"
    assert (permutation(muon).verdict, permutation(muon).detail) == ("proved", "rows and columns")
    assert (rotation(muon).verdict, rotation(muon).detail) == ("proved", "both sides")
    assert sign(muon).verdict == "no" and sign(muon).detail.startswith("matmul of odd values")
    assert bounded(muon).verdict == "probed"
    assert correction(muon).verdict == "no"
    named = matrix("lr * orthogonalize(m)", "m, ", ", interp(g, m, 0.9)")
    assert str(bounded(named)) == "proved, |update| <= 1.21 lr at w = 0"
    assert rotation(named).verdict == "proved"


# --- single properties --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("update", "verdict", "detail"),
    [
        ("g / norm(g)", "proved", "both sides"),
        ("g / rms(g, fan_in)", "proved", "right"),
        ("norm(g, fan_out) * g", "proved", "left"),
        ("mean(g, fan_in) + 0 * g", "proved", "left"),
        ("amax(g, fan_in) + 0 * g", "no", "amax over fan_in of single elements"),
        ("g @ inverse_sqrt(transpose(g) @ g)", "proved", "both sides"),
        ("unwide(newton_schulz(wide(g / norm(g)), 2, -1.5, 0.5))", "proved", "both sides"),
        ("g * g", "no", "multiply of [fan_out, fan_in] and [fan_out, fan_in]"),
        ("sqrt(square(g)) * sign(g)", "probed", "both sides"),  # it is g
        ("where(norm(g) < 1, g, g / norm(g))", "proved", "both sides"),
        ("g * where(dot(g, w) > 0, 1, 2)", "proved", "both sides"),
        ("unwide(svd_basis(wide(g), 2) @ (transpose(svd_basis(wide(g), 2)) @ wide(g)))", "probed", "both sides"),
    ],
)
def test_rotations(update, verdict, detail):
    found = rotation(matrix(f"lr * ({update})"))
    assert found.verdict == verdict and found.detail.startswith(detail), found


@pytest.mark.parametrize(
    ("update", "verdict", "detail"),
    [
        ("g / mean(abs(g))", "proved", "elements"),
        ("g / rms(g, fan_in)", "proved", "rows and columns"),
        ("eye(g @ transpose(g)) @ g", "proved", "rows and columns"),
        ("transpose(random_projection(g, 2, 5)) @ (random_projection(g, 2, 5) @ g)", "proved", "columns"),
        ("g * sum(random_projection(g, 2, 5) @ g)", "proved", "columns"),
    ],
)
def test_permutations(update, verdict, detail):
    found = permutation(matrix(f"lr * ({update})"))
    assert (found.verdict, found.detail) == (verdict, detail), found


@pytest.mark.parametrize(
    ("update", "verdict"),
    [
        ("g ** 3", "proved"), ("g ** 2", "no"), ("abs(g)", "no"), ("cos(g) * g", "proved"), ("max(g, w)", "no"),
        ("where(g * w > 0, g, w)", "proved"), ("g + mean(g)", "no"), ("g * rms(g + w)", "proved"), ("exp(g) * g", "no"),
        ("dot(g, w) * g", "proved"), ("sign(g) * sqrt(g)", "proved"), ("g * (exp(g) + exp(-g))", "probed"),
        ("interp(g, w, 0.3)", "proved"), ("interp(g, w, g)", "no"), ("std(g) * g", "no"),
    ],
)  # fmt: skip
def test_signs(update, verdict):
    assert sign(f(f"lr * ({update})")).verdict == verdict


@pytest.mark.parametrize("update", ["g + mean(g)", "g * (exp(g) + exp(-g))", "sign(g) * w * w"])
def test_what_prefers_no_direction(update):
    assert is_odd(f(f"lr * ({update})"))


@pytest.mark.parametrize("update", ["g + 0.1", "max(g, w)", "abs(g)", "g + lr"])
def test_what_prefers_a_direction(update):
    assert not is_odd(f(f"lr * ({update})"))


def test_no_catalogued_rule_prefers_a_direction():
    rules = [program for name in names() if not (program := load(name)).schedule]
    assert len(rules) > 40 and all(map(is_odd, rules))


@pytest.mark.parametrize(
    ("update", "head", "ends", "most"),
    [
        ("tanh(g) + arctan(g)", "", "", 1 + np.pi / 2),
        ("clip(g, 2)", "", "", 2),
        ("m", "m, ", ", 0.9 * m + sign(g)", 10),
        ("m", "m, ", ", interp(sign(g), m, 0.9)", 1),
        ("m", "m, ", ", m + sign(g)", np.inf),
        ("max(min(g, 3), -2)", "", "", 3),
        ("g / (norm(g) + 1e-8)", "", "", 1),
        ("g / max(abs(g), 1)", "", "", 1),
        ("g / sqrt(g * g)", "", "", 1),
        ("g / (1 + g * g)", "", "", np.inf),  # it is, and no interval says so
        ("tanh(g) / (1 - 0.9 ** t)", "", "", 10),
        ("sign(g) * 0.5 + w", "", "", 0.5),
        ("1 / (1 + square(g))", "", "", 1),
        ("g", "", "", np.inf),
        ("cosine_sim(g, w) * sin(g)", "", "", 1),
        ("noise", "", "", np.inf),
    ],
)
def test_bounds(update, head, ends, most):
    if update == "noise":
        program = Program.parse("def f(w, g, lr=0.1, noise):\n return lr * (sign(g) + noise)")
    else:
        program = Program.parse(f"def f(w, g, {head}t, lr=0.1):\n return lr * ({update}){ends}")
    assert bound(program)[0] == pytest.approx(most)


def test_bounds_that_need_a_shape_say_so():
    program = f("lr * sign(g) * norm(sign(g))")
    assert bound(program, (4, 4)) == (4, True) and bounded(program).detail.endswith(
        "shape (1024, 1024), up to 3.87 lr on probes"
    )


def test_noise_is_transformed_in_distribution():
    mezo = Program.parse("def f(w, g, lr, two_point: every 1, noise):\n return lr * two_point * noise")
    assert str(sign(mezo)) == "proved, in distribution"
    assert str(rotation(mezo)) == "proved, both sides, in distribution"
    assert degree(mezo) == 1


def test_curvature_keeps_its_sign_and_scales_with_the_loss():
    newton = Program.parse("def f(w, g, lr, hutchinson: every 2):\n return lr * g / hutchinson")
    assert str(scale(newton)) == "proved" and sign(newton).verdict == "proved"
    assert rotation(newton).detail == "hutchinson is a diagonal"
    assert degree(Program.parse("def f(w, g, lr, gauss_newton: every 1):\n return lr * g / sqrt(gauss_newton)")) == 0


def test_codecs_that_round_are_left_aside_and_a_rank_is_not():
    for codec, verdict in (("bf16", "proved"), ("int8", "proved"), ("low_rank(1)", "no")):
        rule = matrix("lr * m", f"m: {codec}, ", ", interp(g, m, 0.9)")
        assert sign(rule).verdict == verdict
        assert degree(rule) == 1 and rotation(rule).verdict == "proved"


def test_a_state_that_agrees_with_itself_at_no_degree_has_none():
    assert scale(f("lr * s", "s, ", ", s * g + g")).detail.startswith("add of degree 2 and degree 1")
    assert scale(f("lr * g * s", "s, ", ", max(s, 1)")).detail == "degree 1"
    assert degree(f("lr * g * s", "s, ", ", s * g")) == 0  # s is 0 for ever


# --- the traits of rows -------------------------------------------------------------------------------------

TRAITS = [
    (row.name, word)
    for row in ROWS
    for word in sorted(row.traits)
    if row.meaning is not None and word not in ("odd", "even", "commutative")  # which test_rows tells
]  # fmt: skip


def arguments(op: str, seed: int) -> list[np.ndarray]:
    """Square matrices, the last of interp and quantile a share."""
    random = np.random.default_rng(seed)
    row = OPS[op]
    args = [random.standard_normal((4, 4)) for _ in range(row.arity)]
    if op in ("interp", "quantile"):
        args[-1] = np.float64(0.3)
    if row.shape and op in ("inverse_sqrt", "eigh_basis"):
        args[0] = args[0] @ args[0].T
    if op == "svd_basis":
        args[1] = np.float64(2)
    return args


def value(op: str, args) -> np.ndarray:
    row = OPS[op]
    args = list(args)
    more = {"axis": 0} if row.axis else {"like": np.empty((4, 4))} if row.like else {}
    if op == "random_projection":
        args, more = [args[0], 2.0, 3.0, 1.0], {"draw": lambda shape, _: np.ones(shape)}
    if op in ("dot", "global_norm"):
        args = [[a] for a in args]
    with np.errstate(all="ignore"):
        return np.asarray(row.meaning(*args, **more))


@pytest.mark.parametrize(("op", "trait"), TRAITS)
def test_rows_have_the_traits_that_proofs_use(op, trait):
    args, other = arguments(op, 0), arguments(op, 1)
    fixed = {"interp": 1, "quantile": 1, "svd_basis": 1}.get(op, 0)
    main = len(args) - fixed

    def scaled(c):
        return [c * a for a in args[:main]] + args[main:]

    if trait.startswith("degree"):
        for c in (4.0, 0.3):
            np.testing.assert_allclose(value(op, scaled(c)), c ** degree_of(op) * value(op, args), rtol=1e-9, atol=1e-9)
    elif trait == "linear":
        both = [a + b for a, b in zip(args[:main], other[:main], strict=True)] + args[main:]
        other = other[:main] + args[main:]
        np.testing.assert_allclose(value(op, both), value(op, args) + value(op, other), atol=1e-12)
    elif trait == "bilinear":
        np.testing.assert_allclose(value(op, [3 * args[0], args[1]]), 3 * value(op, args))
        np.testing.assert_allclose(value(op, [args[0], 3 * args[1]]), 3 * value(op, args))
    elif trait == "rising":
        x = np.linspace(0 if "even" in OPS[op].traits else -20, 20, 2001)
        y = value(op, [x])
        assert (np.diff(y[np.isfinite(y)]) >= 0).all()
    elif trait.startswith("bounded"):
        for c in (1e-3, 1.0, 1e3):
            found = value(op, scaled(c))
            assert np.abs(found[np.isfinite(found)]).max(initial=0) <= float(trait[8:]) * (1 + 1e-12)
    else:
        turn = np.linalg.qr(other[0])[0]
        signs = np.sign(other[0])
        np.testing.assert_allclose(value(op, [turn @ args[0]]), value(op, args))
        np.testing.assert_allclose(value(op, [signs * args[0]]), value(op, args))


# --- what is proved holds -----------------------------------------------------------------------------------


def without_nan(program: Program, steps) -> bool:
    good = []

    def watch(found):
        good.append(all(np.isfinite(x).all() for x in (found if isinstance(found, list) else [found])))
        return found

    symmetry_probe.updates(program, steps, disturb=watch)
    return all(good)


def check_proofs(program: Program) -> set[str]:
    """Asserts that what is proved of a program holds on the probe; returns what was proved."""
    probe, steps = symmetry_probe, symmetry_probe.history()
    plain = probe.updates(program, steps)
    for seed in (0, 1):
        each = disturbance(seed)
        near = [step._replace(w=each(step.w), g=each(step.g)) for step in steps]  # products round by their size
        moved = probe.updates(program, near, disturb=each)
        if not probe.agree(plain, moved, 1e-10) or not without_nan(program, steps):
            return set()  # ill conditioned: a probe would show roundings
    proved = set()
    k = degree(program)
    if k is not None and abs(k) < 30:
        proved.add("degree")
        for c in (2.0**12, 2.0**-12, 3.7):
            expected = [[c**k * u for u in step] for step in plain]
            assert probe.agree(expected, probe.updates(program, steps, scale=c), least=0), (k, c, str(program))
    found, why = _proof(program, Parity())
    if not why and (found == "odd" or found is ZERO):
        proved.add("sign")
        assert probe.has_signs(program), str(program)
    for rotates, make in ((False, probe.permuted), (True, probe.rotated)):
        for sides in ("OI", "O", "I"):
            if not _turns(program, rotates, sides):
                proved.add(("rotation " if rotates else "permutation ") + sides)
                held = [probe.equivariant(program, make("OI".index(side), 3)) for side in sides]
                assert all(held), (rotates, sides, str(program))
    if permutation(program) == ("proved", "elements"):
        proved.add("elements")
        assert probe.equivariant(program, probe.permuted_elements(3)), str(program)
    most = max(bound(program, shape)[0] for shape in probe.SHAPES)
    if most < np.inf:
        proved.add("bound")
        for size in probe.largest_by_scale(program).values():
            assert not size > most * abs(program.peak or 1) * (1 + 1e-9), (most, size, str(program))
    return proved


def test_what_is_proved_of_random_programs_holds_on_probes(random_programs):
    counts: dict[str, int] = {}
    for program in random_programs[::30]:
        for name in check_proofs(program):
            counts[name] = counts.get(name, 0) + 1
    assert counts["degree"] > 100 and counts["sign"] > 100 and counts["bound"] > 100 and counts["elements"] > 250
    assert counts["rotation OI"] > 50, counts


def test_what_is_proved_of_random_matrix_programs_holds_on_probes():
    counts: dict[str, int] = {}
    start, mutator = Program.parse(MUON.replace("repeat 5", "repeat 2")), Mutator("matrix")
    for index in range(150):
        random = np.random.Generator(np.random.Philox(key=90_000 + index))
        program = start
        for _ in range(int(random.integers(1, 25))):
            program, _ = mutator.mutate(program, random)
        for name in check_proofs(program.parts()[0]):
            counts[name] = counts.get(name, 0) + 1
    assert counts["degree"] > 20 and counts["bound"] > 20 and counts["permutation OI"] > 50, counts
    assert counts["rotation OI"] > 10 and counts["rotation I"] > counts["rotation OI"], counts


def test_a_probe_runs_what_the_interpreter_runs():
    program = Program.parse(ADAM)
    steps = symmetry_probe.history()
    runner = Interpreter(program, symmetry_probe.SHAPES)
    for t, (step, found) in enumerate(zip(steps, symmetry_probe.updates(program, steps, decay=0.0), strict=True), 1):
        for a, b in zip(found, runner.step(step.w, step.g, 1.0, t, t / 9), strict=True):
            np.testing.assert_array_equal(a, b)
