"""The section `population` of gpu.py: the kernel that interprets all programs, and training with it.

Every row against numpy on the card; losses of a short training against the CPU's; programs an hour on the first two
stages of a search, with tables and graphs made anew as for each job; the update's share of a step.
"""

from __future__ import annotations

import itertools
from time import perf_counter

import numpy as np
import torch
from gpu import device_seconds, graph_of
from measure import Check, Report

from stepsmith.discovered import load
from stepsmith.dsl import OPS, Kind, Program
from stepsmith.dsl.interpret import Interpreter
from stepsmith.dsl.to_population import PopulationStep
from stepsmith.evaluator.gradients import Gradients
from stepsmith.evaluator.memory import largest_population
from stepsmith.evaluator.train import train
from stepsmith.proxies import stack, task
from stepsmith.search.config import DEFAULT_STAGES
from stepsmith.search.mutate import Mutator

DEVICE = "cuda"
# Finite ones have few bits, so that remainders are exact in both precisions.
NUMBERS = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -3.0, 0.375, 2.0**-30, 700.0, -700.0, np.inf, -np.inf, np.nan]
BARS = {torch.float64: 1e-13, torch.float32: 1e-5}  # relative, beside numpy's float64
RULES = ("sgd", "adamw", "lion", "c_adamw", "adamw_clip", "nadam")
STAGES = DEFAULT_STAGES[:2]
MOST = 8192  # programs; beyond it all processors are busy many times over
DISTINCT = 2048


def measure(cpu_per_hour: float | None = None) -> Report:
    """All parts; `cpu_per_hour` is what two CPU cores do of the same stages, where it was measured."""
    report = Report(("what", "value", "unit"))
    _rows(report)
    _losses(report)
    programs = mutants(DISTINCT)
    copies = min(MOST, *(largest_population(task(s.tasks[0]), programs, DEVICE) for s in STAGES))
    population = list(itertools.islice(itertools.cycle(programs), copies))
    report.rows.append(("P chosen by memory", copies, "programs"))
    per_hour = _throughput(report, population)
    _share(report, population)
    if cpu_per_hour:
        report.checks.append(Check("times two CPU cores", per_hour / cpu_per_hour, 50, at_least=True))
    else:
        report.notes.append("two CPU cores: no number was given (--cpu-per-hour)")
    return report


def mutants(count: int) -> list[Program]:
    """Children of AdamW, four edits away."""
    mutator, random = Mutator("elementwise"), np.random.Generator(np.random.Philox(key=0))
    found = []
    for _ in range(count):
        program = load("adamw")
        for _ in range(4):
            program, _ = mutator.mutate(program, random)
        found.append(program)
    return found


# --- every row on the card ------------------------------------------------------------------------------------


def _row_programs() -> dict[str, Program]:
    """Each elementwise row on tensors, numbers per tensor and single numbers; each reduction."""
    found = {}
    for name, row in OPS.items():
        if not row.c or name == "identity":
            continue
        if row.elementwise and row.arity:
            each = (("g", "w", "h"), ("amax(g)", "amax(w)", "h"), ("h", "lr", "h"))
            states = ", ".join(f"{name}({', '.join(args[: row.arity])})" for args in each)
            head = "m, n: scalar, k: global"
        elif row.elementwise:
            states, head = f"{name}() + 0 * w", "m"
        else:
            head = f"m: {'global' if row.result is Kind.GLOBAL else 'scalar'}"
            states = f"{name}({'w, w' if row.arity == 2 else 'w'})"
        found[name] = Program.parse(f"def f(w, g, {head}, lr=1.0, h=0.25):\n return lr * m * w, {states}")
    return found


def _rows(report: Report) -> None:
    """The largest relative error of each row's states, in both precisions."""
    programs, grid = _row_programs(), np.array(list(itertools.product(NUMBERS, NUMBERS)))
    random = np.random.default_rng(0)
    w, g = ([grid[:, i], *(random.integers(-256, 256, s) / 64 for s in (1, 1100, 5000))] for i in (0, 1))
    w[0] = np.nan_to_num(w[0], posinf=0, neginf=0)
    for dtype, bar in BARS.items():
        rounded = [[torch.tensor(x, dtype=dtype) for x in some] for some in (w, g)]
        ours, slopes = ([x.to(DEVICE).expand(len(programs), -1).contiguous() for x in some] for some in rounded)
        runner = PopulationStep(list(programs.values()), ours)
        runner.step(ours, slopes)
        for place, (name, program) in enumerate(programs.items()):
            truth = Interpreter(program, [x.shape for x in w])
            truth.step(*([x.double().numpy() for x in some] for some in rounded))
            error = max(
                _error(_state(runner, place, i, program.states[i].kind, len(w)), value)
                for i, value in truth.states.items()
            )
            kind = str(dtype).removeprefix("torch.")
            report.rows.append((f"{name}, {kind}", error, "relative error"))
            report.checks.append(Check(f"{name}, {kind}", error, bar))


def _state(runner: PopulationStep, place: int, state: int, kind: Kind, tensors: int) -> np.ndarray:
    (engine,) = runner.engines
    if kind is Kind.TENSOR:
        parts = [s[place] for s in engine.states[state * tensors : (state + 1) * tensors]]
    else:
        parts = [engine.arrays["scalar_states" if kind is Kind.SCALAR else "global_states"][place, state]]
    return np.concatenate([torch.as_tensor(x).double().cpu().reshape(-1).numpy() for x in parts])


def _error(got: np.ndarray, wanted: object) -> float:
    """Infinite where one is NaN or infinite and the other is not."""
    truth = np.concatenate([np.ravel(x) for x in (wanted if isinstance(wanted, list) else [wanted])])
    with np.errstate(all="ignore"):
        truth = np.where(np.abs(truth) > np.finfo(np.float32).max, np.sign(truth) * np.inf, truth)
        got = np.where(np.abs(got) > np.finfo(np.float32).max, np.sign(got) * np.inf, got)
        same = (got == truth) | (np.isnan(got) & np.isnan(truth))
        error = np.abs(got - truth) / np.maximum(np.abs(truth), 1e-30)
    return float(np.max(np.where(same, 0, np.where(np.isfinite(error), error, np.inf))))


# --- training -------------------------------------------------------------------------------------------------


def _losses(report: Report) -> None:
    """Twenty steps on the card and on the CPU, and on the card in bfloat16."""
    rules = [load(name) for name in RULES]
    for name in ("digits", "bytes_b64"):
        losses = {
            where: np.array([o.loss for o in train(task(name), rules, 0, 20, device, dtype)])
            for where, device, dtype in (
                ("cpu", "cpu", "float32"), ("card", DEVICE, "float32"), ("bfloat16", DEVICE, "bfloat16"),
            )
        }  # fmt: skip
        for where, bar in (("card", 1e-4), ("bfloat16", 3e-2)):
            error = float(np.max(np.abs(losses[where] / losses["cpu"] - 1)))
            report.rows.append((f"losses on {name}, {where}", error, "relative difference"))
            report.checks.append(Check(f"losses on {name}, {where}, against the CPU's", error, bar))


def _throughput(report: Report, programs: list[Program]) -> float:
    """Programs an hour through both stages, the second time, when all is compiled."""
    total = 0.0
    for stage in STAGES:
        chosen = task(stage.tasks[0])
        steps = round(chosen.steps * stage.share)
        for _ in range(2):
            begin = perf_counter()
            train(chosen, programs, 0, steps, DEVICE)
            seconds = perf_counter() - begin
        total += seconds
        report.rows.append((f"{chosen.name}, {steps} steps", seconds, "s"))
    per_hour = len(programs) / total * 3600
    report.checks.append(Check("programs an hour on the first two stages", per_hour, 300_000, at_least=True))
    return per_hour


def _share(report: Report, programs: list[Program]) -> None:
    """The update's part of the steps of both stages, on the device."""
    update = whole = 0.0
    for stage in STAGES:
        chosen = task(stage.tasks[0])
        steps = round(chosen.steps * stage.share)
        params = stack([p.to(DEVICE) for p in chosen.model.init(0)], len(programs))
        batch = next(iter(chosen.batches(0, 1))).to(DEVICE)
        gradients, engine = Gradients(chosen.model, params), PopulationStep(programs, params)
        engine.write_numbers(0.0, 1, 0.5)  # of no rate, so that weights stay as they are
        actions = {
            "pass": lambda gradients=gradients, batch=batch: gradients(batch),
            "update": lambda engine=engine, params=params, gradients=gradients: engine.launch(params, gradients.grads),
        }
        for action in actions.values():
            action()
        times = device_seconds({name: graph_of(action).replay for name, action in actions.items()})
        report.rows += [
            (f"{chosen.name}, {name}", 1e6 * t / len(programs), "us a program") for name, t in times.items()
        ]
        update, whole = update + steps * times["update"], whole + steps * sum(times.values())
        del params, gradients, engine, actions
    report.checks.append(Check("the update's share of a step", update / whole, 0.2))
