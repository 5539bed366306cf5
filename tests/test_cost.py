"""Costs have known answers: states by shape and codec, operations by shape and period, passes, oracles, schedules."""

from __future__ import annotations

import time

import numpy as np
import pytest

from stepsmith.discovered import load, names
from stepsmith.dsl import Program, ProgramError
from stepsmith.dsl.cost import (
    bytes_moved,
    cost,
    operations,
    oracle_passes,
    passes,
    state_bytes,
    state_floats,
    step_cost,
)
from stepsmith.dsl.flow import flow
from stepsmith.dsl.schedules import multipliers
from stepsmith.report.program import describe

SGD = "\ndef sgd(w, g, lr=0.1):\n return lr * g\n"


def rule(head: str, update: str, ends: str = "", body: str = "") -> Program:
    """A program for matrices."""
    return Program.parse(f"def f(w, g, {head}lr, t) for matrix else sgd:\n {body}\n return {update}{ends}" + SGD)


# --- states -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "end", "floats", "size"),
    [
        ("m", "g", 1, 4),
        ("m: [fan_out, 1]", "mean(g, fan_in)", 1 / 4, 1),  # of an 8 x 4 matrix
        ("m: [1, fan_in]", "mean(g, fan_out)", 1 / 8, 1 / 2),
        ("m: [fan_out, fan_out]", "g @ transpose(g)", 2, 8),
        ("m: [fan_in, fan_in]", "transpose(g) @ g", 1 / 2, 2),
        ("m: [short, 2]", "svd_basis(wide(g), 2)", 1 / 4, 1),
        ("m: scalar", "norm(g)", 1 / 32, 1 / 8),
        ("m: global", "global_norm(g)", 0, 0),
        ("m: bf16", "g", 1, 2),
        ("m: int8(1)", "g", 1, 1 + 4 / 32),
        ("m: int8(64)", "g", 1, 4),  # a small tensor stays in floats
        ("m: low_rank(2)", "g", 2 * 12 / 32, 8 * 12 / 32),
    ],
)
def test_a_state_costs_what_its_kind_and_codec_take(head, end, floats, size):
    program = rule(head + ", ", "lr * g * sum(m)" if "global" not in head and "scalar" not in head else "lr * g * m",
                   ends=f", {end}")  # fmt: skip
    assert state_floats(program, (8, 4)) == pytest.approx(floats)
    assert state_bytes(program, (8, 4)) == pytest.approx(size)
    moved = 0 if "scalar" in head else 2 * size  # one number for a tensor is no traffic
    assert bytes_moved(program, (8, 4)) == pytest.approx(12 + moved)


def test_a_search_counts_whole_tensors():
    assert cost(rule("m: [fan_out, 1], v: [1, fan_in], ", "lr * g * m * v", ", mean(g, fan_in), mean(g, fan_out)")
                ).state == 0  # fmt: skip
    both = rule("p: [fan_out, fan_out], q: [fan_in, fan_in], m, ", "lr * p @ g @ q + m",
                ", g @ transpose(g), transpose(g) @ g, m + g")  # fmt: skip
    assert cost(both).state == 3 and isinstance(cost(both).state, int)
    for name in names():
        program = load(name)
        if not program.schedule and program.fallback is None and not any(s.codec for s in program.states):
            live = flow(program)
            kept = [program.states[i] for i, _ in live.states]
            assert cost(program).state == sum(str(s.kind) == "tensor" for s in kept)
            assert cost(program, live) == cost(program)


def test_dead_states_cost_nothing_and_a_vector_has_no_matrix():
    program = Program.parse("def f(w, g, m, v, lr):\n return lr * m, g, g * g")
    assert state_floats(program, (7,)) == 1 and state_bytes(program, ()) == 4
    with pytest.raises(ValueError, match=r"f needs a matrix; a shape of \(7,\) has one axis"):
        step_cost(rule("m: [fan_out, 1], ", "lr * g * m", ", mean(g, fan_in)"), (7,))


# --- operations ---------------------------------------------------------------------------------------------


def test_a_product_costs_two_operations_for_each_of_its_inner_axis():
    assert operations(rule("", "lr * (g @ (transpose(g) @ g))"), (8, 4)) == 1 + (2 * 4 * 8 * 4 + 2 * 8 * 4 * 4) / 32
    assert operations(rule("", "lr * orthogonalize(g)"), (4, 4)) == 1 + 3 + 5 * (6 * 4**3 + 5 * 16) / 16
    assert operations(rule("", "lr * g * mean(g, fan_in)"), (8, 4)) == 3
    assert operations(rule("", "lr * (g * sqrt(mean(g, fan_in)))"), (8, 4)) == pytest.approx(1 + 1 + 1 + 2 * 8 / 32)


@pytest.mark.parametrize(
    ("body", "share"),
    [
        ("s = every(4, g @ transpose(g), s)", 1 / 4),
        ("s = every(7, g @ transpose(g), s)", 1 / 7),
        ("s = every(11, g @ transpose(g), s)", 1 / 11),
        ("s = where(mod(t - 1, 5) < 1, g @ transpose(g), s)", 1 / 5),
        ("s = where(mod(t - 1, 5) < 1, s, g @ transpose(g))", 4 / 5),
        ("s = first(g @ transpose(g), s)", 0),
        ("s = every(2, every(3, g @ transpose(g), s), s)", 1 / 6),
        ("s = every(4, g @ transpose(g), every(6, g @ transpose(g), s))", 1 / 3),  # one product, shared
        ("s = where(rms(g) < 1, g @ transpose(g), s)", 1),  # told by no clock
    ],
)
def test_what_is_read_at_some_steps_alone_counts_their_share(body, share):
    program = rule("s: [fan_out, fan_out], ", "lr * s @ g", ", s", body)
    bare = rule("s: [fan_out, fan_out], ", "lr * s @ g", ", s", body.replace("g @ transpose(g)", "eye(s)"))
    product = 2 * 8 * 4 * 8 / 32
    assert operations(program, (8, 4)) - operations(bare, (8, 4)) == pytest.approx(share * product)


# --- passes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("update", "count"),
    [
        ("lr * g", 1), ("lr * g / norm(g)", 2), ("lr * clip(g, 1)", 2), ("lr * g * size(g)", 1),
        ("lr * g / std(g)", 3), ("lr * g / (norm(g) * norm(w))", 2), ("lr * g * rms(g / rms(g))", 3),
        ("lr * transpose(transpose(g))", 1), ("lr * g @ (transpose(g) @ g)", 3), ("lr * orthogonalize(g)", 17),
        ("lr * g / mean(g * g, fan_in)", 2),
    ],
)  # fmt: skip
def test_passes_are_the_longest_chain_of_reductions_and_one(update, count):
    assert passes(rule("", update)) == count


def test_a_number_that_is_only_kept_needs_no_pass_of_its_own():
    assert passes(Program.parse("def f(w, g, n: scalar, lr):\n return lr * g / n, interp(norm(g), n, 0.9)")) == 1
    assert passes(Program.parse("def f(w, g, n, lr):\n return lr * g / n, norm(g)")) == 2  # written out as a tensor


@pytest.mark.parametrize(
    ("name", "count"), [("sgd", 1), ("lion", 1), ("adamw", 1), ("adamw_clip", 2), ("c_lion", 2), ("c_adamw", 2)]
)
def test_passes_of_published_rules(name, count):
    assert passes(load(name)) == count


# --- oracles ------------------------------------------------------------------------------------------------


def test_an_oracle_costs_its_passes_over_its_period():
    def asked(oracle: str, reads: str) -> float:
        return oracle_passes(Program.parse(f"def f(w, g, lr, {oracle}):\n return lr * ({reads})"))

    assert asked("hutchinson: every 10", "g / hutchinson") == pytest.approx(0.2)
    assert asked("gauss_newton: every 10", "g / gauss_newton") == pytest.approx(0.1)
    assert asked("two_point: every 1", "g * two_point") == pytest.approx(2 / 3)
    assert asked("two_point: every 1, noise", "two_point * noise") == 0
    assert oracle_passes(load("adamw")) == 0
    zeroth = Program.parse("def f(w, g, lr, two_point: every 1, noise):\n return lr * two_point * noise")
    assert bytes_moved(zeroth) == 8 == cost(zeroth).bytes  # no gradient is read
    assert bytes_moved(Program.parse("def f(w, g, lr, hutchinson: every 4):\n return lr * g / hutchinson")) == 13


# --- schedules, inspect, speed ------------------------------------------------------------------------------


def test_a_schedule_has_values_over_an_array():
    at = np.array([[0.0, 0.25], [0.5, 1.0]])
    rex = Program.parse("def rex(progress, c=2):\n x = 1 - progress\n return x / (1 - progress / c)")
    np.testing.assert_allclose(multipliers(rex, at), (1 - at) / (1 - at / 2))
    held = Program.parse("def held(progress):\n return 0.5")
    assert multipliers(held, at).tolist() == [[0.5, 0.5], [0.5, 0.5]] and multipliers(held, 0.3).shape == ()
    steps = Program.parse("def steps(progress):\n return where(progress < 0.5, 1, 0.1)")
    assert multipliers(steps, [0.4, 0.5]).tolist() == [1.0, 0.1]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("def f(t):\n return 1 / t", "schedule 'f' reads t"),
        ("def f(w, g, lr):\n return lr * g", "'f' is an update rule, not a schedule"),
    ],
)
def test_what_progress_does_not_tell_is_refused_in_one_line(text, why):
    with pytest.raises(ProgramError, match=why) as error:
        multipliers(Program.parse(text), 0.5)
    assert "\n" not in str(error.value)


def test_inspect_shows_a_schedule():
    shown = describe(Program.parse("def rex(progress):\n return (1 - progress) / (1 - progress / 2)"))
    assert "multiplier  1 at 0, 0.8571 at 0.25, 0.6667 at 0.5, 0.4 at 0.75, 0 at 1\n" in shown
    assert "not shown: schedule 'f' reads t" in describe(Program.parse("def f(t):\n return 1 / t"))


def test_inspect_shows_every_part_of_a_route():
    text = (
        """def f(w, g, m: bf16, h, lr, hutchinson: every 10) for matrix else lion:
 h = every(10, hutchinson, h)
 return lr * orthogonalize(m / h), interp(g, m, 0.9), h
def lion(w, g, m, lr=1e-4) for embedding else sgd:
 return lr * sign(interp(g, m, 0.9)), interp(g, m, 0.99)"""
        + SGD
    )
    shown = describe(Program.parse(text))
    first, second, third = (
        shown.index(f"\n\n{h}\n") for h in ("f, for matrix", "lion, for embedding", "sgd, for the rest")
    )
    assert first < second < third
    assert "states      m: tensor in bf16, h: tensor\n" in shown[first:second]
    assert "oracles     +0.2 forward-backward passes a step: hutchinson every 10\n" in shown[first:second]
    assert "passes      17 over memory" in shown[first:second] and "oracles" not in shown[second:]
    assert "  bounded                 proved, |update| <= 1 lr at w = 0\n" in shown[second:third]
    assert "0 state floats in 0 bytes, 1 operations, 12 bytes moved" in shown[third:]
    assert all(shown[i:j].count("dataflow") == 1 for i, j in ((first, second), (second, third), (third, None)))


def test_a_description_says_what_the_number_of_a_codec_is():
    shown = describe(Program.parse("def f(w, g, m: int8(4096), lr):\n  return lr * m, interp(g, m, 0.9)"))
    assert "\ndecay       none: cautious masks the whole update\n" in shown
    assert "\nstates      m: tensor in int8 from 4096 elements\n" in shown


def test_a_cost_is_quick():
    program = load("adamw")
    live = flow(program)
    best = min(_seconds(lambda: cost(program, live)) for _ in range(5))
    assert best < 5e-5, "beside making the flow, which a search has at hand"


def _seconds(run) -> float:
    start = time.perf_counter()
    for _ in range(100):
        run()
    return (time.perf_counter() - start) / 100
