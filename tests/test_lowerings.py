"""Every lowering means what the numpy interpreter means, on thousands of random programs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest
import torch

from stepsmith.dsl import Kind, Program
from stepsmith.dsl.compiled_engine import CompiledEngine
from stepsmith.dsl.interpret import Interpreter
from stepsmith.dsl.to_population import PopulationStep
from stepsmith.dsl.to_torch import compile_step, zero_states
from stepsmith.dsl.torch_engine import TorchEngine

SHAPES = ((3, 2), (), (1100,))  # one 0-d tensor, one longer than a tile of the C engine
EQUAL = 1e-11  # relative difference that needs no excuse
ULPS = 8 * 2.0**-53  # how much an intermediate value is disturbed to learn how well conditioned a result is
EXCUSE = 100.0  # a difference may be this many times the spread under disturbance
ILL = 1e-3  # a relative spread beyond which nothing can be compared


class Step(NamedTuple):
    w: list[np.ndarray]
    g: list[np.ndarray]
    schedule: float
    t: int
    progress: float


def make_steps(shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[Step]:
    """Weights of ordinary size, tiny, and zero, so that w - update shows the update to the last bit."""
    random = np.random.default_rng(5)
    steps = []
    for number, (of_w, of_g) in enumerate([(1.0, 1.0), (1e-9, 0.1), (0.0, 30.0)]):
        w = [np.asarray(of_w * random.standard_normal(s)) for s in shapes]
        g = [np.asarray(of_g * random.standard_normal(s)) for s in shapes]
        for x in [*w, *g]:
            if x.ndim:
                x.reshape(-1)[number::5] = 0.0
        steps.append(Step(w, g, (1.0, 0.5, 0.25)[number], (1, 2, 700)[number], (0.1, 0.2, 0.9)[number]))
    return steps


STEPS = make_steps()


def flat(tensors: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in tensors])


def states_flat(runner: Interpreter) -> np.ndarray:
    parts = [np.zeros(0)]
    for _, state in sorted(runner.states.items()):
        parts.append(flat(state if isinstance(state, list) else [state]))
    return np.concatenate(parts)


def run_numpy(program: Program, disturb=None, steps=STEPS, shapes=SHAPES) -> np.ndarray:
    """All updates, then all live states at the end, as one vector."""
    runner = Interpreter(program, shapes, disturb)
    updates = [flat(runner.step(*step)) for step in steps]
    return np.concatenate([*updates, states_flat(runner)])


def disturbance(seed: int):
    random = np.random.default_rng(seed)

    def one(x):
        x = np.asarray(x)
        return x * (1 + ULPS * random.uniform(-1, 1, x.shape))

    return lambda value: [one(x) for x in value] if isinstance(value, list) else one(value)


class Verdict(NamedTuple):
    wrong: np.ndarray  # elements whose difference has no excuse
    excused: int  # elements that differ and are too ill conditioned to compare


HUGE = 1e300  # beyond it one lowering may overflow and another not


def gap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|a - b|, 0 where both are NaN or the same infinity, Inf where only one is finite."""
    with np.errstate(all="ignore"):
        same = (a == b) | (np.isnan(a) & np.isnan(b)) | (np.minimum(np.abs(a), np.abs(b)) > HUGE) & (a * b > 0)
        return np.where(same, 0.0, np.where(np.isfinite(a) & np.isfinite(b), np.abs(a - b), np.inf))


def meets_a_limit(program: Program) -> bool:
    """Whether a value is so large or small that one lowering may overflow or flush to 0 and another not."""
    met = []

    def look(value):
        for x in value if isinstance(value, list) else [value]:
            size = np.abs(np.asarray(x))
            met.append(bool((size[np.isfinite(size)] > HUGE).any() or ((size > 0) & (size < 1 / HUGE)).any()))
        return value

    run_numpy(program, look)
    return any(met)


def compare(program: Program, got: np.ndarray, view=lambda values: values, truth=None) -> Verdict:
    """Where a lowering differs from the interpreter by more than rounding and ill conditioning excuse.

    `view` turns the interpreter's values (`truth`, if they are known) into what the lowering shows.
    """
    with np.errstate(all="ignore"):
        truth = view(run_numpy(program) if truth is None else truth)
        difference = gap(truth, got)
        suspect = difference > EQUAL * np.abs(truth)
        if not suspect.any():
            return Verdict(suspect, 0)
        spread = np.zeros_like(truth)
        for seed in range(30):
            spread = np.maximum(spread, gap(truth, view(run_numpy(program, disturbance(seed)))))
        ill = (spread > ILL * np.abs(truth)) | meets_a_limit(program)
        return Verdict(suspect & ~ill & (difference > EXCUSE * spread), int((suspect & ill).sum()))


def tensors(arrays: Sequence[np.ndarray], dtype=torch.float64) -> list[torch.Tensor]:
    return [torch.tensor(x, dtype=dtype) for x in arrays]


def run_torch(program: Program) -> np.ndarray:
    step, states, updates = compile_step(program), zero_states(program, tensors(STEPS[0].w)), []
    for s in STEPS:
        update, states = step(tensors(s.w), tensors(s.g), states, s.schedule, s.t, s.progress)
        assert all(u.shape == torch.Size(shape) for u, shape in zip(update, SHAPES, strict=True))
        updates.append(flat([u.numpy() for u in update]))
    live = Interpreter(program, SHAPES).states
    ends = [flat([x.numpy() for x in (s if isinstance(s, list) else [s])]) for i, s in enumerate(states) if i in live]
    return np.concatenate([*updates, *ends])


WEIGHTS = np.concatenate([flat(s.w) for s in STEPS])


def weights_after(values: np.ndarray) -> np.ndarray:
    """What a population shows of the interpreter's values: w - update, then the states."""
    return np.concatenate([WEIGHTS - values[: WEIGHTS.size], values[WEIGHTS.size :]])


def run_population(programs: Sequence[Program], engine: str, dtype=torch.float64) -> list[np.ndarray]:
    """Weights after each step (each from the step's own weights) and live states, for every program."""

    def copies(arrays):
        return [torch.tensor(np.stack([x] * len(programs)), dtype=dtype) for x in arrays]

    runner = PopulationStep(programs, copies(STEPS[0].w), engine=engine)
    (only,) = runner.engines
    assert isinstance(only, TorchEngine) == (engine == "torch"), "needs a C compiler"
    rows: list[list[np.ndarray]] = [[] for _ in programs]
    for s in STEPS:
        w = copies(s.w)
        runner.step(w, copies(s.g), s.schedule, s.t, s.progress)
        for i, row in enumerate(rows):
            row.append(flat([x[i].numpy() for x in w]))
    for i, (program, row) in enumerate(zip(programs, rows, strict=True)):
        for state in sorted(Interpreter(program, SHAPES).states):
            row.append(population_state(only, i, state, program.states[state].kind))
    return [np.concatenate(row) for row in rows]


def population_state(
    engine: CompiledEngine | TorchEngine, program: int, state: int, kind: Kind, shapes=SHAPES
) -> np.ndarray:
    if isinstance(engine, TorchEngine):
        value = engine.states[program][state]
        return flat([x.numpy() for x in (value if isinstance(value, list) else [value])])
    if kind is Kind.TENSOR:
        each = len(shapes)
        return flat([s[program].numpy() for s in engine.states[state * each : (state + 1) * each]])
    if kind is Kind.SCALAR:
        return np.asarray(engine.arrays["scalar_states"][program, state], np.float64)
    return np.asarray([engine.arrays["global_states"][program, state]], np.float64)


# --- the claims -------------------------------------------------------------------------------------------


@pytest.mark.chunks(20, 5)
def test_lowerings_agree_with_the_interpreter(random_programs, chunk):
    """Torch and the population engine, on all the random programs; no excuse for more than a few elements."""
    programs = random_programs[chunk]
    elements = excused = 0
    for start in range(0, len(programs), 50):
        some = programs[start : start + 50]
        for program, weights in zip(some, run_population(some, "c"), strict=True):
            truth = run_numpy(program)
            for got, view in ((run_torch(program), lambda values: values), (weights, weights_after)):
                verdict = compare(program, got, view, truth)
                where = np.flatnonzero(verdict.wrong)[:3]
                assert not where.size, f"{program}\n{view(truth)[where]} is {got[where]}"
                elements, excused = elements + got.size, excused + verdict.excused
    print(f"{len(programs)} programs, {elements} values, {excused / elements:.2%} excused as ill conditioned")
    assert excused < 0.003 * elements


def test_programs_one_by_one_through_torch_agree_with_the_interpreter(random_programs):
    programs = random_programs[7::400]
    for program, got in zip(programs, run_population(programs, "torch"), strict=True):
        assert not compare(program, got, weights_after).wrong.any(), str(program)


def test_a_population_is_its_programs_bit_for_bit(random_programs):
    programs = random_programs[3::250]
    together = run_population(programs, "c")
    for program, expected in zip(programs, together, strict=True):
        (alone,) = run_population([program], "c")
        assert alone.tobytes() == expected.tobytes(), str(program)


def test_a_wrong_lowering_would_be_seen(random_programs):
    """A relative fault of 1e-7, as of a float32 somewhere on the way, is no rounding."""
    seen = 0
    for program in random_programs[::100]:
        truth = run_numpy(program)
        seen += bool(compare(program, truth * (1 + 1e-7)).wrong.any())
    assert seen > 170  # the others are all zero or NaN, or meet the limits of floats


@pytest.mark.parametrize("name", ["adamw", "program4", "lion", "sgd", "adam", "cautious", "counted"])
def test_single_precision_stays_near(starts, name):
    truth = run_numpy(starts[name])
    (c,), (one_by_one,) = (run_population([starts[name]], e, torch.float32) for e in ("c", "torch"))
    for got in (c, one_by_one):
        assert np.allclose(got, weights_after(truth), rtol=2e-4, atol=1e-5, equal_nan=True)


def test_a_0d_parameter_keeps_its_type(starts):
    for program in starts.values():
        params = [torch.ones((), dtype=torch.float32), torch.ones(3, dtype=torch.float32)]
        step, states = compile_step(program), zero_states(program, params)
        update, states = step(params, params, states, 0.1, 1, 0.0)
        kept = [x for s, of in zip(states, program.states, strict=True) if of.kind is Kind.TENSOR for x in s]
        assert {x.dtype for x in [*update, *kept]} == {torch.float32}


@pytest.mark.parametrize("engine", ["c", "torch"])
def test_a_state_that_keeps_w_or_g_keeps_it_when_they_are_overwritten(engine):
    program = Program.parse("def f(w, g, before, last, lr):\n return lr * (w - before) + last, w, g")
    w, g = [torch.ones(1, 2, dtype=torch.float64)], [torch.full((1, 2), 8.0, dtype=torch.float64)]
    runner = PopulationStep([program], w, engine=engine)
    seen = []
    for _ in range(3):
        runner.step(w, g)
        seen.append(w[0][0, 0].item())
        g[0] *= 0.5
    assert seen == [0.0, -7.0, -4.0]


def test_any_name_can_be_spelled_in_torch():
    names = ["len", "sum", "zip", "torch", "math", "lambda", "None", "class", "params", "grads", "x", "dtype",
             "_divide", "states", "step", "self", "t0", "t1", "_", "__name__", "range", "exec", "if"]  # fmt: skip
    for name in names:
        text = f"def {name}(w, g, {name}, lr=0.1, h{name}=2.0):\n u_{name} = {name} / (g + h{name})\n"
        text += f" {name} = interp(u_{name}, g, norm(w))\n return lr * {name}, {name}"
        program = Program.parse(text)
        assert not compare(program, run_torch(program)).wrong.any()


def test_the_schedule_may_differ_from_program_to_program(starts):
    sgd = starts["sgd"]
    w, g = [torch.zeros(2, 3)], [torch.ones(2, 3)]
    PopulationStep([sgd, sgd], w).step(w, g, np.array([1.0, 0.5]))
    assert torch.allclose(w[0], torch.tensor([[-0.1], [-0.05]]).expand(2, 3))


@pytest.mark.parametrize("wrong", [torch.zeros(3, 4), torch.zeros(4, 2).T])
def test_parameters_of_another_population_are_refused(starts, wrong):
    with pytest.raises(ValueError, match=r"need contiguous \(2, \.\.\.\)"):
        PopulationStep([starts["sgd"]] * 2, [wrong])


WITHOUT_COMPILER = """
import logging, sys, torch
logging.basicConfig(stream=sys.stderr, format="%(message)s")
from stepsmith.dsl import Program
from stepsmith.dsl.to_population import PopulationStep
from stepsmith.dsl.torch_engine import TorchEngine
program = Program.parse(sys.argv[1])
w = [torch.arange(6.0, dtype=torch.float64).reshape(2, 3)]
for _ in range(2):
    steps = PopulationStep([program] * 2, w)
    for t in range(1, 4):
        steps.step(w, [torch.cos(w[0] + t)], 0.5, t)
print(type(steps.engines[0]).__name__, *w[0].reshape(-1).tolist())
"""


def test_without_a_compiler_programs_run_through_torch_after_one_notice(starts, tmp_path):
    def run(**extra: str) -> tuple[str, list[float], str]:
        environment = {**os.environ, "STEPSMITH_CACHE": str(tmp_path / "empty"), **extra}
        command = [sys.executable, "-c", WITHOUT_COMPILER, str(starts["lion"])]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        engine, *numbers = done.stdout.split()
        return engine, [float(x) for x in numbers], done.stderr

    engine, numbers, notice = run(CC="/nonexistent")
    assert engine == "TorchEngine"
    assert notice.count("\n") == 1 and "/nonexistent" in notice and "through torch" in notice
    compiled, same, quiet = run()
    assert compiled == "CEngine" and quiet == ""
    assert numbers == pytest.approx(same, rel=1e-14)
