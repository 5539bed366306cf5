"""What generated Triton kernels do, under Triton's interpreter.

Triton decides at its import whether to interpret, so test_triton.py runs this file in a process of its own, with
TRITON_INTERPRET=1. The interpreter does not round as a device does when it stores bfloat16 (not to even).
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parent))

from conftest import _random_programs
from test_lowerings import SHAPES, STEPS, compare, flat, run_numpy, weights_after
from test_rows import NUMBERS, SPECIAL

from stepsmith.discovered import entries, load
from stepsmith.dsl import OPS, Kind, Program
from stepsmith.dsl.interpret import Interpreter
from stepsmith.dsl.passes import Passes, fusable
from stepsmith.dsl.program import FIRST
from stepsmith.dsl.to_triton import interpret_libdevice, triton_step

SIZES = ((1,), (3,), (1000,), (4097,), (64, 65))
FUSABLE = {e.name: e.program for e in entries() if fusable(e.program) and not e.program.schedule}
SHORT = ((3,), (2050,))


@cache
def step_of(program: Program) -> Callable[..., None]:
    interpret_libdevice()
    return triton_step(program, {slot: f"h{slot}" for slot in range(program.first_hyper, program.first_local)})


class Run:
    """Parameters that the kernels step."""

    def __init__(self, program: Program, w: Sequence[np.ndarray], dtype=torch.float64, state_dtype=None) -> None:
        self.program, self.dtype = program, dtype
        self.params = [torch.tensor(x).to(dtype) for x in w]
        live = Passes(program).flow
        self.kinds = [live.kinds[FIRST + i] for i, _ in live.states]
        self.states, self.singles = [], []
        for kind in self.kinds:
            if kind is Kind.TENSOR:
                self.states.append([torch.zeros_like(p, dtype=state_dtype or dtype) for p in self.params])
            else:
                self.singles.append([p.new_zeros((), dtype=state_dtype or dtype) for p in self.params])

    def numbers(self, t: float = 1, schedule: float = 1.0, progress: float = 0.0) -> dict[str, object]:
        hypers = {f"h{self.program.first_hyper + i}": x for i, x in enumerate(self.program.hypers)}
        return {"lr": self.program.peak * schedule, "t": t, "progress": progress, **hypers}

    def step(self, g: Sequence[np.ndarray], numbers=None, which=slice(None), steps=None, **more) -> None:
        grads = [torch.tensor(x).to(self.dtype) for x in g]
        before = [x.clone() for x in grads]
        states, singles = ([each[which] for each in group] for group in (self.states, self.singles))
        step_of(self.program)(self.params[which], grads[which], states, singles, steps, numbers, **more)
        torch.testing.assert_close(grads, before, rtol=0, atol=0, equal_nan=True)  # they stay

    def shown(self) -> list[torch.Tensor]:
        return [*self.params, *itertools.chain(*self.states, *self.singles)]


def arrays(seed: int, shapes=SIZES) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [np.asarray(random.standard_normal(s)) for s in shapes]


def near(run: Run, w: Sequence[np.ndarray], rtol: float, atol: float | None = None) -> None:
    for got, wanted in zip(run.params, w, strict=True):
        np.testing.assert_allclose(got.double().numpy(), wanted, rtol=rtol, atol=rtol if atol is None else atol)


# --- rows and random programs -----------------------------------------------------------------------------


def by_row(name: str) -> Program:
    args = {1: "g", 2: "w, g", 3: "w, g, h"}[OPS[name].arity]
    return Program.parse(f"def f(w, g, m, lr=1.0, h=0.25):\n return lr * m, {name}({args})")


@pytest.mark.parametrize(
    "name", [n for n, row in OPS.items() if row.elementwise and row.arity and row.c and n != "identity"]
)
def test_row(name):
    """Each elementwise row at ordinary and at special numbers."""
    grid = np.array(
        list(itertools.product(SPECIAL, SPECIAL) if OPS[name].arity > 1 else zip(SPECIAL, SPECIAL, strict=True))
    )
    run, truth = Run(by_row(name), [grid[:, 0]]), Interpreter(by_row(name), [grid[:, 0].shape])
    run.step([grid[:, 1]], run.numbers())
    truth.step([grid[:, 0]], [grid[:, 1]])
    np.testing.assert_allclose(run.states[0][0].numpy(), truth.states[0][0], rtol=4e-16 * 8, atol=1e-300)


@pytest.mark.parametrize(
    "name", [n for n, row in OPS.items() if row.elementwise and row.arity and row.c and n != "identity"]
)
def test_row_of_numbers_per_tensor(name):
    args = {1: "sum(g)", 2: "sum(w), sum(g)", 3: "sum(w), sum(g), h"}[OPS[name].arity]
    program = Program.parse(f"def f(w, g, n: scalar, lr=1.0, h=0.25):\n return lr * n * g, {name}({args})")
    w, g = ([np.array([x]) for x in [*numbers, np.nan]] for numbers in (NUMBERS[::2], NUMBERS[::-2]))
    run, truth = Run(program, w), Interpreter(program, [(1,)] * len(w))
    run.step(g, run.numbers())
    truth.step(w, g)
    got = np.array([x.item() for x in run.singles[0]])
    np.testing.assert_allclose(got, np.array(truth.states[0], np.float64), rtol=4e-16 * 8, atol=1e-300)


@pytest.mark.parametrize("special", [None, np.nan, -np.inf])
@pytest.mark.parametrize("name", ["norm", "global_norm", "dot", "mean", "sum", "rms", "amax", "std", "size"])
def test_reduction(name, special):
    program = Program.parse(f"def f(w, g, m, lr=1.0):\n return lr * m, {name}({'w, g' if name == 'dot' else 'g'})")
    shapes = [(1,), (1000,), (4097,), (2048,)]
    w, g = arrays(1, shapes), arrays(2, shapes)
    if special is not None:
        g[2][4096] = special  # alone in the last chunk
    run, truth = Run(program, w), Interpreter(program, shapes)
    for _ in range(2):  # counters are ready again
        run.step(g, run.numbers())
        truth.step(w, g)
    got, wanted = flat([x.numpy() for x in run.states[0]]), flat(truth.states[0])
    np.testing.assert_allclose(got, wanted, rtol=1e-13)


@pytest.mark.chunks(2, 2)
def test_random_programs(chunk):
    programs = [p for p in _random_programs(1200)[10::20] if fusable(p)][chunk]
    excused = 0
    for program in programs:
        run, rows = Run(program, STEPS[0].w), []
        for s in STEPS:
            for p, w in zip(run.params, s.w, strict=True):
                p.copy_(torch.tensor(w))
            run.step(s.g, run.numbers(s.t, s.schedule, s.progress))
            rows += [p.numpy().copy() for p in run.params]
        tensor, single = iter(run.states), iter(run.singles)
        rows += itertools.chain(*(
            next(tensor) if kind is Kind.TENSOR else next(single)[: 1 if kind is Kind.GLOBAL else None]
            for kind in run.kinds
        ))  # fmt: skip
        got = flat([np.asarray(x) for x in rows])
        verdict = compare(program, got, weights_after, run_numpy(program))
        assert not verdict.wrong.any(), f"{program}\n{np.flatnonzero(verdict.wrong)[:3]}"
        excused += verdict.excused
    assert len(programs) > 20 and excused < 0.003 * len(programs) * 3 * sum(np.prod(s, dtype=int) for s in SHAPES)


# --- the zoo ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FUSABLE)
def test_rule(name):
    """Ten steps on tensors of odd sizes, in double and in single precision."""
    program, w = FUSABLE[name], arrays(0)
    truth, double, single = Interpreter(program, SIZES), Run(program, w), Run(program, w, torch.float32)
    for t in range(1, 11):
        g = arrays(t)
        double.step(g, double.numbers(t, 1 / t, t / 10))
        w = [x - u for x, u in zip(w, truth.step(w, g, 1 / t, t, t / 10), strict=True)]
        moved = max(np.abs(x - y).max() for x, y in zip(w, arrays(0), strict=True))
        if t <= 3:
            single.step(g, single.numbers(t, 1 / t, t / 10))
            near(single, w, 5e-7, 1e-6 * moved)  # sums and roundings of three steps
    near(double, w, 1e-9)
    assert moved > 1e-6


def test_nothing_to_do():
    step_of(load("c_adamw"))([], [], [[], []], [], None, {})
    run = Run(load("c_adamw"), [np.zeros((0, 3))])
    run.step([np.zeros((0, 3))], run.numbers())


@pytest.mark.parametrize("state_dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", ["adamw", "c_lion"])
def test_bfloat16_parameters(name, state_dtype):
    """What is stored is the float32 result, rounded; float32 states keep all of it."""
    program = load(name)
    low = Run(program, arrays(0), torch.bfloat16, state_dtype)
    high = Run(program, [p.float().numpy() for p in low.params], torch.float32)
    g = [torch.tensor(x).bfloat16().float().numpy() for x in arrays(1)]
    before = [p.clone() for p in low.params]
    for run in (low, high):
        run.step(g, run.numbers(1, 1000.0))
    assert {p.dtype for p in low.params} == {torch.bfloat16} and not torch.equal(before[3], low.params[3])
    for got, wanted in zip(low.shown(), high.shown(), strict=True):
        tolerance = 0 if got.dtype is torch.float32 else 2**-7
        torch.testing.assert_close(got.float(), wanted, rtol=tolerance, atol=1e-30)


# --- the call ---------------------------------------------------------------------------------------------


def both(name: str, change: Callable[[Run, list[np.ndarray], int], None], plain=None, steps: int = 2) -> None:
    """Two ways of stepping that must agree to the bit."""
    one, other = (Run(load(name), arrays(0, SHORT)) for _ in range(2))
    for t in range(1, steps + 1):
        g = arrays(t, SHORT)
        change(one, g, t)
        (plain or (lambda run, g, t: run.step(g, run.numbers(t))))(other, g, t)
    for x, y in zip(one.shown(), other.shown(), strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("name", ["lion", "c_adamw", "stable_spam"])
def test_maximize(name):
    both(name, lambda run, g, t: run.step([-x for x in g], run.numbers(t), maximize=True))


@pytest.mark.parametrize("name", ["lion", "c_adamw"])
def test_gradients_are_unscaled(name):
    scale = torch.tensor(1024.0)
    both(name, lambda run, g, t: run.step([1024 * x for x in g], run.numbers(t), grad_scale=scale))


@pytest.mark.parametrize("name", ["adamw", "c_adamw", "nadam", "stable_spam"])
def test_nothing_is_written_where_found_inf_says_so(name):
    def change(run, g, t):
        run.step([np.full_like(x, np.inf) for x in g], run.numbers(t), found_inf=torch.tensor(1.0))
        run.step(g, run.numbers(t), found_inf=torch.tensor(0.0))

    both(name, change)


@pytest.mark.parametrize("name", ["lion", "c_adamw", "nadam", "sgd_sai"])
def test_numbers_as_tensors(name):
    """All of them, some of them, and counts that are read on the device; nothing is rounded on the way."""

    def change(run, g, t):
        numbers = run.numbers(t)
        some = {k: torch.tensor(x, dtype=torch.float64) for k, x in numbers.items() if t != 2 or k == "lr"}
        counts = [torch.tensor(float(t)) for _ in g]
        numbers |= {k: x.reshape(1) for k, x in some.items()} if t == 1 else some
        if t == 3:
            del numbers["t"]
        run.step(g, numbers, steps=counts)

    one, other = (Run(load(name), arrays(0, SHORT)) for _ in range(2))
    for t in (1, 2, 3):
        change(one, arrays(t, SHORT), t)
        other.step(arrays(t, SHORT), other.numbers(t))
    near(one, [p.numpy() for p in other.params], 1e-14)


def test_counts_may_differ_from_tensor_to_tensor():
    run, g, counts = Run(load("adamw"), arrays(0)), arrays(1), [1, 2, 30, 4, 5]
    numbers = run.numbers()
    del numbers["t"]
    run.step(g, numbers, steps=[torch.tensor(float(t)) for t in counts])
    for i, t in enumerate(counts):
        alone = Run(load("adamw"), arrays(0)[i : i + 1])
        alone.step(g[i : i + 1], alone.numbers(t))
        near(alone, [run.params[i].numpy()], 1e-14)


@pytest.mark.parametrize("name", ["adamw", "c_lion"])
def test_a_step_without_some_gradients(name):
    """Other lists of the same tensors; reductions of these rules are per tensor."""

    def change(run, g, t):
        run.step(g, run.numbers(t), which=slice(0, 1))
        run.step(g, run.numbers(t), which=slice(1, 2))

    both(name, change)


def test_tensors_that_are_not_aligned():
    """A view that begins in the middle of 16 bytes."""
    run, base = Run(load("adamw"), [np.zeros(4100)]), torch.zeros(4101, dtype=torch.float64)
    other = Run(load("adamw"), [np.zeros(4100)])
    run.params[0] = base[1:]
    g = [np.random.default_rng(0).standard_normal(4100)]
    for each in (run, other):
        each.step(g, each.numbers())
    assert torch.equal(run.params[0], other.params[0]) and base[0] == 0 and base[1] != 0


def test_memory_that_is_used_again():
    """A tensor of another size at the address of one that went."""
    memory = torch.zeros(5000, dtype=torch.float64)
    for size in (5000, 17, 4096):
        run = Run(load("signsgd"), [np.zeros(size)])
        run.params[0] = memory[:size].zero_()
        run.step([np.ones(size)], run.numbers())
        assert (memory[:size] == -run.program.peak).all()


def test_a_parameter_that_a_graph_saved_is_known_to_have_changed():
    x = torch.ones(3, dtype=torch.float64, requires_grad=True)
    loss = (x * x).sum()
    step_of(load("sgd"))([x.detach()], [torch.ones(3, dtype=torch.float64)], [], [], None, {"lr": 0.1})
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize(
    "name", ["table", "to_m", "tl", "real", "lambda", "tensor", "_row", "t0", "w_type", "_quotient"]
)
def test_any_name_can_be_spelled(name):
    text = f"def f(w, g, {name}, lr=0.1, h_{name}=2.0, t):\n u_{name} = g / (h_{name} * t)\n"
    text += f" {name} = interp(u_{name}, {name}, h_{name})\n return lr * {name}, {name}"
    program = Program.parse(text)
    run, truth = Run(program, arrays(0)), Interpreter(program, SIZES)
    run.step(arrays(1), run.numbers(3))
    near(run, [x - u for x, u in zip(arrays(0), truth.step(arrays(0), arrays(1), 1.0, 3), strict=True)], 1e-14)


def test_launches(monkeypatch):
    """One launch for an elementwise rule, two with one level of reductions, whatever the number of tensors."""
    from triton.runtime.interpreter import GridExecutor

    launches = []
    run_grid = GridExecutor.__call__
    monkeypatch.setattr(GridExecutor, "__call__", lambda self, *a, **k: launches.append(1) or run_grid(self, *a, **k))
    for name, expected in (("lion", 1), ("adamw", 1), ("nadam", 1), ("c_adamw", 2), ("adamw_clip", 2)):
        launches.clear()
        run = Run(load(name), arrays(0, [(2,)] * 20))
        run.step(arrays(1, [(2,)] * 20), run.numbers())
        assert len(launches) == expected, name
