"""Exported optimizers against torch's fused steps and the classes of other packages: whole steps, in one process.

The bar of a rule is its reference times what it must move over what the reference moves: a rule that needs a mean or
a norm before it can write reads some tensors twice. References: torch's SGD with momentum for rules with one state,
AdamW for rules with two, both fused. One thread, processor time, best of turns. Classes of other packages are measured
where they are installed: pip install lion-pytorch torch-optimi timm pytorch-optimizer bitsandbytes heavyball
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import Check, Report, interleave

from stepsmith.discovered import load, torch_class
from stepsmith.dsl import Program
from stepsmith.dsl.kind import Kind
from stepsmith.dsl.passes import Passes
from stepsmith.dsl.program import FIRST

TITLE = "exported optimizers against torch's fused steps and other packages"
RECORD = Path(__file__).parent / "results" / "strategies.jsonl"
CATALOGUED = ("lion", "c_lion", "adamw", "c_adamw")
#: Package and class -> the rule that it is, and how it is made.
OTHERS: dict[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "lion_pytorch.Lion": ("lion", lambda cls, ps: cls(ps)),
    "optimi.Lion": ("lion", lambda cls, ps: cls(ps, lr=1e-4)),
    "timm.optim.Lion": ("lion", lambda cls, ps: cls(ps)),
    "pytorch_optimizer.Lion": ("lion", lambda cls, ps: cls(ps)),
    "bitsandbytes.optim.Lion": ("lion", lambda cls, ps: cls(ps)),
    "optimi.AdamW": ("adamw", lambda cls, ps: cls(ps, lr=1e-3)),
    "timm.optim.AdamWLegacy": ("adamw", lambda cls, ps: cls(ps)),
    "heavyball.AdamW": ("adamw", lambda cls, ps: cls(ps)),
}
_COMPILED = {"heavyball.AdamW": 8}  # tensors up to which it is measured: its first step compiles minutes for hundreds


@dataclass(frozen=True)
class Setting:
    """Shapes and dtype of parameters, and the bar as a factor of the reference."""

    name: str
    shapes: tuple[tuple[int, ...], ...]
    dtype: torch.dtype
    bar: float


SETTINGS = (
    Setting("C1 8x2048^2 fp32", ((2048, 2048),) * 8, torch.float32, 1.0),
    Setting("C2 8x2048^2 bf16", ((2048, 2048),) * 8, torch.bfloat16, 1.15),
    Setting("C3 200x256^2 fp32", ((256, 256),) * 200, torch.float32, 1.0),
    Setting("C2 200x256^2 bf16", ((256, 256),) * 200, torch.bfloat16, 1.15),
)
SMALL = Setting("C4 1000x64 fp32", ((64,),) * 1000, torch.float32, 3.0)


def found() -> dict[str, Program]:
    """Three programs that evolution found; see docs/log.md, 2026-11-22."""
    rows = [json.loads(line) for line in RECORD.read_text("utf-8").splitlines()]
    programs = [Program.parse(row["program"]) for row in rows if row["strategy"] == "evolution"]
    return {program.name: program for program in programs[:3]}


def bytes_moved(program: Program) -> int:
    """Of each float that a parameter holds, how many are read and written in a step."""
    plan = Passes(program)
    states = [i for i, _ in plan.flow.states if plan.flow.kinds[FIRST + i] is Kind.TENSOR]
    reads = sum(len(plan.reads(one)) for one in plan.passes[:-1])
    return reads + len({0, *plan.reads(plan.passes[-1])}) + 1 + len(states)


def measure() -> Report:
    """All rules at all settings."""
    report = Report(("setting", "optimizer", "ns/element", "x reference", "x by bytes", "2 threads ns"))
    rules = {name: load(name) for name in CATALOGUED} | found()
    for setting in SETTINGS:
        _compare(report, setting, rules)
    _small(report, rules)
    _first_steps(report)
    _rebuilds(report)
    report.notes.append("x by bytes: of the bar, reference times bytes moved over those of the reference")
    return report


def _compare(report: Report, setting: Setting, rules: dict[str, Program]) -> None:
    steps = _steps(setting, rules)
    print(f"  {setting.name}: {len(steps)} optimizers", flush=True)
    count = sum(int(np.prod(shape)) for shape in setting.shapes)
    one = {name: float(np.min(t)) / count * 1e9 for name, t in interleave(steps, 0.5 * len(steps)).items()}
    torch.set_num_threads(2)
    two = {name: float(np.min(t)) / count * 1e9 for name, t in interleave(steps, 0.3 * len(steps), wall=True).items()}
    torch.set_num_threads(1)
    for name, time in one.items():
        program = rules.get(name)
        single = name in ("torch.SGD", "lion", "c_lion") or OTHERS.get(name, ("",))[0] == "lion"
        reference, moved = ("torch.SGD", 5) if single else ("torch.AdamW", 7)
        by_bytes = bytes_moved(program) / moved if program else 1.0
        share = time / one[reference]
        report.rows.append((setting.name, name, time, share, share / by_bytes, two[name]))
        if program is not None:
            what = f"{setting.name} {name} / {reference}, by bytes ({bytes_moved(program)} of {moved})"
            report.checks.append(Check(what, share / by_bytes, setting.bar))


def _steps(setting: Setting, rules: dict[str, Program]) -> dict[str, Callable[[], object]]:
    """A step of every optimizer, each on parameters of its own."""
    made: dict[str, Callable[[], object]] = {
        "torch.SGD": torch.optim.SGD(_parameters(setting), lr=1e-4, momentum=0.9, fused=True).step,
        "torch.AdamW": torch.optim.AdamW(_parameters(setting), lr=1e-4, fused=True).step,
    }
    for name, program in rules.items():
        made[name] = _optimizer(program, _parameters(setting)).step
    for name, (_, make) in OTHERS.items():
        if len(setting.shapes) > _COMPILED.get(name, len(setting.shapes)):
            continue
        package, _, cls = name.rpartition(".")
        try:
            params = _parameters(setting)
            made[name] = make(getattr(importlib.import_module(package), cls), params).step
            made[name]()
            if params[0].grad is None:
                made[name] = _with_gradients(made[name], _parameters(setting), params)
        except Exception as error:  # not installed, or not made for this machine
            made.pop(name, None)
            print(f"  without {name}: {str(error).splitlines()[0][:90]}", flush=True)
    return made


def _with_gradients(step: Callable[[], object], like: list[Any], params: list[Any]) -> Callable[[], object]:
    """A step that finds its gradients anew: some optimizers throw them away."""

    def whole() -> None:
        for p, q in zip(params, like, strict=True):
            p.grad = q.grad
        step()

    return whole


def _parameters(setting: Setting) -> list[torch.nn.Parameter]:
    made = [torch.nn.Parameter(torch.randn(shape, dtype=setting.dtype)) for shape in setting.shapes]
    for p in made:
        p.grad = torch.randn_like(p)
    return made


def _optimizer(program: Program, params: Sequence[torch.nn.Parameter]) -> Any:
    """At a learning rate so low that weights stay what they are over thousands of steps."""
    cls = torch_class(program)
    total = {"total_steps": 10**6} if "total_steps" in cls.__init__.__code__.co_varnames else {}
    return cls(params, lr=1e-6, **total)


def _small(report: Report, rules: dict[str, Program]) -> None:
    times = interleave(_steps(SMALL, rules), 4.0)
    for name, seconds in times.items():
        each = float(np.min(seconds)) / len(SMALL.shapes) * 1e6
        report.rows.append((SMALL.name, name, each / 64 * 1e3, float(np.nan), float(np.nan), float(np.nan)))
        if name in rules:
            report.checks.append(Check(f"{SMALL.name} {name}: us per tensor", each, SMALL.bar))


_FIRST = """
import sys, time, torch
from stepsmith.discovered import load, torch_class
p = torch.nn.Parameter(torch.ones(1000)); p.grad = torch.ones(1000)
optimizer = torch_class(load(sys.argv[1]))([p], **{sys.argv[2]: True})
begin = time.perf_counter(); optimizer.step(); print(time.perf_counter() - begin)
"""


def _first_steps(report: Report) -> None:
    """C5: a fresh process with an empty cache."""
    for name in CATALOGUED:
        with tempfile.TemporaryDirectory() as cache:
            env = {**os.environ, "STEPSMITH_CACHE": cache}
            fused, eager = (float(_output(_FIRST, name, how, env=env)) for how in ("fused", "foreach"))
        what = f"C5 first step of {name}: seconds more than an eager one"
        report.checks.append(Check(what, fused - eager, 1.0))


def _rebuilds(report: Report) -> None:
    """C6: what changes while one trains."""
    with tempfile.TemporaryDirectory() as cache:
        built = float(_output(_REBUILDS, cache, env={**os.environ, "STEPSMITH_CACHE": cache}))
    report.checks.append(Check("C6 builds after the first step", built, 0.0))


def _output(code: str, *arguments: str, env: dict[str, str]) -> str:
    """What a program prints in a process of its own."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout


_REBUILDS = """
import os, sys, torch
from stepsmith.discovered import load, torch_class
ps = [torch.nn.Parameter(torch.ones(50)) for _ in range(3)]
for p in ps: p.grad = torch.ones(50)
optimizer = torch_class(load("c_adamw"))(ps[:2])
optimizer.step()
built = len(os.listdir(sys.argv[1]))
group = optimizer.param_groups[0]
group["lr"], group["betas"], group["weight_decay"] = 0.5, (0.8, 0.9), 0.1
optimizer.step()
ps[0].grad = None
optimizer.step()
optimizer.add_param_group({"params": [ps[2]], "lr": 0.1})
optimizer.step()
print(len(os.listdir(sys.argv[1])) - built)
"""
