"""Programs for matrices: axes, routes, repeats, oracles, codecs; numpy and torch agree, faults are one clear line."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from stepsmith.discovered import load
from stepsmith.dsl import OPS, Program, ProgramError
from stepsmith.dsl.codecs import Codec, dynamic_map
from stepsmith.dsl.cost import cost
from stepsmith.dsl.flow import flow
from stepsmith.dsl.interpret import Interpreter
from stepsmith.dsl.keys import key, structural_key
from stepsmith.dsl.to_population import PopulationStep
from stepsmith.dsl.to_torch import compile_step, zero_states
from stepsmith.dsl.torch_engine import TorchEngine
from stepsmith.search.mutate import Mutator

sys.path.append(str(Path(__file__).parent))

from rounding import disturbance

SHAPES = [(6, 4), (5,), (3, 7), (4, 2, 2), (8, 3), ()]
ROLES = ["matrix", "vector", "head", "matrix", "embedding", "vector"]
FALLBACK = "\ndef sgd(w, g, lr=0.1):\n return lr * g\n"
MUON = """def muon(w, g, m, lr=0.02, beta=0.95) for matrix, embedding, head else sgd:
  m = interp(g, m, beta)
  x = m / norm(m)
  repeat 5:
    s = x @ transpose(x)
    x = 3.4445 * x + (-4.775 * s + 2.0315 * (s @ s)) @ x
  end
  return lr * max(1, size(g, fan_out) / size(g, fan_in)) ** 0.5 * x, m
"""


def matrix_rule(update: str, head: str = "m", ends: str = ", g", body: str = "") -> Program:
    """A program for everything but vectors, whose state is the gradient before this."""
    text = f"def f(w, g, {head}, lr=1.0, t) for matrix, embedding, head else sgd:\n {body}\n return {update}{ends}"
    return Program.parse(text + FALLBACK)


def gradients(steps: int, seed: int = 0) -> list[list[np.ndarray]]:
    random = np.random.default_rng(seed)
    return [[np.asarray(random.standard_normal(s)) for s in SHAPES] for _ in range(steps)]


def by_numpy(program: Program, steps: int = 5, **options) -> list[np.ndarray]:
    w, runner = gradients(1, 9)[0], Interpreter(program, SHAPES, roles=ROLES, **options)
    updates = []
    for t, g in enumerate(gradients(steps), 1):
        updates.append(runner.step(w, g, 0.5, t, t / steps, given(g, t)))
    return [u for step in updates for u in step]


def given(g, t: int) -> dict:
    return {"hutchinson": [x * x for x in g], "two_point": 0.5 * t} if t % 2 else {}


def by_torch(program: Program, steps: int = 5) -> list[np.ndarray]:
    w = [torch.tensor(x) for x in gradients(1, 9)[0]]
    step, states = compile_step(program, ROLES), zero_states(program, w, ROLES)
    updates = []
    for t, g in enumerate(gradients(steps), 1):
        oracles = {n: [torch.tensor(x) for x in v] if isinstance(v, list) else v for n, v in given(g, t).items()}
        grads = [torch.tensor(x) for x in g]
        update, states = step(w, grads, states, 0.5, t, t / steps, oracles)
        updates += [u.numpy() for u in update]
    return updates


def by_population(program: Program, steps: int = 5) -> list[np.ndarray]:
    """Beside an elementwise program, which runs in the compiled engine."""
    other = Program.parse("def sgd(w, g, lr):\n return lr * g")
    w = [torch.tensor(np.stack([x, x, x])) for x in gradients(1, 9)[0]]
    runner, updates = PopulationStep([other, program, other], w, ROLES), []
    for t, g in enumerate(gradients(steps), 1):
        before = [x.clone() for x in w]
        grads = [torch.tensor(np.stack([x, x, x])) for x in g]
        oracles = {
            n: [torch.tensor(np.stack([x] * 3)) for x in v] if isinstance(v, list) else torch.tensor([v] * 3)
            for n, v in given(g, t).items()
        }
        runner.step(before, grads, 0.5, t, t / steps, oracles)
        updates += [(x - y)[1].numpy() for x, y in zip(w, before, strict=True)]
        assert all(torch.allclose((x - y)[2], 0.5 * d[2]) for x, y, d in zip(w, before, grads, strict=True))
    return updates


def agree(program: Program, rtol: float = 1e-9) -> None:
    truth = by_numpy(program)
    for run in (by_torch, by_population):
        for a, b in zip(truth, run(program), strict=True):
            np.testing.assert_allclose(b, a, rtol, atol=rtol * max(1.0, float(np.abs(a).max(initial=0))))
    assert Program.parse(str(program)) == program


# --- rows ---------------------------------------------------------------------------------------------------

ALONG = sorted({op.partition(":")[0] for op in OPS if ":" in op})


@pytest.mark.parametrize("reduce", ALONG)
def test_a_reduction_along_an_axis_leaves_the_other(reduce):
    for axis, over in (("fan_in", 1), ("fan_out", 0)):
        program = matrix_rule(f"0 * g + {reduce}(m, {axis})")
        agree(program)
        before, last = gradients(2)
        found = Interpreter(program, SHAPES, roles=ROLES)
        for g in (before, last):
            update = found.step(g, g)
        plain = {"size": lambda x, axis, keepdims: np.full((1, 1), x.shape[axis]),
                 "norm": lambda x, axis, keepdims: np.linalg.norm(x, axis=axis, keepdims=keepdims),
                 "rms": lambda x, axis, keepdims: np.sqrt(np.mean(x**2, axis=axis, keepdims=keepdims)),
                 }.get(reduce) or getattr(np, reduce)  # fmt: skip
        expected = np.broadcast_to(plain(before[0], axis=over, keepdims=True), (6, 4))
        np.testing.assert_allclose(update[0], expected)
        # An embedding keeps a row per input: its fan_in is the other axis.
        expected = np.broadcast_to(plain(before[4], axis=1 - over, keepdims=True), (8, 3))
        np.testing.assert_allclose(update[4], expected)
        # More than two axes are one of outputs and one of all the rest.
        flat = np.broadcast_to(plain(before[3].reshape(4, 4), axis=over, keepdims=True), (4, 4))
        np.testing.assert_allclose(update[3], flat.reshape(4, 2, 2))


@pytest.mark.parametrize(
    "expression",
    ["g @ transpose(m) @ g", "orthogonalize(m)", "newton_schulz(m, 1.5, -0.5, 0.0)", "quantile(abs(m), 0.9) * g",
     "inverse_sqrt(m @ transpose(m)) @ g", "unwide(eigh_basis(wide(g) @ transpose(wide(g))) @ wide(m))",
     "eye(g @ transpose(g)) @ g", "unwide(qr_basis(wide(g) @ transpose(wide(g + m))) @ wide(g))",
     "unwide(svd_basis(wide(m), 2) @ transpose(svd_basis(wide(m), 2)) @ wide(g))",
     "unwide(transpose(random_projection(wide(g), 3, 2)) @ (random_projection(wide(g), 3, 2) @ wide(m)))",
     "mean(g, fan_in) * mean(m, fan_out)", "where(mean(g, fan_in) < 0, g, m)", "unwide(norm(wide(g), short) * wide(m))",
     "every(3, g, m)", "first(m + g, m)", "mod(t, 3) * g", "size(g) * g", "worker_mean(g) + m", "floor(g)",
     "every(3, orthogonalize(g), m)", "global_norm(mean(g, fan_in)) * g", "rms(g @ transpose(g)) * m"],
)  # fmt: skip
def test_torch_and_populations_mean_what_numpy_means(expression):
    agree(matrix_rule(expression), rtol=1e-7)


def test_a_basis_and_its_neighbours_are_what_they_are_called():
    def last(expression):
        return by_numpy(matrix_rule(expression), steps=1)[0]

    g = gradients(1)[0][0]
    np.testing.assert_allclose(last("g @ inverse_sqrt(transpose(g) @ g)"), np.linalg.svd(g, full_matrices=False)[0]
                               @ np.linalg.svd(g, full_matrices=False)[2], atol=1e-9)  # fmt: skip
    u = np.linalg.svd(g.T, full_matrices=False)[0][:, :2]
    np.testing.assert_allclose(last("unwide(svd_basis(wide(g), 2) @ (transpose(svd_basis(wide(g), 2)) @ wide(g)))"),
                               (u @ (u.T @ g.T)).T, atol=1e-9)  # fmt: skip
    q = last("g @ qr_basis(transpose(g) @ g)")
    np.testing.assert_allclose(np.linalg.norm(q), np.linalg.norm(g))
    values = np.linalg.svd(last("orthogonalize(g)"), compute_uv=False)
    assert values.min() > 0.5 and values.max() < 1.3


def test_newton_schulz_is_a_bounded_repeat_of_products():
    written = Program.parse(MUON + FALLBACK)
    op = "orthogonalize(m)"
    named = Program.parse(
        "def muon(w, g, m, lr=0.02, beta=0.95) for matrix, embedding, head else sgd:\n m = interp(g, m, beta)\n"
        f" return lr * max(1, size(g, fan_out) / size(g, fan_in)) ** 0.5 * {op}, m" + FALLBACK
    )
    agree(written)
    for a, b in zip(by_numpy(written), by_numpy(named), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_matrices_alike_have_each_its_own_numbers():
    """They go through one product, with a number of each for all of its elements."""
    rule = matrix_rule("newton_schulz(g, 1 + mean(g), rms(g), 0.1)", ends=", m")
    w, g = [[torch.tensor(x) for x in np.random.default_rng(seed).standard_normal((2, 3, 3))] for seed in (0, 1)]
    expected = Interpreter(rule, [(3, 3)] * 2).step([x.numpy() for x in w], [x.numpy() for x in g])
    update, _ = compile_step(rule)(w, g, zero_states(rule, w), 1.0, 1, 0.0)
    np.testing.assert_allclose(torch.stack(update).numpy(), expected, rtol=1e-12)


def test_a_projection_is_redrawn_every_period_and_depends_on_the_seed_and_the_tensor():
    rule = matrix_rule("0 * g + sum(random_projection(wide(g), 2, 3))", ends=", m")
    drawn = [u[0, 0] for u in by_numpy(rule, steps=7)[0 :: len(SHAPES)]]
    assert drawn[0] == drawn[1] == drawn[2] != drawn[3] == drawn[5] != drawn[6]
    assert drawn[0] != by_numpy(rule, steps=1)[2][0, 0]
    assert drawn[0] != by_numpy(rule, steps=1, seed=1)[0][0, 0]


def test_what_is_costly_runs_only_when_it_is_read(monkeypatch):
    from stepsmith.dsl import torch_helpers

    calls = []
    plain = torch_helpers._svd
    monkeypatch.setattr(torch_helpers, "_svd", lambda x, k: calls.append(1) or plain(x, k))
    rule = matrix_rule("unwide(q @ (transpose(q) @ wide(g)))", head="q: [short, 2]", ends=", q",
                       body="q = every(4, svd_basis(wide(g), 2), q)")  # fmt: skip
    by_torch(rule, steps=8)
    assert len(calls) == 2 * sum(role != "vector" for role in ROLES)
    agree(rule)


# --- states, routes, workers --------------------------------------------------------------------------------


def test_states_have_the_shape_they_declare():
    rule = matrix_rule(
        "u", head="r: [fan_out, 1], c: [1, fan_in], left: [fan_out, fan_out], low: [2, long], n: scalar",
        ends=", mean(g, fan_in), mean(g, fan_out), g @ transpose(g), transpose(svd_basis(wide(g), 2)) @ wide(g)"
             ", rms(g)",
        body="u = r * c * n + left @ g + unwide(norm(low, rank) + 0 * wide(g))",
    )  # fmt: skip
    agree(rule)
    runner = Interpreter(rule, SHAPES, roles=ROLES)
    runner.step(gradients(1)[0], gradients(1)[0])
    assert [np.shape(runner.states[i][0]) for i in range(5)] == [(6, 1), (1, 4), (6, 6), (2, 6), ()]
    assert [np.shape(runner.states[i][-1]) for i in range(4)] == [(3, 1), (1, 8), (3, 3), (2, 8)]


def test_a_route_gives_each_role_its_program():
    rule = Program.parse(
        "def a(w, g, lr=1.0) for head else b:\n return 10 * lr * g\n"
        "def b(w, g, m, lr=2.0) for embedding, matrix else c:\n m = g\n return 100 * lr * m, m\n"
        "def c(w, g, lr=4.0):\n return 1000 * lr * g"
    )
    g = gradients(1)[0]
    assert [round(float((u / x).flat[0])) for u, x in zip(Interpreter(rule, SHAPES, roles=ROLES).step(g, g), g,
            strict=True)] == [200, 4000, 10, 200, 200, 4000]  # fmt: skip
    agree(rule)
    raised = rule.with_lr(3.0)
    assert [part.peak for part in raised.parts()] == [3.0, 6.0, 12.0]
    assert Program.parse(str(raised)) == raised
    assert [v for name, v in raised.constants() if name == "lr"] == [3.0, 6.0, 12.0]


def test_programs_that_differ_in_their_fallback_or_route_have_other_keys():
    texts = [MUON + FALLBACK, MUON + FALLBACK.replace("0.1", "0.2"), MUON.replace("head", "vector")
             .replace("x = m / norm(m)", "x = m").split("  repeat")[0] + "  return lr * x, m\n" + FALLBACK]  # fmt: skip
    programs = [Program.parse(text) for text in texts]
    assert len({key(p) for p in programs}) == len({structural_key(p) for p in programs}) == 3
    renamed = Program.parse((MUON + FALLBACK).replace("sgd", "plain").replace("muon", "other").replace("beta", "b"))
    assert key(renamed) == key(programs[0]) and renamed == programs[0]


def test_workers_average_and_keep_their_own_states():
    rule = Program.parse("def f(w, g, m, lr):\n m = interp(g, m, 0.5)\n return lr * worker_mean(m), m")
    runner = Interpreter(rule, [(2,)], workers=2)
    g = [np.array([1.0, 2.0]), np.array([3.0, 6.0])]
    (update,) = runner.step([np.zeros(2)], g)
    np.testing.assert_allclose(update, [1.0, 2.0])
    np.testing.assert_allclose(runner.states[0], [[0.5, 1.0], [1.5, 3.0]])
    step = compile_step(rule, workers=2)
    w = [torch.zeros(2, dtype=torch.float64)] * 2
    update, states = step(w, [torch.tensor(x) for x in g], zero_states(rule, w), 1.0, 1, 0.0)
    np.testing.assert_allclose(update[0], [1.0, 2.0])
    np.testing.assert_allclose(np.stack([x.numpy() for x in states[0]]), [[0.5, 1.0], [1.5, 3.0]])


# --- oracles and codecs -------------------------------------------------------------------------------------


def test_an_oracle_is_what_the_trainer_gives_and_0_at_the_steps_between():
    rule = Program.parse("def f(w, g, h, lr, hutchinson: every 2, two_point: every 2):\n h = every(2, hutchinson, h)\n"
                         " return lr * (h + two_point * g), h")  # fmt: skip
    agree(rule)
    assert rule.periods == ((6, 2), (8, 2))
    noisy = Program.parse("def f(w, g, lr, two_point: every 1, noise):\n return lr * two_point * noise")
    agree(noisy)
    first, second = by_numpy(noisy, steps=3)[0], by_numpy(noisy, steps=3)[2 * len(SHAPES)]
    assert not np.allclose(first / 0.5, second / 1.5)


@pytest.mark.parametrize("codec", ["int8", "uint8", "bf16", "low_rank(2)", "int8(20)"])
def test_a_codec_gives_back_nearly_what_was_written(codec):
    rule = matrix_rule("m", head=f"m: {codec}", ends=", m", body="m = interp(abs(g), m, 0.9)")
    agree(rule, rtol=1e-7)
    plain = matrix_rule("m", head="m", ends=", m", body="m = interp(abs(g), m, 0.9)")
    pairs = list(zip(by_numpy(rule, 20), by_numpy(plain, 20), strict=True))
    worst = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)
    assert 0 < worst < (0.9 if "rank" in codec else 0.1)


def test_the_8_bit_maps_are_monotone_and_hold_the_ends():
    for signed in (True, False):
        table = dynamic_map(signed)
        assert table.size == 256 and (np.diff(table) > 0).all() and table[-1] == 1 and 0.0 in table
    x = np.random.default_rng(0).standard_normal(1000)
    x[7] = 9.0  # exact where it is positive: the map has 1 and no -1
    back = Codec("int8").kept(x, np.zeros)
    assert np.abs(back - x).max() < 0.02 * np.abs(x).max()
    assert (back[np.abs(x).argmax()]) == pytest.approx(x[np.abs(x).argmax()], rel=1e-12)


def test_stochastic_rounding_is_right_on_average():
    x = np.full(20_000, 1.0 + 1 / 512)  # a quarter of the way from one bfloat16 to the next
    random = np.random.default_rng(0)
    back = Codec("bf16").kept(x, random.random)
    assert set(np.unique(back)) == {1.0, 1.0 + 1 / 128}
    assert back.mean() == pytest.approx(x[0], abs=2e-4)


# --- faults -------------------------------------------------------------------------------------------------

FAULTS = {
    "def f(w, g, m, lr) for matrix:\n return lr * g, m": "program:1:24: this route has no fallback; name a program "
        "for the other roles: for matrix else adamw",
    "def f(w, g, lr):\n return lr * mean(g, fan_in)": "program:2:14: mean over fan_in needs a matrix, and vectors "
        "reach this program too; route it: def f(...) for matrix else adamw:",
    "def f(w, g, lr) for vector else h:\n return lr * g @ g\ndef h(w, g, lr):\n return lr * g": "program:2:16: matmul "
        "takes shapes [a, b], [b, c]; the expression is [fan_out, fan_in], g is [fan_out, fan_in]",
    "def f(w, g, lr) for matrix else h:\n return lr * mean(g, fan_ni)\ndef h(w, g, lr):\n return lr * g": "program:2:22"
        ": unknown axis 'fan_ni'; did you mean 'fan_in'?",
    "def f(w, g, lr) for matrix else h:\n return lr * mean(norm(g), fan_in)\ndef h(w, g, lr):\n return lr * g":
        "program:2:14: mean over fan_in: the expression is one number per tensor and has no axis fan_in",
    "def f(w, g, n: scalar in int8, lr):\n return lr * g, n": "program:1:26: a codec stores tensors; 'n' is one number "
        "per tensor, leave 'in int8' out",
    "def f(w, g, m: int9, lr):\n return lr * g, m": "program:1:16: unknown kind 'int9'; did you mean 'int8'?",
    "def f(w, g, m: low_rank, lr):\n return lr * g, m": "program:1:16: low_rank takes a number, the rank: write "
        "low_rank(4)",
    "def f(w, g, m: [fan_out, fan_im], lr):\n return lr * g, m": "program:1:26: unknown axis 'fan_im'; did you mean "
        "'fan_in'?",
    "def f(w, g, lr, hutchinson):\n return lr * hutchinson": "program:1:17: hutchinson is an oracle, which costs "
        "passes of the model; say how often: hutchinson: every 10",
    "def f(w, g, lr, hutchinson: every 0):\n return lr * hutchinson": "program:1:35: a period is a whole number from 1 "
        "to 65536, not 0",
    "def f(w, g, lr) for matrix else f:\n return lr * g": "program:1:33: 'f' falls back to itself; end the chain with "
        "a program without a route",
    "def f(w, g, lr) for metrix else h:\n return lr * g": "program:1:21: unknown role 'metrix'; did you mean 'matrix'?",
    "def f(w, g, lr) for matrix else h:\n return lr * g": "program:1:33: unknown program 'h'; define it below",
    "def f(w, g, lr):\n return lr * g\ndef h(w, g, lr):\n return lr * g": "program:3:5: 'h' is never used; name it "
        "after an else, or take it out",
    "def f(w, g, lr):\n repeat 3:\n g = g * 2\n return lr * g": "program:4:2: a repeat is not closed; write end after "
        "its last line",
    "def f(w, g, lr):\n repeat 21:\n g = g * 2\n end\n return lr * g": "program:2:2: repeat takes a whole number "
        "from 1 to 20, not 21",
    "def f(w, g, lr):\n x = 1\n repeat 2:\n x = x * g\n end\n return lr * x": "program:5:2: 'x' is one number before "
        "this repeat and a tensor at its end; use another name inside",
    "def f(w, g, m: [short, 2], lr) for matrix else h:\n return lr * g, svd_basis(g, lr)\ndef h(w, g, lr):\n return g":
        "program:2:17: svd_basis needs a whole number, written out, as argument 2, not lr",
    "def f(w, g, m: [short, 8], lr) for matrix else h:\n return lr * g, svd_basis(svd_basis(wide(g), 4), 8)\n"
    "def h(w, g, lr):\n return g":
        "program:2:2: state 'm' is of shape [short, 8] but of shape [short, 4] is returned for it; "
        "declare it as 'm: [short, 4]'",
    "def rex(progress, floor):\n return floor": "program:1:5: a schedule keeps nothing; give 'floor' a default or take "
        "it out",
    "def rex(progress, lr):\n return progress": "program:1:5: the header lacks 'w'",
    "def rex(progress, hutchinson: every 1):\n return progress": "program:1:5: a schedule reads t and progress alone; "
        "take 'hutchinson' out",
    "def f(w, g, m: [fan_out, fan_in,lr):\n return g, m": "program:1:32: unexpected ','; expected ']'",
    "def f(w, g, m: int8 in bf16, lr):\n return lr * g, m": "program:1:16: int8 is a codec, which stores a tensor in "
        "one form; write int8 alone",
    "def f(w, g, m: tensor(3), lr):\n return lr * g, m": "program:1:23: tensor takes no number; write tensor",
    "def f(w, g, m: int8(1e400), lr):\n return lr * g, m": "program:1:21: 1e400 is too large for a float",
    "def f(w, g, m: int8(0.5), lr):\n return lr * g, m": "program:1:16: int8 takes a least number of elements, a whole "
        "number above 0, not 0.5",
    "def f(w, g, lr, hutchinson: every 70000):\n return lr * g": "program:1:35: a period is a whole number from 1 to "
        "65536, not 70000",
    "def f(w, g, lr) for matrix, vector, embedding, head else h:\n return lr * g\ndef h(w, g, lr):\n return lr * g":
        "program:1:58: no role is left for 'h'; take a role or the route out",
    "def f(w, g, lr) for matrix else h:\n return lr * g\ndef h(w, g, lr) for matrix else i:\n return g\n"
        "def i(w, g, lr):\n return g": "program:3:21: matrix has its program already, earlier in the chain; take it "
        "out",
    "def f(w, g, lr):\n" + " repeat 20:\n" * 6 + " g = g * 2\n" + " end\n" * 6 + " return lr * g": "program:5:2: more "
        "than 20000 statements run, repeats counted; repeat less",
    "def rex(progress):\n return progress, progress": "program:2:2: return gives 2 values; the header wants 1: return "
        "update",
}  # fmt: skip


@pytest.mark.parametrize("text", FAULTS)
def test_a_fault_is_one_line_with_its_place_and_the_mend(text):
    with pytest.raises(ProgramError) as error:
        Program.parse(text)
    assert str(error.value).startswith(FAULTS[text]) and "\n" not in str(error.value)


def test_a_matrix_role_for_a_vector_is_refused():
    rule = Program.parse("def f(w, g, lr) for matrix else sgd:\n return lr * mean(g, fan_in) * g" + FALLBACK)
    with pytest.raises(ValueError, match=r"parameter 0 has shape \(5,\): no rows and columns"):
        Interpreter(rule, [(5,)], roles=["matrix"])


# --- random programs ----------------------------------------------------------------------------------------


def matrix_programs(count: int) -> list[Program]:
    """Ends of edit chains from a routed rule, in the space of matrices."""
    found, start = [], Program.parse(MUON.replace("  repeat 5:", "  repeat 2:") + FALLBACK)
    mutator = Mutator("matrix")
    for index in range(count):
        random = np.random.Generator(np.random.Philox(key=index))
        program = start
        for _ in range(int(random.integers(1, 25))):
            program, _ = mutator.mutate(program, random)
        found.append(program)
    return found


def test_random_matrix_programs_round_trip_and_lower():
    """Every one prints, parses, keys and costs; those that stay in range agree in numpy and torch."""
    compared, ops = 0, set()
    for program in matrix_programs(400):
        assert Program.parse(str(program)) == program
        assert cost(program).statements >= 0 and len(key(program)) == 32
        ops |= {node.op for node in flow(program).nodes}
        truth = by_numpy(program, 2)
        largest = float(np.max([np.abs(u).max(initial=0) for u in truth]))  # NaN where one is
        moved = by_numpy(program, 2, disturb=disturbance(0)), by_numpy(program, 2, disturb=disturbance(1))
        spread = max(float(np.abs(a - b).max(initial=0)) for m in moved for a, b in zip(truth, m, strict=True))
        if not np.isfinite(largest) or not spread < 1e-10 * largest:
            continue
        compared += 1
        for a, b in zip(truth, by_torch(program, 2), strict=True):
            np.testing.assert_allclose(b, a, rtol=0, atol=1e-9 * largest, err_msg=str(program))
    assert compared > 200
    assert {"matmul", "transpose", "orthogonalize", "mean:fan_in", "norm:fan_out"} <= ops


def test_a_codec_counts_in_keys_and_a_schedule_has_one():
    texts = [
        f"def f(w, g, m{c}, lr):\n m = interp(g, m, 0.9)\n return lr * m, m" for c in ("", ": bf16", ": int8(4096)")
    ]
    programs = [Program.parse(text) for text in texts]
    assert len({key(p) for p in programs}) == len({structural_key(p) for p in programs}) == 3
    one, other = (Program.parse(f"def f(progress):\n return {x}") for x in ("1 - progress", "1 - progress * progress"))
    assert key(one) != key(other) and key(one) == key(Program.parse(str(one)))


# --- memory, precision, names ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kept",
    ["every(3, w, m)", "every(2, g, m)", "worker_mean(g)", "unwide(wide(g))", "first(w, m)", "transpose(transpose(w))"],
)
def test_a_state_keeps_what_it_was_when_weights_and_gradients_are_overwritten(kept):
    """As training does: one buffer of gradients, weights moved in place."""
    rule = matrix_rule("0.1 * m + 0.01 * g", ends=f", {kept}")
    w = [x.copy() for x in gradients(1, 9)[0]]
    params = [torch.tensor(x) for x in w]
    buffers = [torch.zeros_like(p) for p in params]
    runner = Interpreter(rule, SHAPES, roles=ROLES)
    step, states = compile_step(rule, ROLES), zero_states(rule, params, ROLES)
    for t, g in enumerate(gradients(6), 1):
        w = [x - u for x, u in zip(w, runner.step(w, g, 0.5, t), strict=True)]
        for buffer, x in zip(buffers, g, strict=True):
            buffer.copy_(torch.tensor(x))
        update, states = step(params, buffers, states, 0.5, t, 0.0)
        for p, u in zip(params, update, strict=True):
            p.sub_(u)
        for x, p in zip(w, params, strict=True):
            np.testing.assert_allclose(p.numpy(), x, rtol=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["muon", "soap", "galore", "root", "adamw", "adafactor", "adam8bit"])
def test_low_precision_is_computed_in_float32(name, dtype):
    rule = load(name)
    low = [torch.tensor(x).to(dtype) for x in gradients(1, 9)[0][:5]]
    high = [p.float() for p in low]
    seen = []
    for params in (low, high):
        step, states = compile_step(rule, ROLES[:5]), zero_states(rule, params, ROLES[:5])
        g = [torch.tensor(x).to(dtype).to(p.dtype) for x, p in zip(gradients(1)[0], params, strict=False)]
        update, _ = step(params, g, states, 1.0, 1, 0.1)
        assert all(u.dtype == p.dtype for u, p in zip(update, params, strict=True))
        seen.append(update)
    for a, b in zip(*seen, strict=True):
        torch.testing.assert_close(a.float(), b, rtol=0.01, atol=1e-6)


def test_mixed_precisions_keep_their_own():
    rule = Program.parse("def f(w, g, m, lr):\n m = interp(g, m, 0.9)\n return lr * m, m")
    params = [torch.ones(3, dtype=torch.bfloat16), torch.full((3,), 1 / 3)]
    update, states = compile_step(rule)(params, params, zero_states(rule, params), 1.0, 1, 0.0)
    assert [u.dtype for u in update] == [x.dtype for x in states[0]] == [torch.bfloat16, torch.float32]
    assert update[1][0].item() == pytest.approx(0.1 / 3, rel=1e-6)


def test_a_main_part_at_rate_0_leaves_its_fallback_its_own():
    rule = Program.parse("def f(w, g, lr=0.0) for matrix else h:\n return lr * g\ndef h(w, g, lr=0.5):\n return lr * g")
    agree(rule)


@pytest.mark.parametrize("q", ["-0.1", "0", "0.37", "1", "1.2"])
def test_a_quantile_is_numpys_and_undefined_outside_0_to_1(q):
    rule = matrix_rule(f"g * quantile(g, {q})")
    if 0 <= float(q) <= 1:
        agree(rule)
    else:
        assert all(np.isnan(u).all() for u in (*by_numpy(rule)[:1], *by_torch(rule)[:1]))


@pytest.mark.parametrize("name", ["float", "enumerate", "inputs", "states", "len", "i"])
def test_states_may_have_the_names_of_what_generated_code_uses(name):
    rule = Program.parse(
        f"def f(w, g, {name}, lr, noise) for matrix, head, embedding else sgd:\n {name} = interp(g, {name}, 0.9)\n"
        f" return lr * size(g) * {name} + 0 * noise + 0 * sum(random_projection(wide(g), 2, 3)), {name}" + FALLBACK
    )
    agree(rule)


def test_workers_with_routes_and_roles():
    rule = Program.parse(
        "def f(w, g, m, lr) for matrix else h:\n m = interp(g, m, 0.5)\n"
        " return lr * worker_mean(m) * mean(g, fan_in), m\n"
        "def h(w, g, lr):\n return lr * worker_mean(g)"
    )
    w = gradients(1, 9)[0]
    runner = Interpreter(rule, SHAPES, roles=ROLES, workers=2)
    params = [torch.tensor(x) for x in w] * 2
    step, states = compile_step(rule, ROLES, workers=2), zero_states(rule, params, ROLES)
    for t in (1, 2):
        g = gradients(1, t)[0] + gradients(1, 10 + t)[0]
        truth = runner.step(w, g, 1.0, t)
        update, states = step(params, [torch.tensor(x) for x in g], states, 1.0, t, 0.0)
        for a, b in zip(truth, update, strict=False):
            np.testing.assert_allclose(b.numpy(), a, rtol=1e-10)


def test_periods_and_the_states_of_codecs_count_in_keys():
    asks = "def f(w, g, lr, hutchinson: every {}):\n return lr * g * hutchinson"
    stores = (
        "def f(w, g, {}, {}, lr):\n m = interp(g, m, 0.9)\n v = interp(g * g, v, 0.9)\n return lr * m / sqrt(v), m, v"
    )
    for texts in (
        [asks.format(1), asks.format(100)],
        [stores.format("m: int8(4096)", "v"), stores.format("m", "v: int8(4096)")],
        [stores.format("m: int8(4096)", "v: uint8(4096)"), stores.format("m: uint8(4096)", "v: int8(4096)")],
    ):
        programs = [Program.parse(text) for text in texts]
        assert len({key(p) for p in programs}) == len({structural_key(p) for p in programs}) == 2


def test_each_part_of_a_route_runs_where_it_can():
    """Routes that differ, one with matrix rows, and none, in one population: to the numbers of torch alone."""
    rest = (
        "def h(w, g, m, v, lr=0.3, t):\n g = clip(g, 0.5)\n m = interp(g, m, 0.9)\n v = interp(g * g, v, 0.99)\n"
        " return lr * m / (sqrt(v) + 1e-3 + power(0.9, t)), m, v"
    )
    text = "def f(w, g, m, lr=0.1) for {} else h:\n m = 0.9 * m + g\n return lr * {}, m\n" + rest
    routed = [text.format(*pair) for pair in (("matrix", "orthogonalize(m)"), ("matrix", "sign(m)"), ("head", "m"))]
    programs = [Program.parse(each) for each in (*routed, rest)]
    start = [torch.as_tensor(x, dtype=torch.float64) for x in gradients(1)[0]]
    ends = {}
    for engine in ("c", "torch"):
        params = [torch.stack([x] * len(programs)) for x in start]
        runner = PopulationStep(programs, params, ROLES, engine=engine)
        for t, g in enumerate(gradients(4), 1):
            runner.step(params, [torch.stack([torch.as_tensor(x)] * len(programs)) for x in g], 0.5, t)
        ends[engine] = params
        through_torch = [one.which for one in runner.engines if isinstance(one, TorchEngine)]
        assert through_torch == [[0] if engine == "c" else [0, 1, 2, 3]]
        assert len(runner.engines) == (6 if engine == "c" else 1)  # a division has two parts, and all is one
    for c, torchs in zip(ends["c"], ends["torch"], strict=True):
        torch.testing.assert_close(c, torchs, rtol=1e-12, atol=1e-13)
