"""How large a population a device holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from stepsmith.discovered import load
from stepsmith.dsl import Program
from stepsmith.dsl.to_population import PopulationStep
from stepsmith.dsl.torch_engine import TorchEngine
from stepsmith.evaluator import available as files
from stepsmith.evaluator import memory
from stepsmith.evaluator.available import available
from stepsmith.evaluator.memory import Footprint, PopulationTooLarge, footprint, largest_population
from stepsmith.evaluator.train import train
from stepsmith.proxies import model as models
from stepsmith.proxies import stack, task
from stepsmith.proxies.workspace import apart

ADAMW = load("adamw")
CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_the_largest_population_fits_and_one_more_does_not():
    taken = Footprint(resident=1000, passes=((7000, 5), (300, 2)))
    for free in (0, 999, 8300, 41_000, 1_000_000):
        most = taken.largest(free)
        assert taken.bytes(most) <= free < taken.bytes(most + 1)


def test_states_estimates_and_other_formats_count():
    digits = task("digits")
    sgd, adamw = (footprint(digits, [load(name)], CPU).resident for name in ("sgd", "adamw"))
    weights = 4 * sum(p.numel() for p in digits.model.init(0))
    assert (sgd, adamw) == (2 * weights, 4 * weights)
    assert footprint(digits, [ADAMW], CPU, "bfloat16").resident == 5 * weights
    assert footprint(digits, [load("sgd"), ADAMW], CPU).resident == adamw


@pytest.mark.parametrize("name", ["digits", "bytes", "bytes_wide"])
def test_a_pass_takes_what_was_said(name):
    model, batch = task(name).model, next(iter(task(name).batches(0, 1)))
    with apart() as taken:
        model.gradients(stack(model.init(0), 4), batch)
        scratch = taken()
    fresh = 2 * model.bytes_per_copy(batch)
    assert 0.95 * scratch < 4 * (model.pass_bytes(batch) - fresh) <= scratch


def test_a_population_without_room_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda device: 10_000_000)
    with apart(), pytest.raises(PopulationTooLarge) as caught:  # scratch of other tests would be given up
        most = largest_population(task("bytes"), [ADAMW])
        train(task("bytes"), [ADAMW] * 100, seed=0, steps=1)
    line = r"a population of 100 on bytes needs 0\.0\d GB on cpu, where 0\.01 GB are free: train at most (\d+) programs"
    assert int(re.fullmatch(line + " at once", str(caught.value))[1]) == most < 100


def test_scratch_of_earlier_populations_is_given_up_for_a_new_one(monkeypatch):
    with apart() as taken:
        train(task("bytes"), [ADAMW] * 20, seed=0, steps=1)
        scratch, needed = taken(), footprint(task("bytes"), [ADAMW], CPU).bytes(20)
        free = int(needed / memory._MARGIN) + 1000
        monkeypatch.setattr(memory, "available", lambda device: free - taken())
        assert 0 < scratch < free
        train(task("bytes"), [ADAMW] * 20, seed=0, steps=1)
        monkeypatch.setattr(memory, "available", lambda device: free - scratch - 1000)
        with pytest.raises(PopulationTooLarge):
            train(task("bytes"), [ADAMW] * 20, seed=0, steps=1)
        assert taken() == 0


def test_on_a_gpu_a_population_is_cut_by_memory(monkeypatch):
    bytes_, batch = task("bytes"), next(iter(task("bytes").batches(0, 1)))
    each = bytes_.model.pass_bytes(batch)
    monkeypatch.setattr(models, "_device_bytes", lambda device: 8 * 100 * each)
    sizes = {copies: bytes_.model.slice_size(copies, batch, GPU) for copies in (1, 100, 101, 250)}
    assert sizes == {1: 1, 100: 100, 101: 51, 250: 84}
    assert bytes_.model.slice_size(250, batch, GPU, torch.bfloat16) == 125
    assert footprint(bytes_, [ADAMW], GPU).passes[0] == (each, 100)


@pytest.mark.parametrize(
    ("text", "folder", "limit", "used", "cached"),
    [
        ("0::/jobs/one\n", "jobs", "memory.max", "memory.current", "inactive_file"),
        ("3:cpu:/\n4:memory:/jobs/one\n", "memory/jobs/one", "memory.limit_in_bytes", "memory.usage_in_bytes",
         "total_inactive_file"),
    ],
)  # fmt: skip
def test_a_cgroup_bounds_what_is_available(text, folder, limit, used, cached, tmp_path, monkeypatch):
    """Of either version; pages of files can be given back."""
    where = tmp_path / folder
    where.mkdir(parents=True)
    for name, content in ((limit, "5000"), (used, "4000"), ("memory.stat", f"anon 7\n{cached} 1500\n")):
        (where / name).write_text(content)
    monkeypatch.setattr(files, "_CGROUPS", tmp_path)
    read = Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda self, *a: text if self == Path("/proc/self/cgroup") else read(self, *a)
    )
    assert available(CPU) == 2500
    (where / limit).write_text("max")
    assert available(CPU) > 1 << 20


def test_routed_programs_keep_no_more_than_is_counted_on():
    """States of every engine and division of the weights, against what the footprint of a copy says."""
    proxy = task("bytes_tied")
    matrices = "def f(w, g, m, lr=0.1) for matrix else h:\n m = 0.9 * m + g\n return lr * orthogonalize(m), m\n"
    heads = "def f(w, g, m, lr=0.1) for head, embedding else h:\n m = 0.9 * m + g\n return lr * m, m\n"
    rest = (
        "def h(w, g, m, v, lr=0.1):\n m = interp(g, m, 0.9)\n v = interp(g * g, v, 0.9)\n return lr * m / sqrt(v), m, v"
    )
    for texts in ([matrices], [matrices, heads], [matrices, heads, rest]):
        programs = [Program.parse(text if text is rest else text + rest) for text in texts * 2]
        params = stack(proxy.model.init(0), len(programs))
        engine = PopulationStep(programs, params, list(proxy.model.roles.values()))
        weights = sum(p.numel() for p in params)
        kept = sum(x.numel() for one in engine.engines for x in tensors_of(one))
        counted = footprint(proxy, programs, torch.device("cpu")).resident * len(programs) / 4 - 2 * weights
        assert weights / 2 < kept <= counted + 100  # single numbers apart


def tensors_of(engine):
    """The tensors of states that an engine keeps."""
    if isinstance(engine, TorchEngine):
        return [x for parts in engine.states for part in parts for state in part for x in state]
    return engine.states
