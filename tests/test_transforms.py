"""Transforms do what their papers say to any rule: against the zoo, small oracles, and random programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from stepsmith.discovered import load, names
from stepsmith.dsl import Kind, Program, ProgramError, check
from stepsmith.dsl.codecs import Codec
from stepsmith.dsl.interpret import Interpreter
from stepsmith.dsl.keys import key, structural_key
from stepsmith.dsl.transforms import (
    EPS,
    SCALES,
    TRANSFORMS,
    cautious,
    cautious_decay,
    clip,
    decoupled_decay,
    low_bit_state,
    nesterov,
    split,
)

SHAPES = [(6, 4), (5,), (3, 7)]
STEPS = 20
MUON = """# Muon, with a fallback.
def muon(w, g, m, lr=0.02, beta=0.95, weight_decay=0.1) for matrix, embedding, head else sgd:
  m = interp(g, m, beta)
  x = m / norm(m)
  repeat 5:
    s = x @ transpose(x)
    x = 3.4445 * x + (-4.775 * s + 2.0315 * (s @ s)) @ x
  end
  return lr * (max(1, size(g, fan_out) / size(g, fan_in)) ** 0.5 * x + weight_decay * w), m

def sgd(w, g, n, lr=0.1):
  n = 0.9 * n + g
  return lr * n, n
"""


def gradients(steps: int = STEPS, seed: int = 0) -> list[list[np.ndarray]]:
    random = np.random.default_rng(seed)
    return [[random.standard_normal(s) for s in SHAPES] for _ in range(steps)]


def weights() -> list[np.ndarray]:
    return gradients(1, 99)[0]


def updates(program: Program, steps: int = STEPS) -> list[list[np.ndarray]]:
    """Along the same weights and gradients, whatever the program does."""
    w, runner = weights(), Interpreter(program, SHAPES)
    return [runner.step(w, g, 1 - t / (2 * steps), t, t / steps) for t, g in enumerate(gradients(steps), 1)]


def states(program: Program, steps: int) -> list[dict]:
    """Of each part, step by step."""
    w, runner = weights(), Interpreter(program, SHAPES)
    seen = []
    for t, g in enumerate(gradients(steps), 1):
        runner.step(w, g, 1.0, t, t / steps)
        seen.append({(i, s): value for i, (_, part) in enumerate(runner.parts) for s, value in part.states.items()})
    return seen


def assert_same(one: list[list[np.ndarray]], other: list[list[np.ndarray]], rtol: float = 1e-9) -> None:
    for xs, ys in zip(one, other, strict=True):
        for x, y in zip(xs, ys, strict=True):
            np.testing.assert_allclose(x, y, rtol, atol=rtol * float(np.abs(y[np.isfinite(y)]).max(initial=1e-12)))


def assert_whole(program: Program) -> None:
    check(program)
    again = Program.parse(str(program))
    assert again == program
    assert str(again) == str(program)


def with_hypers(program: Program, **values: float) -> Program:
    by_name = {program.name_of(program.first_hyper + i): value for i, value in enumerate(program.hypers)} | values
    return replace(program, hypers=tuple(by_name.values()))


def parse(body: str, head: str = "m", ends: str = ", m") -> Program:
    return Program.parse(f"def f(w, g, {head}, lr=0.1, t):\n {body}{ends}")


def oracle(u: np.ndarray, g: np.ndarray, scale: str) -> np.ndarray:
    """The published scalings, from their formulas."""
    phi = (u * g > 0).astype(float)
    factor = {
        "clamped_mean": 1 / max(phi.mean(), 1e-3),
        "mean_eps": 1 / (phi.mean() + EPS),
        "sum_plus_one": phi.size / (phi.sum() + 1),
        "sum_eps": phi.size / (phi.sum() + EPS),
    }[scale]
    return u * phi * factor


# --- against the zoo ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("plain", "masked"), [("adamw", "c_adamw"), ("lion", "c_lion")])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_cautious_is_the_published_rule(plain, masked, decay):
    expected = with_hypers(load(masked), weight_decay=decay)
    found = cautious(replace(load(plain), hypers=expected.hypers), "clamped_mean")
    assert key(found) == key(expected)
    assert structural_key(found) == structural_key(expected)
    assert_same(updates(found), updates(expected), 1e-13)
    if decay:
        without = with_hypers(expected, weight_decay=0.0)
        for one, other in zip(updates(found), updates(without), strict=True):
            rest = [(x - y) for x, y in zip(one, other, strict=True)]
            ratio = [r / x for r, x in zip(rest, weights(), strict=True)]
            assert all(np.ptp(r) <= 1e-9 * abs(r).max() for r in ratio), "a decay that is masked nowhere"


@pytest.mark.parametrize(
    ("transform", "plain", "known"),
    [(nesterov, "momentum", "nesterov"), (clip, "adamw", "adamw_clip")],
)  # fmt: skip
def test_the_zoo_holds_the_transformed(transform, plain, known):
    found, expected = transform(load(plain)), load(known)
    assert key(found) == key(expected)
    assert_same(updates(found), updates(expected), 1e-13)


def test_names_and_text_are_kept():
    text = str(cautious(load("adamw")))
    for line in ("m_hat = m / (1.0 - power(beta1, t))", "mask = direction * g > 0.0", "return lr * update, m, v"):
        assert line in text, text
    assert text.splitlines()[0] == "# AdamW: Adam with decoupled weight decay."
    assert "Differs: cautious: scale clamped_mean" in text
    lines = str(clip(load("sgd"), 0.5)).splitlines()[-3:]
    assert lines == ["def clip_sgd(w, g, lr=0.1, max_norm=0.5):", "    g = clip(g, max_norm)", "    return lr * g"]


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_the_zoo_goes_through(transform, name):
    before = load(name)
    text = str(before)
    try:
        found = TRANSFORMS[transform](before)
    except ProgramError as error:
        assert "\n" not in str(error) and (";" in str(error))
        return
    assert str(before) == text
    assert_whole(found)
    for plain, changed in zip(updates(before, 3), updates(found, 3), strict=True):
        assert all(np.isfinite(y).all() or not np.isfinite(x).all() for x, y in zip(plain, changed, strict=True))


# --- cautious -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES)
def test_scalings(scale):
    program = cautious(Program.parse("def f(w, g, u, lr=0.1):\n return lr * u, g"), scale)  # the gradient before this
    before = [np.zeros(s) for s in SHAPES]
    for t, (found, g) in enumerate(zip(updates(program), gradients(), strict=True), 1):
        for x, u, y in zip(found, before, g, strict=True):
            assert not x[u * y <= 0].any()
            np.testing.assert_allclose(x, 0.1 * (1 - t / (2 * STEPS)) * oracle(u, y, scale), rtol=1e-12)
        before = g


@pytest.mark.parametrize("scale", SCALES)
def test_a_mask_that_is_zero_everywhere_gives_zero(scale):
    program = cautious(Program.parse("def f(w, g, lr):\n return lr * (0 - g)"), scale)
    assert not any(x.any() for step in updates(program, 3) for x in step)


@pytest.mark.parametrize(
    ("body", "update", "decay"),
    [
        ("return lr * (m + 0.1 * w)", "lr * m", "lr * 0.1 * w"),
        ("return lr * (0.1 * w + m)", "lr * m", "lr * 0.1 * w"),
        ("return lr * m - lr * 0.1 * w", "lr * m", "-lr * 0.1 * w"),
        ("return lr * (0.1 * w - m)", "-lr * m", "lr * 0.1 * w"),
        ("return -(lr * (w / 10 - m))", "lr * m", "-lr * 0.1 * w"),
        ("return -2 * lr * (sign(m) + w - 0.5 * (m + w / lr))", "-2 * lr * (sign(m) - 0.5 * m)", "(1 - 2 * lr) * w"),
        ("return lr * (m + g + w * 0.1) * 3", "3 * lr * (m + g)", "lr * 0.3 * w"),
        ("x = w\n y = lr * (m + x)\n x = m\n return y", "lr * m", "lr * w"),
        ("w = 2 * w\n return lr * (m + w)", "lr * m", "2 * lr * w"),
        ("return lr * m + lr * interp(w, 3 * w, 0.5)", "lr * m", "2 * lr * w"),
        ("return lr * m + lr * w * size(g) / t", "lr * m", "lr * w * size(g) / t"),
        ("x = m + w\n x = x + x\n x = x - w\n return lr * x", "2 * lr * m", "lr * w"),
    ],
)  # fmt: skip
def test_update_and_decay_are_told_apart(body, update, decay):
    ends, program = ", m * 0.5 + g", parse(body, ends=", m * 0.5 + g")
    parts = split(program)
    assert str(parts) == "weight decay is separate: cautious masks the rest"
    assert_same(updates(parts.update), updates(parse(f"return {update}", ends=ends)), 1e-12)
    assert_same(updates(parts.decay), updates(parse(f"return {decay}", ends=ends)), 1e-12)
    for scale in SCALES:
        expected = masked(parts.update, parts.decay, scale)
        assert_same(updates(cautious(program, scale)), expected, 1e-9)
    assert_same(updates(cautious_decay(program)), agreeing(parts.update, parts.decay), 1e-9)


def masked(update: Program, decay: Program | None, scale: str, steps: int = STEPS) -> list[list[np.ndarray]]:
    """A cautious update, made outside the language."""
    with np.errstate(all="ignore"):
        found = [[oracle(u, g, scale) for u, g in zip(*each, strict=True)]
                 for each in zip(updates(update, steps), gradients(steps), strict=True)]  # fmt: skip
        if decay is None:
            return found
        return [[x + d for x, d in zip(*each, strict=True)] for each in zip(found, updates(decay, steps), strict=True)]


def agreeing(update: Program, decay: Program, steps: int = STEPS) -> list[list[np.ndarray]]:
    """A cautious decay, made outside the language."""
    pairs = zip(updates(update, steps), updates(decay, steps), strict=True)
    with np.errstate(all="ignore"):
        return [[u + d * (u * w >= 0) for u, d, w in zip(us, ds, weights(), strict=True)] for us, ds in pairs]


@pytest.mark.parametrize(
    "body",
    [
        "return lr * m", "return lr * sign(m + 0.1 * w)", "return lr * (m + rms(g) * w)", "return lr * g * w",
        "return lr * (m + w * w)", "return lr * (m + rms(w) * w)", "return lr * interp(g, w, 0.5)", "return m",
        "return lr * (m + w * (w * g > 0))", "x = w\n repeat 2:\n  x = x * 0.5\n end\n return lr * m + x",
    ],
)  # fmt: skip
def test_without_a_decay_the_whole_is_masked(body):
    program = parse(body, ends=", m * 0.5 + g * lr")
    assert split(program).decay is None
    assert str(split(program)) == "none: cautious masks the whole update"
    assert_same(updates(cautious(program)), masked(program, None, "clamped_mean"), 1e-9)
    with pytest.raises(ProgramError, match=r"has no decay; take a rule with"):
        cautious_decay(program)


def test_a_state_that_knows_the_gradient_is_no_decay():
    known = parse("m = interp(g, m, 0.9)\n n = n + norm(m)\n return lr * (m + n * w)", "m, n: scalar", ", m, n")
    assert split(known).decay is None
    counted = parse("n = n + 1\n return lr * (g + w / n)", "n: global", ", n")
    assert split(counted).decay is not None
    assert split(parse("return lr * w")).update is None


def test_the_gradient_is_the_input():
    """Not what a program makes of the name g."""
    program = parse("g = 0 - clip(g, 1e-3)\n m = interp(g, m, 0.9)\n return lr * m")
    found = cautious(program)
    assert "gradient = g" in str(found)
    assert_same(updates(found), masked(program, None, "clamped_mean"))


def test_states_made_of_the_update_keep_their_meaning():
    text = """def f(w, g, m, last, lr=0.1):
  m = interp(g, m, 0.9)
  update = m / (abs(last) + 1)
  update = update + 0.1 * w
  update = lr * update
  return update, m, update
"""
    program = Program.parse(text)
    for transform in (cautious, cautious_decay):
        found = transform(program)
        assert_whole(found)
        for one, other in zip(states(program, 10), states(found, 10), strict=True):
            assert one.keys() == other.keys()
            for slot in one:
                for x, y in zip(one[slot], other[slot], strict=True):
                    np.testing.assert_array_equal(x, y)
    # the state reads the plain update, so the parts along the way are those of the plain program
    u = parse(
        "m = interp(g, m, 0.9)\n return lr * m / (abs(last) + 1)", "m, last", ", m, lr * (m / (abs(last) + 1) + w / 10)"
    )
    d = parse("return lr * 0.1 * w + 0 * g")
    assert_same(updates(cautious(program)), masked(u, d, "clamped_mean"))


# --- the others ---------------------------------------------------------------------------------------------


def test_decoupled_decay_is_lr_times_decay_times_w():
    for name in ("sgd", "momentum", "rmsprop", "adagrad", "adabelief", "powersign"):
        plain, found = load(name), decoupled_decay(load(name), 0.25)
        assert_whole(found)
        assert found.hypers[-1] == 0.25
        decay = decoupled_decay(replace(load("sgd"), lr=plain.lr), 0.25)
        pairs = zip(updates(found), updates(plain), updates(decay), gradients(), strict=True)
        for t, (with_decay, without, both, g) in enumerate(pairs, 1):
            rate = plain.peak * (1 - t / (2 * STEPS))
            for x, y, z, h, w in zip(with_decay, without, both, g, weights(), strict=True):
                np.testing.assert_allclose(x - y, rate * 0.25 * w, rtol=1e-6, atol=1e-9 * np.abs(y).max())
                np.testing.assert_allclose(z, rate * (h + 0.25 * w), rtol=1e-12)


def test_decoupled_decay_follows_a_local_lr():
    program = decoupled_decay(Program.parse("def f(w, g, lr):\n lr = lr * 1e-3\n u = sign(g)\n u = u * lr\n return u"))
    expected = Program.parse("def f(w, g, lr=1e-3):\n return lr * (sign(g) + 0.01 * w)")
    assert key(program) == key(expected)
    free = decoupled_decay(Program.parse("def f(w, g, lr):\n u = g / lr\n lr = lr * g\n return lr + u"))
    assert "lr_before * weight_decay * w" in str(free)


def test_nesterov_of_averages():
    average = parse("m = interp(g, m, 0.9)\n return lr * m")
    assert key(nesterov(average)) == key(parse("m = interp(g, m, 0.9)\n return lr * interp(g, m, 0.9)"))
    turned = parse("m = 0.1 * g + m * 0.9\n return lr * sign(m)")
    assert key(nesterov(turned)) == key(parse("m = interp(g, m, 0.9)\n return lr * sign(interp(g, m, 0.9))"))
    overwritten = parse("g = interp(g, m, 0.9)\n return lr * g, g", ends="")
    assert key(nesterov(overwritten)) == key(nesterov(average))
    twice = parse("u = interp(g, m, 0.9)\n return lr * u, interp(g, m, 0.9)", ends="")
    assert key(nesterov(twice)) == key(nesterov(average))
    copied = parse("n = interp(g, m, 0.9)\n m = n\n return lr * m")
    assert key(nesterov(copied)) == key(nesterov(average))


def test_nesterov_of_adamw():
    expected = str(load("adamw")).replace("m_hat = m /", "m_hat = interp(g, m, beta1) /")
    assert key(nesterov(load("adamw"))) == key(Program.parse(expected))
    assert_same(updates(nesterov(load("adamw"))), updates(Program.parse(expected)))


def test_nesterov_leaves_states_as_they_are():
    """Of adabelief the second state reads the momentum too; the look-ahead is not for it."""
    for name in ("adabelief", "adamw", "signum", "momentum"):
        plain, found = load(name), nesterov(load(name))
        for one, other in zip(states(plain, 10), states(found, 10), strict=True):
            for slot in one:
                for x, y in zip(one[slot], other[slot], strict=True):
                    np.testing.assert_array_equal(x, y)
    # a state that is read beside the momentum is read as it is
    body = "m = interp(g, m, 0.9)\n s = interp(m, s, 0.5) + cos(m)\n return lr * (%s / (abs(s) + 1)), m, s"
    assert key(nesterov(parse(body % "m", "m, s", ""))) == key(parse(body % "interp(g, m, 0.9)", "m, s", ""))
    # a value that is kept besides is changed for the update alone
    head = "m = interp(g, m, 0.9)\n u = m / 2\n return lr * (%s + n), m, %s"
    kept = nesterov(parse(head % ("u", "u"), "m, n", ""))
    assert key(kept) == key(parse(head % ("interp(g, m, 0.9) / 2", "u"), "m, n", ""))


@pytest.mark.parametrize(
    ("transform", "program", "message"),
    [
        (cautious, parse("return lr * w", ends=", m"), "never reads g"),
        (cautious, parse("return lr * w * size(g)", ends=", m"), "does nothing but decay; take"),
        (cautious, load("c_adamw"), "masks its update so already; take"),
        (cautious, cautious(clip(load("lion")), "mean_eps"), "masks its update so already; take"),
        (cautious, parse("x = m * (g * m > 0) / max(mean(g * m > 0), 0.1)\n return lr * x"), "masks its update"),
        (cautious_decay, load("sgd"), "sgd has no decay; take"),
        (cautious_decay, cautious_decay(load("adamw")), "has no decay; take"),
        (cautious_decay, parse("return lr * w"), "does nothing but decay"),
        (decoupled_decay, load("adamw"), "adamw decays already; set"),
        (decoupled_decay, decoupled_decay(load("sgd")), "decays already; set"),
        (lambda p: decoupled_decay(p, -1.0), load("sgd"), "weight_decay is -1.0; give"),
        (lambda p: decoupled_decay(p, float("nan")), load("sgd"), "weight_decay is nan; give"),
        (nesterov, load("sgd"), "reads no new momentum"),
        (nesterov, load("lion"), "reads no new momentum"),
        (nesterov, load("rmsprop"), "reads no new momentum"),
        (nesterov, load("nesterov"), "one step ahead already"),
        (nesterov, nesterov(load("adamw")), "one step ahead already"),
        (nesterov, parse("v = 0.9 * v + 0.1 * g * g\n return lr * g / sqrt(v)", "v", ", v"), "reads no new momentum"),
        (clip, parse("return lr * w"), "never reads g"),
        (clip, load("adamw_clip"), "clips g to a global norm already"),
        (clip, clip(load("lion")), "clips g to a global norm already"),
        (lambda p: clip(p, 0.0), load("sgd"), "max_norm is 0.0; give"),
        (lambda p: clip(p, float("inf")), load("sgd"), "max_norm is inf; give"),
        (low_bit_state, load("sgd"), "keeps no tensor"),
        (low_bit_state, low_bit_state(load("adamw")), "has codecs for its states already"),
        (low_bit_state, parse("return lr * g", "n: scalar", ", n + 1"), "keeps no tensor"),
        (lambda p: low_bit_state(p, "uint8"), load("adamw"), "did you mean 'int8'"),
        (lambda p: low_bit_state(p, "bf16", 64), load("adamw"), "bf16 takes no number"),
        (lambda p: low_bit_state(p, "int8", -1), load("adamw"), "whole number above 0"),
        (lambda p: cautious(p, "clamp_mean"), load("adamw"), "did you mean 'clamped_mean'"),
    ],
)  # fmt: skip
def test_refusals_are_one_line(transform, program, message):
    with pytest.raises(ProgramError, match=message) as error:
        transform(program)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("transform", [*TRANSFORMS.values(), split])
def test_schedules_are_refused(transform):
    with pytest.raises(ProgramError, match="is a schedule, not an update rule"):
        transform(Program.parse("def cosine(progress):\n return 1 - progress"))


@pytest.mark.parametrize(
    ("body", "never_negative"),
    [
        ("v = interp(g * g, v, 0.99)", True), ("v = interp(square(g), v, beta)", True), ("v = v + square(g)", True),
        ("v = beta * v + (1 - beta) * g * g", True), ("v = max(v, abs(g))", True), ("v = g * v * g", True),
        ("x = g\n v = 0.9 * v + g * x", True), ("v = interp(g * g, v, 1.1)", False), ("v = interp(g, v, 0.9)", False),
        ("v = 0.9 * v - g * g", False), ("v = v * g", False), ("v = v + cube(g)", False), ("v = v + g ** 2", True),
        ("v = (1 - beta ** t) * v + rms(g)", True), ("v = (t - 2) * v + g * g", False),
        ("v = v + where(g > 0, g * g, 0.5)", True), ("repeat 3:\n  v = v + g * g\n end", True),
        ("x = 1.0\n repeat 3:\n  v = v + x * g * g\n  x = x - 1\n end", False), ("v = v + g * g / -g / -g", True),
    ],
)  # fmt: skip
def test_states_that_are_never_negative_get_uint8(body, never_negative):
    program = Program.parse(f"def f(w, g, v, lr=0.1, beta=0.9, t):\n {body}\n return lr * g / (abs(v) + 1), v")
    found = low_bit_state(program)
    assert found.states[0].codec == Codec("uint8" if never_negative else "int8")
    assert_whole(found)
    lowest = min(x.min() for step in states(program, 8) for xs in step.values() for x in xs)
    assert lowest >= 0 or not never_negative


def test_low_bit_states():
    found = low_bit_state(load("adamw"), least=64)
    assert [str(s.codec) for s in found.states] == ["int8(64)", "uint8(64)"]
    assert [str(s.codec) for s in low_bit_state(load("adamw"), "bf16").states] == ["bf16", "bf16"]
    assert_same(updates(found), updates(load("adamw")), 1e-12)  # every tensor is smaller than that
    near = updates(low_bit_state(load("momentum")))
    assert_same(near, updates(load("momentum")), 0.05)
    kept = low_bit_state(parse("return lr * m", "m, n: scalar, k: bf16", ", g, n + 1, g"))
    assert [s.codec for s in kept.states] == [Codec("int8"), None, Codec("bf16")]
    assert [s.kind for s in kept.states] == [Kind.TENSOR, Kind.SCALAR, Kind.TENSOR]


# --- routes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRANSFORMS)
def test_routed_programs(name):
    program = Program.parse(MUON)
    found = TRANSFORMS[name](program)
    assert_whole(found)
    assert [p.roles for p in found.parts()] == [p.roles for p in program.parts()]
    changed = [structural_key(a) != structural_key(b) for a, b in zip(found.parts(), program.parts(), strict=True)]
    expected = {"cautious_decay": [True, False], "decoupled_decay": [False, True]}
    assert changed == expected.get(name, [True, True])
    assert all(np.isfinite(x).all() for step in updates(found, 3) for x in step)
    if name == "low_bit_state":
        assert [p.states[0].codec for p in found.parts()] == [Codec("int8")] * 2
    if name in ("cautious", "cautious_decay", "nesterov"):
        for one, other in zip(states(program, 5), states(found, 5), strict=True):
            assert one.keys() == other.keys()
            assert all(np.array_equal(x, y) for s in one for x, y in zip(one[s], other[s], strict=True))


def test_a_route_is_masked_part_by_part():
    program = Program.parse(MUON)
    parts = [split(part) for part in program.parts()]
    assert [str(p) for p in parts] == [
        "weight decay is separate: cautious masks the rest", "none: cautious masks the whole update",
    ]  # fmt: skip
    whole = split(program)
    expected = masked(replace(whole.update, fallback=program.fallback), None, "clamped_mean")
    decays = updates(whole.decay)
    for step, (found, mask) in enumerate(zip(updates(cautious(program)), expected, strict=True)):
        for i in (0, 2):
            np.testing.assert_allclose(found[i], mask[i] + decays[step][i], rtol=1e-9)
        np.testing.assert_allclose(found[1], mask[1], rtol=1e-9)


def test_the_momentum_of_muon_looks_ahead():
    by_hand = MUON.replace("x = m /", "m_next = interp(g, m, beta)\n  x = m_next /").replace(
        "x = m_next / norm(m)", "x = m_next / norm(m_next)"
    )
    by_hand = by_hand.replace("lr * n, n", "lr * (0.9 * n + g), n")
    assert_same(updates(nesterov(Program.parse(MUON))), updates(Program.parse(by_hand)), 1e-12)
    shared = MUON.replace("g, m, lr", "g, m, k, lr").replace("* w), m", "* w), m, x").replace("lr * n, n", "lr * g, n")
    with pytest.raises(ProgramError, match="in a repeat that a state shares"):
        nesterov(Program.parse(shared))
    looped = parse("m = interp(g, m, 0.9)\n x = m\n repeat 2:\n  x = x / 2\n end\n return lr * x")
    assert key(nesterov(looped)) == key(parse("m = interp(g, m, 0.9)\n return lr * interp(g, m, 0.9) / 4"))
    behind = parse("m = interp(g, m, 0.9)\n v = 0.5 * v + g / m\n return lr * v", "m, v", ", m, v")
    ahead = parse("m = interp(g, m, 0.9)\n v = 0.5 * v + g / m\n return lr * (0.5 * v + g / m)", "m, v", ", m, v")
    assert key(nesterov(behind)) == key(ahead)


def test_transforms_go_together():
    program = load("adamw")
    for transform in (clip, nesterov, cautious, cautious_decay, low_bit_state):
        program = transform(program)
        assert_whole(program)
    text = str(program)
    for line in ("gradient = g", "g = clip(g, max_norm)", "m: int8, v: uint8", "mask = direction * gradient > 0.0"):
        assert line in text, text
    assert all(np.isfinite(x).all() for step in updates(program) for x in step)
    assert load("adamw") == Program.parse(str(load("adamw")))


# --- random programs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRANSFORMS)
def test_random_programs_go_through(name, random_programs):
    done = 0
    for program in random_programs[::20]:
        try:
            found = TRANSFORMS[name](program)
        except ProgramError as error:
            assert "\n" not in str(error)
            continue
        done += 1
        assert_whole(found)
        updates(found, 1)
    least = {"cautious_decay": 100, "decoupled_decay": 300, "nesterov": 100}.get(name, 500)
    assert done >= least, done


def _agree(one: list[list[np.ndarray]], other: list[list[np.ndarray]]) -> bool:
    """To rounding, wherever both are finite and of ordinary size."""
    for xs, ys in zip(one, other, strict=True):
        for x, y in zip(xs, ys, strict=True):
            x, y = np.broadcast_arrays(x, y)
            good = np.isfinite(x) & np.isfinite(y)
            if good.any() and not np.allclose(x[good], y[good], 1e-6, 1e-9 * max(1e-9, np.abs(y[good]).max())):
                return False
    return True


def test_random_programs_do_what_the_oracles_do(random_programs):
    """The mask, the decay and their parts, made outside the language from what `split` gives."""
    wrong: list[str] = []
    mixed = 0
    for program in random_programs[::20]:
        parts = split(program)
        for part in (parts.update, parts.decay):
            if part is not None:
                assert_whole(part)
        if parts.update is None:
            continue
        steps = 2
        if parts.decay is not None:
            mixed += 1
            pairs = zip(updates(parts.update, steps), updates(parts.decay, steps), strict=True)
            total = [[u + d for u, d in zip(*each, strict=True)] for each in pairs]
            if not _agree(total, updates(program, steps)):
                wrong.append(f"split\n{program}")
            if not _agree(agreeing(parts.update, parts.decay, steps), updates(cautious_decay(program), steps)):
                wrong.append(f"cautious_decay\n{program}")
        try:
            found = cautious(program)
        except ProgramError:
            continue
        if not _agree(masked(parts.update, parts.decay, "clamped_mean", steps), updates(found, steps)):
            wrong.append(f"cautious\n{program}\n{found}")
    assert mixed > 100
    assert not wrong, f"{len(wrong)}\n" + "\n".join(wrong[:3])


TRANSPARENT: list[Callable[[Program], Program]] = [cautious, cautious_decay, nesterov]


@pytest.mark.parametrize("transform", TRANSPARENT)
def test_random_programs_keep_their_states(transform, random_programs):
    for program in random_programs[::20]:
        try:
            found = transform(program)
        except ProgramError:
            continue
        for one, other in zip(states(program, 10), states(found, 10), strict=True):
            for slot in one.keys() & other.keys():
                np.testing.assert_array_equal(_flat(one[slot]), _flat(other[slot]), err_msg=f"{program}\n{found}")


def _flat(value) -> np.ndarray:
    return np.concatenate([np.ravel(x) for x in value]) if isinstance(value, list) else np.ravel(value)
