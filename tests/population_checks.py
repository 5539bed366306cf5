"""What the Triton engine of populations does, under Triton's interpreter; test_triton.py runs this in a process."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parent))

from conftest import STARTS, _random_programs
from test_lowerings import SHAPES, compare, flat, population_state, run_numpy, run_population, weights_after
from test_rows import SPECIAL
from triton_checks import FUSABLE, arrays

from stepsmith.dsl import OPS, Kind, Program
from stepsmith.dsl.interpret import Interpreter
from stepsmith.dsl.passes import fusable
from stepsmith.dsl.to_population import PopulationStep
from stepsmith.dsl.to_triton import interpret_libdevice

interpret_libdevice()

ROWS = [name for name, row in OPS.items() if row.elementwise and row.c and name != "identity"]
REDUCTIONS = [name for name, row in OPS.items() if not row.elementwise and row.c]
GRID = np.array(list(itertools.product(SPECIAL, SPECIAL)))
OF = 8 * 4e-16


def population(arrays: Sequence[np.ndarray], count: int, dtype=torch.float64) -> list[torch.Tensor]:
    return [torch.tensor(np.stack([x] * count), dtype=dtype) for x in arrays]


def same_states(programs: Sequence[Program], w, g, steps: int, rtol: float) -> None:
    """All states, of a population against the interpreter; w and g stay."""
    shapes = [x.shape for x in w]
    runner = PopulationStep(programs, population(w, len(programs)), engine="triton")
    truths = [Interpreter(program, shapes) for program in programs]
    for t in range(1, steps + 1):
        runner.step(population(w, len(programs)), population(g, len(programs)), 1.0, t)
        for truth in truths:
            truth.step(w, g, 1.0, t)
    (engine,) = runner.engines
    for i, (program, truth) in enumerate(zip(programs, truths, strict=True)):
        for state, wanted in truth.states.items():
            got = population_state(engine, i, state, program.states[state].kind, shapes)
            wanted = flat(wanted if isinstance(wanted, list) else [wanted])
            np.testing.assert_allclose(got, wanted, rtol=rtol, atol=1e-300, err_msg=str(program))


def by_row(name: str) -> Program:
    """A row on tensors, on a number per tensor, and on single numbers."""
    each = [("g", "w", "h"), ("amax(g)", "amax(w)", "h"), ("h", "lr", "k")]
    tensor, scalar, single = (f"{name}({', '.join(args[: OPS[name].arity])})" for args in each)
    states = f"{tensor} + 0 * g, {scalar} + 0 * amax(g), {single}" if not OPS[name].arity else ", ".join(
        (tensor, scalar, single)
    )  # fmt: skip
    return Program.parse(f"def f(w, g, m, n: scalar, k: global, lr=1.0, h=0.25):\n return lr * (m + n + k), {states}")


def test_rows():
    """Each elementwise row at special numbers, below and above a tile, all side by side."""
    w, g = ([GRID[:, i], *arrays(i, [(1,), (1100,)])] for i in (0, 1))
    w[0], g[0] = np.where(np.isfinite(GRID[:, 0]), GRID[:, 0], 0), GRID[:, 1]
    same_states([by_row(name) for name in ROWS], w, g, 1, OF)


@pytest.mark.parametrize("special", [None, np.nan, -np.inf])
def test_reductions(special):
    """Per tensor and over all; what is special stands alone in a second tile."""
    w, g = arrays(1, [(1,), (1100,), (1024,)]), arrays(2, [(1,), (1100,), (1024,)])
    if special is not None:
        g[1][1050] = special
    programs = [
        Program.parse(
            f"def f(w, g, m: {'global' if OPS[name].result is Kind.GLOBAL else 'scalar'}, lr=1.0):\n"
            f" return lr * m * g, {name}({'w, g' if OPS[name].arity == 2 else 'g'}) + m / 2"
        )
        for name in REDUCTIONS
    ]
    same_states(programs, w, g, 2 if special is None else 1, 1e-13)


def agree(programs: Sequence[Program]) -> None:
    excused = 0
    for program, got in zip(programs, run_population(programs, "triton"), strict=True):
        verdict = compare(program, got, weights_after, run_numpy(program))
        assert not verdict.wrong.any(), f"{program}\n{np.flatnonzero(verdict.wrong)[:3]}"
        excused += verdict.excused
    assert excused < 0.003 * len(programs) * 3 * sum(np.prod(s, dtype=int) for s in SHAPES)


def test_states_of_all_kinds():
    """Start programs, numbers that change places, and levels of reductions."""
    swaps = "def f(w, g, a: scalar, b: scalar, c: global, d: global, lr):\n return lr * (a + c) * g, b + 1, a, d + 2, c"
    levels = (
        "def f(w, g, m, lr):\n x = g / rms(g)\n y = x - mean(x)\n m = m + clip(y, 1.0) * norm(y)\n return lr * m, m"
    )
    keeps = "def f(w, g, before, last, lr):\n return lr * (w - before) + last, w, g"
    agree([Program.parse(text) for text in (*STARTS.values(), swaps, levels, keeps)])


def test_random_programs():
    agree([p for p in _random_programs(1200)[5::120] if fusable(p)])


def test_a_population_is_its_programs_bit_for_bit():
    programs = [Program.parse(STARTS[name]) for name in ("counted", "lion")]
    for program, expected in zip(programs, run_population(programs, "triton"), strict=True):
        (alone,) = run_population([program], "triton")
        assert alone.tobytes() == expected.tobytes(), program.name


def test_rules_in_single_precision():
    """Rules of the zoo as the C engine steps them."""
    programs = list(FUSABLE.values())[::4]
    for c, triton in zip(*(run_population(programs, e, torch.float32) for e in ("c", "triton")), strict=True):
        np.testing.assert_allclose(triton, c, rtol=2e-6, atol=1e-7)


def test_a_launch_reads_numbers_that_were_written_since():
    """As a replayed graph does: the tables stay, the numbers are others."""
    rule = FUSABLE["adamw"]
    w, other = (population(arrays(0, SHAPES), 2) for _ in range(2))
    g = population(arrays(1, SHAPES), 2)
    one, two = (PopulationStep([rule, rule.with_lr(0.5)], w, engine="triton") for _ in range(2))
    (engine,) = one.engines
    for t, schedule in ((1, 1.0), (2, np.array([0.5, 0.1])), (700, 0.0)):
        one.write_numbers(schedule, t, t / 700)
        one.launch(w, g)
        if t == 1:
            engine._places = None  # not called again
        two.step(other, g, schedule, t, t / 700)
    assert all(torch.equal(x, y) for x, y in zip(w, other, strict=True))
