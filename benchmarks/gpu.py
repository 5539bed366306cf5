"""What needs a GPU: python benchmarks/gpu.py --section NAME, one of `SECTIONS`

Each section prints a table and writes benchmarks/results/gpu-SECTION.json. Bytes are those that a rule must move: each
pass reads what it needs, the last one writes. They are held against a copy on the same device, timed in turns with the
steps. A rule with a reduction per tensor (c_lion, c_adamw) moves its gradients and states twice.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from measure import Check, Report

from stepsmith.discovered import load
from stepsmith.dsl import Kind
from stepsmith.dsl.interpret import Interpreter
from stepsmith.dsl.passes import Passes
from stepsmith.dsl.program import FIRST, W
from stepsmith.dsl.to_torch import compile_step, zero_states
from stepsmith.dsl.to_triton import triton_step

RULES = ("lion", "c_lion", "adamw", "c_adamw")
LARGE = {"32x2048^2": [(2048, 2048)] * 32, "200x1M": [(1 << 20,)] * 200, "10x16.8M": [(1 << 24,)] * 10}
SMALL = {"1000x1024": [(1024,)] * 1000, "10000x64": [(64,)] * 10000}
TURNS = 15


class Steps:
    """A rule on parameters of some shapes, stepped by its kernels."""

    def __init__(self, rule: str, shapes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> None:
        self.program, self.t = load(rule), 0
        first = self.program.first_hyper
        names = {first + i: f"h{i}" for i in range(len(self.program.hypers))}
        self.kernels = triton_step(self.program, names)
        self.numbers: dict[str, Any] = {names[first + i]: x for i, x in enumerate(self.program.hypers)}
        self.numbers["lr"] = self.program.peak
        random = torch.Generator("cuda").manual_seed(0)
        self.params, self.grads = (
            [torch.randn(s, generator=random, device="cuda").to(dtype) for s in shapes] for _ in range(2)
        )
        self.passes = Passes(self.program)
        live = self.passes.flow
        tensors = [i for i, _ in live.states if live.kinds[FIRST + i] is Kind.TENSOR]
        assert len(tensors) == len(live.states), "these rules keep no single numbers"
        self.states = [[torch.zeros_like(p) for p in self.params] for _ in tensors]

    def __call__(self, **more: Any) -> None:
        self.t += 1
        numbers = {"t": self.t, **self.numbers}
        self.kernels(self.params, self.grads, self.states, [], None, numbers, **more)

    def bytes(self) -> int:
        """What a step must move."""
        last = self.passes.passes[-1]
        moves = sum(len({*self.passes.reads(one), *([W] if one is last else [])}) for one in self.passes.passes)
        return (moves + 1 + len(self.states)) * sum(p.numel() * p.element_size() for p in self.params)


def device_seconds(actions: dict[str, Callable[[], object]], turns: int = TURNS) -> dict[str, float]:
    """The median time of each on the device; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(turns + 3):
        for name, action in actions.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            action()
            end.record()
            end.synchronize()
            if turn >= 3:
                times[name].append(begin.elapsed_time(end) / 1e3)
    return {name: median(some) for name, some in times.items()}


def graph_of(action: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """The launches of an action that has run before."""
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        action()
    return graph


def reference(kind: str, steps: Steps) -> Callable[[], object]:
    """Torch's fused optimizer on copies of the parameters: SGD with momentum moves what Lion moves."""
    params = [torch.nn.Parameter(p.clone()) for p in steps.params]
    for p, g in zip(params, steps.grads, strict=True):
        p.grad = g
    if kind == "AdamW":
        return torch.optim.AdamW(params, fused=True).step
    return torch.optim.SGD(params, 1e-6, momentum=0.9, fused=True).step


# --- sections ---------------------------------------------------------------------------------------------


def correctness() -> Report:
    """Against the numpy interpreter; the same bits twice; graphs that follow lr and the counts; no recompilation."""
    report = Report(("rule", "dtype", "steps", "error", "same bits"))
    shapes = [(1,), (3,), (1000,), (4097,), (64, 65), (2048, 1024)]
    for rule in (*RULES, "adamw_clip"):
        for dtype, bar in ((torch.float64, 1e-9), (torch.float32, 1e-4), (torch.bfloat16, 3e-2)):
            runs = [Steps(rule, shapes, dtype) for _ in range(2)]
            truth = Interpreter(runs[0].program, shapes)
            w = [p.double().cpu().numpy() for p in runs[0].params]
            g = [x.double().cpu().numpy() for x in runs[0].grads]
            for t in range(1, 6):
                w = [x - u for x, u in zip(w, truth.step(w, g, 1.0, t), strict=True)]
                for run in runs:
                    run()
            error = max(
                float(np.abs(p.double().cpu().numpy() - x).max() / np.abs(x).max())
                for p, x in zip(runs[0].params, w, strict=True)
            )
            same = all(torch.equal(x, y) for x, y in zip(runs[0].params, runs[1].params, strict=True))
            report.rows.append((rule, str(dtype).removeprefix("torch."), 5, error, same))
            report.checks.append(Check(f"{rule} {dtype}: largest error over largest weight", error, bar))
            report.checks.append(Check(f"{rule} {dtype}: same bits", float(same), 1, at_least=True))
    report.checks += [_graph_follows(rule) for rule in RULES]
    report.checks.append(Check("compilations when numbers and the number of tensors change", _recompiled(), 0))
    return report


def _graph_follows(rule: str) -> Check:
    """Three replays with other lr and counts, against plain steps; the largest difference."""
    one, other = (Steps(rule, [(1000,), (64, 65), (4096,)], torch.float32) for _ in range(2))
    lr = torch.tensor(one.numbers["lr"], dtype=torch.float64, device="cuda")
    counts = [torch.zeros((), device="cuda") for _ in one.params]

    def action() -> None:
        torch._foreach_add_(counts, 1)
        one.kernels(one.params, one.grads, one.states, [], counts, one.numbers | {"lr": lr})

    action()
    other()
    graph = graph_of(action)  # capturing runs nothing
    for factor in (1.0, 0.5, 0.1):
        lr.fill_(load(rule).peak * factor)
        other.numbers["lr"] = load(rule).peak * factor
        graph.replay()
        other()
    pairs = zip(one.params, other.params, strict=True)
    return Check(f"{rule}: graph against steps", max((x - y).abs().max().item() for x, y in pairs), 1e-6)


def _recompiled() -> int:
    compiled: list[str] = []
    import triton

    steps = Steps("adamw", [(100,)] * 3, torch.float32)
    steps()
    triton.knobs.runtime.jit_post_compile_hook = lambda **more: compiled.append(str(more.get("repr")))
    for lr, count in ((0.0, 1), (1.0, 2), (0.5, 3)):
        steps.numbers["lr"] = lr
        params, grads = steps.params[:count], steps.grads[:count]
        numbers = steps.numbers | {"t": 16 * count}
        steps.kernels(params, grads, [s[:count] for s in steps.states], [], None, numbers)
    triton.knobs.runtime.jit_post_compile_hook = None
    return len(compiled)


def bandwidth() -> Report:
    """G1: bytes over the time of a copy of as many."""
    report = Report(("tensors", "dtype", "rule", "ms", "TB/s", "of copy", "torch fused ms"))
    source = torch.empty(1 << 29, dtype=torch.int16, device="cuda")
    target = torch.empty_like(source)
    for size, shapes in LARGE.items():
        for dtype in (torch.float32, torch.bfloat16):
            for rule in RULES:
                steps = Steps(rule, shapes, dtype)
                fused = reference("AdamW" if "adamw" in rule else "SGD", steps)
                times = device_seconds({"copy": lambda: target.copy_(source), "step": steps, "torch": fused})
                copied = 2 * source.numel() * source.element_size() / times["copy"]
                speed = steps.bytes() / times["step"]
                short = str(dtype).removeprefix("torch.")
                row = (size, short, rule, times["step"] * 1e3, speed / 1e12, speed / copied, times["torch"] * 1e3)
                report.rows.append(row)
                report.checks.append(Check(f"{size} {short} {rule}: of copy", speed / copied, 0.9, at_least=True))
                del steps, fused
    return report


def small() -> Report:
    """G2: time of the host, time of a graph on the device, and launches, for many small tensors."""
    report = Report(("tensors", "rule", "host us/tensor", "device us/tensor", "graph us/tensor", "launches"))
    for size, shapes in SMALL.items():
        for rule in RULES:
            steps = Steps(rule, shapes, torch.float32)
            for _ in range(3):
                steps()
            launches = _launches(steps)
            host = []
            for _ in range(20):
                torch.cuda.synchronize()
                begin = perf_counter()
                steps()
                host.append(perf_counter() - begin)
            graph = graph_of(steps)
            times = device_seconds({"step": steps, "graph": graph.replay}, 20)
            per = 1e6 / len(shapes)
            row = (size, rule, median(host) * per, times["step"] * per, times["graph"] * per, launches)
            report.rows.append(row)
            report.checks.append(Check(f"{size} {rule}: host us a tensor", row[2], 2.0))
            report.checks.append(Check(f"{size} {rule}: graph us a tensor", row[4], 2.0))
            report.checks.append(Check(f"{size} {rule}: launches", launches, len(steps.passes.passes)))
    return report


def _launches(action: Callable[[], object]) -> int:
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        action()
        torch.cuda.synchronize()
    events = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    return len([e for e in events if not e.name.startswith("Mem")])


COLD = """
import sys, json, torch
from time import perf_counter
sys.path.insert(0, {folder!r})
import gpu
torch.zeros(1, device="cuda").sum().item()
shapes = [(1024, 1024)] * 32
steps = gpu.Steps({rule!r}, shapes, torch.float32)
action = steps if {ours} else gpu.compiled(steps)
begin = perf_counter()
action()
torch.cuda.synchronize()
cold = perf_counter() - begin
print(json.dumps([cold, gpu.device_seconds({{"step": action}})["step"]]))
"""


def compiled(steps: Steps) -> Callable[[], None]:
    """The foreach form of the same rule behind torch.compile; numbers are tensors, as its users write it."""
    function = compile_step(steps.program)
    states = zero_states(steps.program, steps.params)
    lr = torch.tensor(1.0, device="cuda")

    @torch.compile
    def step(t: torch.Tensor) -> None:
        update, new = function(steps.params, steps.grads, states, lr, t, 0.0)
        torch._foreach_sub_(steps.params, update)
        for old, fresh in zip(states, new, strict=True):
            torch._foreach_copy_(old, fresh)

    count = torch.zeros((), device="cuda")

    def action() -> None:
        count.add_(1)
        with torch.no_grad():
            step(count)

    return action


def compile_times() -> Report:
    """G3: the first step in a fresh process with empty caches, and steps after it."""
    report = Report(("rule", "first s", "torch.compile first s", "ms", "torch.compile ms"))
    for rule in RULES:
        found = []
        for ours in (True, False):
            with tempfile.TemporaryDirectory() as caches:
                code = COLD.format(folder=str(Path(__file__).parent), rule=rule, ours=ours)
                caching = {"TRITON_CACHE_DIR": f"{caches}/triton", "TORCHINDUCTOR_CACHE_DIR": f"{caches}/inductor"}
                done = subprocess.run([sys.executable, "-c", code], env=os.environ | caching, capture_output=True,
                                      text=True, timeout=200)  # fmt: skip
            if done.returncode:
                report.notes.append(f"{rule}, {'ours' if ours else 'torch.compile'}: {done.stderr[-400:]}")
            found.append(json.loads(done.stdout.splitlines()[-1]) if not done.returncode else [float("nan")] * 2)
        (cold, step), (their_cold, their_step) = found
        report.rows.append((rule, cold, their_cold, step * 1e3, their_step * 1e3))
        report.checks.append(Check(f"{rule}: step over torch.compile's", step / their_step, 1.05))
        report.checks.append(
            Check(f"{rule}: torch.compile's first step over ours", their_cold / cold, 20, at_least=True)
        )
    return report


def memory() -> Report:
    """G4: what a step allocates, over the size of the parameters."""
    report = Report(("rule", "parameters MB", "more at the peak MB"))
    for rule in (*RULES, "adamw_clip"):
        steps = Steps(rule, LARGE["32x2048^2"], torch.float32)
        steps()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        steps()
        torch.cuda.synchronize()
        more = torch.cuda.max_memory_allocated() - before
        size = sum(p.numel() * p.element_size() for p in steps.params)
        report.rows.append((rule, size / 1e6, more / 1e6))
        report.checks.append(Check(f"{rule}: of the parameters", more / size, 0.01))
        del steps
    return report


def population(cpu_per_hour: float | None = None) -> Report:
    """G5: programs that are interpreted; see gpu_population.py."""
    from gpu_population import measure

    return measure(cpu_per_hour)


def targets() -> Report:
    """G6: 10M, 30M and 124M parameters in bfloat16; see gpu_targets.py."""
    from gpu_targets import measure

    return measure()


def quick() -> Report:
    """G6: a quick validation at 10M; see gpu_targets.py."""
    from gpu_targets import quick

    return quick()


def exported() -> Report:
    """G7: classes that users import, fused; see gpu_exported.py."""
    from gpu_exported import measure

    return measure(device_seconds)


SECTIONS: dict[str, Callable[..., Report]] = {
    "correctness": correctness, "bandwidth": bandwidth, "small": small, "compile": compile_times, "memory": memory,
    "population": population, "targets": targets, "quick": quick, "exported": exported,
}  # fmt: skip


def run(section: str, **more: Any) -> dict[str, Any]:
    """What a section measured, with the date and what it ran on."""
    import triton

    report = SECTIONS[section](**more)
    print(report.as_text())
    about = {"date": datetime.now(UTC).date().isoformat(), "device": torch.cuda.get_device_name()}
    return about | {"torch": torch.__version__, "triton": triton.__version__, **report.as_json()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--section", choices=SECTIONS, required=True)
    parser.add_argument("--cpu-per-hour", type=float, help="population: programs an hour of two CPU cores, to compare")
    arguments = parser.parse_args()
    section = arguments.section
    if not torch.cuda.is_available():
        print(f"{section}: skipped, benchmarks/gpu.py needs a CUDA device")
        return 1
    found = run(section, **({"cpu_per_hour": arguments.cpu_per_hour} if section == "population" else {}))
    folder = Path(__file__).parent / "results"
    folder.joinpath(f"gpu-{section}.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    return 0 if all(check["passed"] for check in found["checks"]) else 2


if __name__ == "__main__":
    sys.exit(main())
