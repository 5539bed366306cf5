"""Extended precision means what float64 means, without its rounding, overflow and underflow."""

from __future__ import annotations

import math
import subprocess
import sys
import time

import mpmath
import numpy as np
import pytest
from mpmath import mpf

from stepsmith.discovered import load
from stepsmith.dsl import OPS, Program
from stepsmith.dsl.errors import ProgramError
from stepsmith.dsl.extended import MEANINGS, Extended, OutOfReach
from stepsmith.dsl.interpret import Interpreter

NUMBERS = [0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 3.0, -3.0, 1 / 3, -1e-9, 1e-9, 7.25, -40.5]
SPECIAL = [0.0, 1.0, -1.0, 0.5, -2.0, -3.0, math.inf, -math.inf, math.nan]
PLAIN = [row for row in OPS.values() if not row.needs_matrix]
ELEMENTWISE = [row.name for row in PLAIN if row.elementwise and row.arity and row.name != "identity"]
REDUCTIONS = [row.name for row in PLAIN if row.args and row.arity == 1 and row.result is not None]
INPUTS = ("w", "g", "hutchinson")


def program(expression: str) -> Program:
    return Program.parse(f"def f(w, g, lr, t, progress, hutchinson: every 1):\n return {expression}")


def both(expression: str, *inputs: np.ndarray, **more) -> tuple[np.ndarray, np.ndarray]:
    """The update of one step in extended precision, rounded, and in float64."""
    given, rule = [*inputs, *[inputs[0]] * (3 - len(inputs))], program(expression)
    w, g, h = ([x] for x in given)
    shapes = [inputs[0].shape]
    (mine,) = Extended(rule, shapes).step(w, g, oracles={"hutchinson": h}, **more)
    (theirs,) = Interpreter(rule, shapes).step(w, g, oracles={"hutchinson": h}, **more)
    return mine.astype(np.float64), np.asarray(theirs)


def grid(numbers: list[float], arity: int) -> list[np.ndarray]:
    return [x.ravel() for x in np.meshgrid(*[np.array(numbers)] * arity)]


def call(row: str, spelt: str = "{}") -> str:
    return f"{row}({', '.join(spelt.format(x) for x in INPUTS[: OPS[row].arity])})"


def value(expression: str, g: float = 0.0, digits: int = 60, exact: bool = True) -> mpf:
    rule = Program.parse(f"def f(w, g, lr=0.1, t):\n return w * 0 + {expression}")
    return Extended(rule, [()], digits, exact).step([np.ones(())], [np.array(g)])[0][()]


# --- rows -------------------------------------------------------------------------------------------------


def test_every_plain_row_has_a_meaning():
    assert set(MEANINGS) == {row.name for row in PLAIN if not row.expand}


@pytest.mark.parametrize("row", ELEMENTWISE)
def test_an_elementwise_row_means_what_it_means_in_float64(row):
    # float64 rounds differences to 0, and the other way at a whole quotient: there only numbers that it adds exactly
    numbers = [x for x in NUMBERS if row not in ("mod", "interp") or (8 * x).is_integer()]
    mine, theirs = both(call(row), *grid(numbers, OPS[row].arity))
    np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=0)


@pytest.mark.parametrize("row", ELEMENTWISE)
def test_an_elementwise_row_of_irrational_numbers(row):
    random = np.random.default_rng(3)
    inputs = [random.standard_normal(40) * 3 for _ in range(OPS[row].arity)]
    mine, theirs = both(call(row, "cbrt({})"), *inputs)
    np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=0)


@pytest.mark.parametrize("row", ELEMENTWISE)
def test_an_elementwise_row_of_infinities_and_nan(row):
    mine, theirs = both(call(row), *grid(SPECIAL, OPS[row].arity))
    np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=0)


ARRAYS = [
    np.array([0.5, -2.0, 0.0, 3.25]), np.array([[1.0, 2.0], [-7.0, 1e-9], [3.0, 3.0]]), np.array(-4.0), np.zeros(3),
    np.array([1.0, math.inf]), np.array([-math.inf, 2.0]), np.array([math.nan, 1.0]), np.array([math.inf, -math.inf]),
]  # fmt: skip


@pytest.mark.parametrize("x", ARRAYS, ids=str)
@pytest.mark.parametrize(
    "expression",
    [
        *(f"where(1, {row}(w), w)" for row in REDUCTIONS),
        *("w * 0 + get_pi()", "get_e() + 0 * w", "get_eps() + 0 * w", "worker_mean(w)", "clip(w, 1)", "clip(w, 9)"),
        *("where(1, dot(w, g), w)", "where(1, cosine_sim(w, g), w)", "every(2, w, g)", "first(w, -w)"),
        *(f"where(1, quantile(w, {q}), w)" for q in ("0.0", "0.3", "0.5", "1.0", "1.5", "-0.5", "arcsin(2.0)")),
    ],
)
def test_a_reduction_means_what_it_means_in_float64(expression, x):
    mine, theirs = both(expression, x, x[::-1] * 2 if x.ndim else x, t=2)
    np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("power(0, -1)", math.inf),
        ("power(0, -3)", math.inf),
        ("power(0, 0)", 1),
        ("power(-8, 1 / 3)", math.nan),
        ("power(-2, 3)", -8),
        ("power(-2, -2)", 0.25),
        ("power(arcsin(2), 0)", 1),
        ("power(1, arcsin(2))", 1),
        ("27 * power(2.25, -1.5)", 8),
        ("power(32, 0.2)", 2),
        ("cbrt(-27) + sqrt(-6.25)", -0.5),
        ("log(0)", -math.inf),
        ("log2(-8) + log10(1000)", 6),
        ("log1p(-1)", -math.inf),
        ("log1p(-1.5)", math.nan),
        ("arccosh(0.99)", math.nan),
        ("arctanh(-1)", -math.inf),
        ("arcsin(1.5)", math.nan),
        ("1 / (0.3 - 0.1 * 3)", 0),
        ("sign(arcsin(2))", math.nan),
        ("max(1, arcsin(2))", math.nan),
        ("min(arcsin(2), 1)", math.nan),
        ("where(arcsin(2), 3, 4)", 3),
        ("(arcsin(2) <= 1)", 0),
        ("mod(-7, 3)", 2),
        ("mod(-7, 0)", -7),
        ("mod(0.3, 0.1)", 0),
        ("floor(-0.5)", -1),
        ("get_eps() * 100000000", 1),
        ("tanh(700) - 1", 0),
        ("exp(-1000) * exp(1000)", 1),
        ("(exp(800) > exp(799))", 1),
    ],
)
def test_special_cases(expression, expected):
    found = value(expression)
    assert isinstance(found, mpf)
    with mpmath.workdps(60):
        assert mpmath.isnan(found) if math.isnan(expected) else abs(found - expected) < 1e-58 or found == expected


# --- precision --------------------------------------------------------------------------------------------


def test_sums_of_decimals_are_exact():
    assert value("0.1 + 0.2 - 0.3") == 0 == value("lr + 0.2 - 0.3")
    assert value("1 - 0.9 - 0.1") == 0 == value("sqrt(square(0.3)) - 0.3")
    assert value("0.1 * 3 - 0.3", exact=False) == mpf(2) ** -55
    assert value("g - 0.1", 0.1) != 0  # inputs are binary numbers
    assert value("exp(g)", 0.0) == 1


def test_the_peak_is_a_decimal_number_and_the_schedule_a_binary_one():
    rule = Program.parse("def f(w, g, lr=0.1):\n return lr * g")
    (found,) = Extended(rule, [(1,)]).step([np.zeros(1)], [np.ones(1)], schedule=0.25)
    with mpmath.workdps(60):
        assert found[0] == mpf(1) / 40


@pytest.mark.parametrize("digits", [30, 60, 100])
def test_results_are_right_to_the_digits(digits):
    with mpmath.workdps(2 * digits):
        assert abs(value("get_pi()", digits=digits) / mpmath.pi - 1) < mpf(10) ** -digits
        assert abs(value("log(1 + 1e-70)", digits=digits) * 1e70 - 1) < 1e-15
        assert abs(value("exp(cos(g))", 2.0, digits) / mpmath.exp(mpmath.cos(2)) - 1) < mpf(10) ** (1 - digits)
    with mpmath.workdps(digits + 120):
        angle = mpmath.sin(mpf(10) ** 100)
        assert abs(value("sin(1e100)", digits=digits) / angle - 1) < mpf(10) ** (1 - digits)


def test_what_float64_loses_is_kept():
    assert value("(g + 1e18) - 1e18", 0.25) == 0.25
    assert value("exp(g) / exp(g)", 5000.0) == 1
    assert value("square(square(g)) / cube(g)", 1e-120) == 1e-120


@pytest.mark.parametrize(
    "expression",
    [
        "exp(exp(exp(g * 1000)))", "exp(-exp(g * 1000))", "exp(2e6)", "cosh(2e6)", "sinh(-2e6)", "expm1(1e9)",
        "exp2(1e9)", "exp10(-1e9)", "power(g + 3, 1e300)", "power(1e300, exp(40))", "sin(1e201)", "cos(exp(100))",
        "tan(exp(1000))", "mod(exp(100), 3)",
    ],
)  # fmt: skip
def test_what_is_out_of_reach_says_so_at_once(expression):
    start = time.perf_counter()
    with pytest.raises(OutOfReach):
        value(expression, 1.0)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize("expression", ["cube(cube(cube(cube(g))))", "tanh(cube(cube(g)))", "arcsinh(sqrt(square(g)))"])
def test_enormous_numbers_are_quick(expression):
    rule = Program.parse(f"def f(w, g, m, lr):\n m = exp(900000 * g) * cube(m) + exp(g)\n return {expression} * m, m")
    runner, start = Extended(rule, [(2,)]), time.perf_counter()
    for _ in range(30):
        runner.step([np.ones(2)], [np.ones(2)])
    assert time.perf_counter() - start < 1


def test_a_step_out_of_reach_moves_no_state():
    rule = Program.parse("def f(w, g, m, lr):\n m = m + 1\n return exp(g) * 0 + m, m")
    runner = Extended(rule, [(2,)])
    with pytest.raises(OutOfReach):
        runner.step([np.ones(2)], [np.full(2, 1e8)])
    assert runner.step([np.ones(2)], [np.ones(2)])[0].tolist() == [1, 1]


# --- whole programs ---------------------------------------------------------------------------------------

SHAPES = [(2, 3), (4,), ()]
ALL_KINDS = Program.parse("""def counted(w, g, m, n: scalar, peak: global, lr=0.01, progress):
  n = interp(rms(g), n, 0.9)
  peak = max(peak, global_norm(g))
  m = interp(clip(g, peak) + n, m, progress)
  return lr * m / (n + 1e-3), m, n, peak
""")
RULES = {name: load(name) for name in ("lion", "adamw", "adabelief", "c_adamw", "spam", "onebit_adam", "sophia")}


@pytest.mark.parametrize("rule", [*RULES.values(), ALL_KINDS], ids=[*RULES, "counted"])
@pytest.mark.parametrize("exact", [True, False])
def test_whole_programs_agree_with_float64(rule, exact):
    random = np.random.default_rng(5)
    w = [random.standard_normal(s) for s in SHAPES]
    mine, theirs = Extended(rule, SHAPES, exact=exact), Interpreter(rule, SHAPES)
    for t in range(1, 11):
        g = [np.asarray(random.standard_normal(s)) for s in SHAPES]
        due = {"gauss_newton": [x * x for x in g]} if t == 1 else {}
        found, expected = (r.step(w, g, 1 / t, t, t / 10, due) for r in (mine, theirs))
        assert [x.shape for x in found] == SHAPES
        assert {type(u) for x in found for u in x.ravel()} == {mpf}
        for x, y in zip(found, expected, strict=True):
            np.testing.assert_allclose(x.astype(np.float64), y, rtol=1e-9)
        w = [x - u for x, u in zip(w, expected, strict=True)]


def test_weights_may_be_extended_too():
    rule, w = Program.parse("def f(w, g, lr=0.1):\n return lr * (g + w)"), [np.ones(2)]
    runner = Extended(rule, [(2,)])
    with mpmath.workdps(60):
        for _ in range(3):
            w = [x - u for x, u in zip(w, runner.step(w, [np.zeros(2)]), strict=True)]
        assert abs(w[0][1] - mpf("0.729")) < 1e-58


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (
            "def f(w, g, lr) for matrix else h:\n return mean(g, fan_in) * g\ndef h(w, g, lr):\n return g",
            "mean:fan_in",
        ),
        ("def f(w, g, noise, lr):\n return g * noise", "noise"),
        ("def f(w, g, m: tensor in bf16, lr):\n m = m + g\n return m, m", "state m as bf16"),
        ("def f(w, g, lr) for matrix else h:\n return g\ndef h(w, g, lr):\n return -g", "Program.parts"),
        ("def rex(progress):\n return 1 - progress", "schedule"),
    ],
)
def test_what_has_no_meaning_is_refused(text, named):
    with pytest.raises(ProgramError, match=named):
        Extended(Program.parse(text), [(2, 2)])


def test_the_language_loads_without_mpmath():
    subprocess.run([sys.executable, "-c", "import sys, stepsmith.dsl; sys.exit('mpmath' in sys.modules)"], check=True)
