"""The meaning of programs: each rule of the language, and optimizers against their textbook form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stepsmith.dsl import Program
from stepsmith.dsl.interpret import Interpreter

NAN = math.nan


def apply(expression: str, w=(1.0, 2.0, -3.0), g=(0.5, -2.0, 0.0), **more) -> list[float]:
    """The update of one step on one tensor."""
    w, g = np.array(w, np.float64), np.array(g, np.float64)
    program = Program.parse(f"def f(w, g, lr=1.0, t, progress):\n return {expression}")
    return Interpreter(program, [w.shape]).step([w], [g], **more)[0].tolist()


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("w / g", [2.0, -1.0, 0.0]),  # x / 0 is 0
        ("g / g", [1.0, 1.0, 0.0]),
        ("w / 0.0", [0.0, 0.0, 0.0]),
        ("reciprocal(g)", [2.0, -0.5, 0.0]),
        ("g / sqrt(g * g) - sign(g)", [0.0, 0.0, 0.0]),
        ("sign(g)", [1.0, -1.0, 0.0]),
        ("sqrt(-square(g))", [0.5, 2.0, 0.0]),  # of |x|
        ("log(w) - log(-w)", [0.0, 0.0, 0.0]),
        ("log2(8 * g / g)", [3.0, 3.0, -math.inf]),
        ("log10(100 + g - g)", [2.0, 2.0, 2.0]),
        ("log1p(w)", [math.log(2), math.log(3), NAN]),
        ("arcsin(w)", [math.pi / 2, NAN, NAN]),
        ("arccos(g)", [math.pi / 3, NAN, math.pi / 2]),
        ("arccosh(w)", [0.0, math.acosh(2.0), NAN]),
        ("arctanh(g)", [math.atanh(0.5), NAN, 0.0]),
        ("power(w, 0.5)", [1.0, math.sqrt(2.0), NAN]),  # a negative base with a fractional power
        ("w ** 3", [1.0, 8.0, -27.0]),
        ("w ** -1", [1.0, 0.5, -1 / 3]),
        ("power(g, 0.0)", [1.0, 1.0, 1.0]),
        ("cbrt(cube(w))", [1.0, 2.0, -3.0]),
        ("interp(w, g, 0.25)", [0.875, 1.0, -2.25]),  # (1 - a) x + a y
        ("interp(w, g, 0)", [1.0, 2.0, -3.0]),
        ("interpolate(w, g, 1)", [0.5, -2.0, 0.0]),
        ("max(w, g)", [1.0, 2.0, 0.0]),
        ("min(w, 0.5)", [0.5, 0.5, -3.0]),
        ("max(w, arcsin(w))", [math.pi / 2, NAN, NAN]),  # NaN is contagious
        ("w < 2", [1.0, 0.0, 1.0]),
        ("w <= 2", [1.0, 1.0, 1.0]),
        ("w > arcsin(w)", [0.0, 0.0, 0.0]),
        ("where(g, w, 7)", [1.0, 2.0, 7.0]),
        ("where(g > 0, w, -w)", [1.0, -2.0, 3.0]),
        ("w * get_pi()", [math.pi, 2 * math.pi, -3 * math.pi]),
        ("w * 0 + get_e()", [math.e] * 3),
        ("w * 0 + get_eps()", [1e-8] * 3),
        ("w * 0 + mean(w)", [0.0] * 3),
        ("w * 0 + sum(g)", [-1.5] * 3),
        ("w * 0 + std(w)", [math.sqrt(14 / 3)] * 3),  # ddof 0
        ("w * 0 + rms(w)", [math.sqrt(14 / 3)] * 3),
        ("w * 0 + norm(w)", [math.sqrt(14)] * 3),
        ("w * 0 + amax(-w)", [3.0] * 3),
        ("w * 0 + dot(w, g)", [-3.5] * 3),
        ("w * 0 + cosine_sim(w, w)", [1.0] * 3),
        ("w * 0 + cosine_sim(w, w - w)", [0.0] * 3),
        ("clip(w, 100)", [1.0, 2.0, -3.0]),
        ("clip(w, 7) * 2 / sqrt(14)", [1.0 * 2 / math.sqrt(14), 4 / math.sqrt(14), -6 / math.sqrt(14)]),
        ("clip(w, 1) * sqrt(14)", [1.0, 2.0, -3.0]),
        ("clip_by_global_norm(w - w, 1)", [0.0, 0.0, 0.0]),
        ("-w ** 2", [-1.0, -4.0, -9.0]),  # power binds tighter than minus
        ("w - g - 1", [-0.5, 3.0, -4.0]),
        ("2 ** 3 ** g", [2**3**0.5, 2**3**-2.0, 2.0]),  # to the right
    ],
)
def test_an_expression_means(expression, expected):
    assert apply(expression) == pytest.approx(expected, rel=1e-14, abs=1e-14, nan_ok=True)


def test_lr_is_peak_times_schedule():
    program = Program.parse("def f(w, g, lr=0.5):\n return lr * g")
    assert Interpreter(program, [(1,)]).step([np.ones(1)], [np.ones(1)], schedule=0.25)[0].tolist() == [0.125]
    without = Program.parse("def f(w, g, lr):\n return lr * g")
    assert Interpreter(without, [(1,)]).step([np.ones(1)], [np.ones(1)], schedule=0.25)[0].tolist() == [0.25]


def test_t_and_progress_are_what_the_step_says():
    assert apply("w * 0 + t", t=7) == [7.0] * 3
    assert apply("w * 0 + progress", progress=0.3) == [0.3] * 3


def two_steps(text: str) -> list[float]:
    runner = Interpreter(Program.parse(text), [(1,)])
    return [float(runner.step([np.full(1, 10.0)], [np.full(1, g)])[0][0]) for g in (1.0, 2.0)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def f(w, g, m, lr):\n return m, g", [0.0, 1.0]),  # states start at zero
        ("def f(w, g, m, lr):\n m = m + g\n return m, m", [1.0, 3.0]),  # a later read sees the new value
        ("def f(w, g, m, lr):\n u = m + g\n m = g\n return u, m", [1.0, 3.0]),
        ("def f(w, g, m, lr):\n m = g\n return m + m, m", [2.0, 4.0]),
        ("def f(w, g, lr):\n w = w * 2\n g = g + w\n lr = 3\n return lr * g", [63.0, 66.0]),  # inputs, locally
        ("def f(w, g, lr, b=2.0):\n b = b + 1\n return b * g", [3.0, 6.0]),  # next step it is 2 again
        ("def f(w, g, a, b, lr):\n return a + 10 * b, b, g", [0.0, 10.0]),  # returned in header order
        ("def f(w, g, a, b, lr):\n return a + 10 * b, g, a", [0.0, 1.0]),
        ("def f(w, g, m, lr):\n return m, 5", [0.0, 5.0]),  # a number fills a tensor state
        ("def f(w, g, n: global, lr):\n n = n + 1\n return g * 0 + n, n", [1.0, 2.0]),
        ("def f(w, g, n: scalar, lr):\n n = n + sum(g)\n return g * 0 + n, n", [1.0, 3.0]),
        ("def f(lr, g, w):\n return w - g", [9.0, 8.0]),  # reserved inputs stand anywhere
    ],
)
def test_states_and_assignments_follow_the_rules(text, expected):
    assert two_steps(text) == expected


def test_each_kind_of_state_has_its_own_size():
    program = Program.parse(
        "def f(w, g, m, n: scalar, p: global, lr):\n m = m + g\n n = n + sum(g)\n p = p + dot(g, g)\n"
        " return m + n + p, m, n, p"
    )
    runner = Interpreter(program, [(2,), ()])
    g = [np.array([1.0, 2.0]), np.array(3.0)]
    update = runner.step(g, g)
    assert [u.tolist() for u in update] == [[1 + 3 + 14.0, 2 + 3 + 14.0], 3 + 3 + 14.0]
    assert [u.tolist() for u in runner.step(g, g)] == [[36.0, 38.0], 40.0]


def test_a_weight_that_never_got_a_gradient_stays_put(starts):
    for name in ("adam", "cautious", "sgd"):
        runner = Interpreter(starts[name], [(2,)])
        for t in range(1, 4):
            assert runner.step([np.ones(2)], [np.array([1.0, 0.0])], t=t)[0][1] == 0


# --- whole optimizers -------------------------------------------------------------------------------------


def gradients(steps: int, shapes) -> list[list[np.ndarray]]:
    random = np.random.default_rng(8)
    return [[random.standard_normal(s) for s in shapes] for _ in range(steps)]


SHAPES = [(4, 3), (5,)]


def train(program: Program, steps: int = 20) -> list[np.ndarray]:
    w, runner = [np.ones(s) for s in SHAPES], Interpreter(program, SHAPES)
    for t, g in enumerate(gradients(steps, SHAPES), 1):
        w = [x - u for x, u in zip(w, runner.step(w, g, t=t), strict=True)]
    return w


def test_lion_is_lion_by_hand(starts):
    w, m = [np.ones(s) for s in SHAPES], [np.zeros(s) for s in SHAPES]
    for g in gradients(20, SHAPES):
        for i in range(2):
            w[i] = w[i] - 0.01 * (np.sign(0.1 * g[i] + 0.9 * m[i]) + 0.1 * w[i])
            m[i] = 0.99 * m[i] + 0.01 * g[i]
    for mine, theirs in zip(train(starts["lion"].with_lr(0.01)), w, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-13)


def test_the_start_program_is_adamw_without_bias_correction_by_hand(starts):
    w, m, v = ([f(s) for s in SHAPES] for f in (np.ones, np.zeros, np.zeros))
    for g in gradients(20, SHAPES):
        for i in range(2):
            m[i] = 0.9 * m[i] + 0.1 * g[i]
            v[i] = 0.999 * v[i] + 0.001 * g[i] ** 2
            w[i] = w[i] - 0.001 * (m[i] / np.sqrt(v[i]) + 0.01 * w[i])
    for mine, theirs in zip(train(starts["adamw"]), w, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-13)


ADAMW = """def adamw(w, g, m, v, lr=0.003, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.1, t):
    m = interp(g, m, beta1)
    v = interp(square(g), v, beta2)
    m_hat = m / (1 - beta1 ** t)
    v_hat = v / (1 - beta2 ** t)
    return lr * (m_hat / (sqrt(v_hat) + eps) + weight_decay * w), m, v
"""


def test_adamw_is_torchs():
    params = [torch.nn.Parameter(torch.ones(s, dtype=torch.float64)) for s in SHAPES]
    theirs = torch.optim.AdamW(params, lr=0.003, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1)
    for g in gradients(20, SHAPES):
        for p, x in zip(params, g, strict=True):
            p.grad = torch.tensor(x)
        theirs.step()
    for mine, p in zip(train(Program.parse(ADAMW)), params, strict=True):
        np.testing.assert_allclose(mine, p.detach().numpy(), rtol=1e-12)
