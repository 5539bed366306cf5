"""Every row of the op table means the same in numpy, torch and C, at ordinary and at special numbers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from stepsmith.dsl import OPS, Kind, Program
from stepsmith.dsl.c_engine import CEngine
from stepsmith.dsl.interpret import Interpreter
from stepsmith.dsl.to_population import PopulationStep
from stepsmith.dsl.to_torch import compile_step, zero_states

NUMBERS = [0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 3.0, -3.0, 1 / 3, 1e-9, -1e-9, 700.0, -700.0, 1e200, -1e200, 1e-300]
SPECIAL = [*NUMBERS, -0.0, np.inf, -np.inf, np.nan]
ELEMENTWISE = sorted(name for name, row in OPS.items() if row.elementwise and row.arity and name != "identity")
REDUCTIONS = sorted(name for name, row in OPS.items() if row.args and row.name not in ("quantile", "worker_mean"))


def run_all(program: Program, steps: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    """The last update of a program on one tensor, by every engine; C shows it as 0 - update."""
    shape = steps[0][0].shape
    runner, found = Interpreter(program, [shape]), {}
    for w, g in steps:
        (found["numpy"],) = runner.step([w], [g])
    step = compile_step(program)
    states = zero_states(program, [torch.zeros(shape, dtype=torch.float64)])
    for w, g in steps:
        (update,), states = step([torch.tensor(w)], [torch.tensor(g)], states, 1.0, 1, 0.0)
        found["torch"] = update.numpy()
    zero = torch.zeros(1, *shape, dtype=torch.float64)
    engine = PopulationStep([program], [zero])
    if isinstance(engine.engines[0], CEngine):
        for w, g in steps:
            before = torch.tensor(w)[None].clone()
            engine.step([before], [torch.tensor(g)[None]])
            found["c"] = before.numpy()[0]
    return found


def same(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        close = np.abs(a - b) <= 1e-13 * np.abs(a) + 1e-320
    return close | (a == b) | (np.isnan(a) & np.isnan(b))


def expect_equal(program: Program, steps) -> None:
    """The last w is zero, so that C's weights after the step are minus the update."""
    found = run_all(program, steps)
    assert same(found["numpy"], found["torch"]).all(), str(program)
    if "c" in found:
        assert same(found["numpy"], -found["c"]).all(), str(program)


def program(expression: str) -> Program:
    return Program.parse(f"def f(w, g, x, y, z, lr):\n return {expression}, y, z, g")


def fed(*columns: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Gradients one after another, which wander through the states z, y, x."""
    zero = np.zeros_like(columns[0])
    return [*((zero, c) for c in columns), (zero, zero)]


@pytest.mark.parametrize("op", ELEMENTWISE)
def test_an_elementwise_row_means_the_same_everywhere(op):
    arity = OPS[op].arity
    grid = np.array(list(itertools.product(SPECIAL, repeat=arity))).T
    names = ["x", "y", "z"][3 - arity :]
    expect_equal(program(f"{op}({', '.join(names)})"), fed(*grid))


@pytest.mark.parametrize("op", [op for op in ELEMENTWISE if OPS[op].arity == 2])
def test_a_number_may_stand_on_either_side(op):
    column = np.array(SPECIAL)
    for number in NUMBERS:
        expect_equal(program(f"{op}(z, {number!r})"), fed(column))
        expect_equal(program(f"{op}({number!r}, z)"), fed(column))


@pytest.mark.parametrize("op", REDUCTIONS)
@pytest.mark.parametrize("spoil", [None, np.nan, np.inf, -np.inf])
def test_a_reduction_means_the_same_at_every_length(op, spoil):
    """Lengths around the lanes and the tiles of the C engine; the spoilt element wanders."""
    row, random = OPS[op], np.random.default_rng(3)
    args = ["z", "g", "0.7"][: row.arity] if op != "clip" else ["z", "0.7"]
    rule = program(f"g * 0.0 + {op}({', '.join(args)})")
    for length in (1, 2, 7, 8, 9, 1023, 1024, 1025, 2049):
        x = random.standard_normal(length)
        if spoil is not None:
            x[int(random.integers(length))] = spoil
        zero, plain = np.zeros(length), random.standard_normal(length)
        expect_equal(rule, [(zero, x), (zero, plain)])


def test_a_reduction_per_tensor_sees_its_tensor_and_a_global_one_sees_all():
    each = Program.parse("def f(w, g, lr):\n return lr * g / g * norm(g)")
    whole = Program.parse("def f(w, g, lr):\n return lr * g / g * global_norm(g)")
    g = [np.array([3.0, 4.0]), np.array(12.0)]
    assert [float(u.max()) for u in Interpreter(each, [(2,), ()]).step(g, g)] == [5.0, 12.0]
    assert [float(u.max()) for u in Interpreter(whole, [(2,), ()]).step(g, g)] == [13.0, 13.0]


def test_rows_that_other_rows_spell_have_no_meaning_of_their_own():
    for row in OPS.values():
        if row.name != "worker_mean":  # its meaning is the interpreter's, over all workers
            assert bool(row.expand) == (row.meaning is None)
        assert bool(row.expand) != bool(row.torch)
        assert bool(row.c) <= bool(row.torch)
        assert len(row.expand) in (0, row.arity + 1)


ODD_EVEN = [(name, trait) for name, row in OPS.items() for trait in ("odd", "even") if trait in row.traits]
ODD_EVEN.remove(("identity", "odd"))  # written x = y


@pytest.mark.parametrize(("op", "trait"), ODD_EVEN)
def test_odd_and_even_rows_are_that(op, trait):
    x = np.array([n for n in SPECIAL if n == n])[None]
    values = [row_value(op, x), row_value(op, -x)]
    with np.errstate(all="ignore"):
        assert same(values[0], values[1] if trait == "even" else -values[1]).all()


def row_value(op: str, x: np.ndarray) -> np.ndarray:
    kind = OPS[op].result
    text = f"{op}(g)" if kind in (None, Kind.TENSOR) else f"g * 0.0 + {op}(g)"
    rule = Program.parse(f"def f(w, g, lr):\n return {text}")
    if kind is None:
        return Interpreter(rule, [x.shape]).step([x], [x])[0]
    return np.concatenate([Interpreter(rule, [(1,)]).step([c], [c])[0] for c in x.T])


@pytest.mark.parametrize("op", [name for name, row in OPS.items() if "commutative" in row.traits])
def test_commutative_rows_are_that(op):
    x, y = np.array(list(itertools.product(NUMBERS, repeat=2))).T
    text = "{}({}, {})" if OPS[op].elementwise else "g * 0.0 + {}({}, {})"
    one, other = (Program.parse(f"def f(w, g, lr):\n return {text.format(op, *names)}") for names in ("wg", "gw"))
    a, b = (Interpreter(rule, [x.shape]).step([x], [y])[0] for rule in (one, other))
    assert same(a, b).all()
