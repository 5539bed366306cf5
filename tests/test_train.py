"""How populations train: steps that are replayed, and passes of less precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from stepsmith.discovered import load
from stepsmith.dsl import Program
from stepsmith.evaluator import graph
from stepsmith.evaluator.gradients import Gradients
from stepsmith.evaluator.train import train
from stepsmith.proxies import model as models
from stepsmith.proxies import stack, task

RULES = [load("adamw"), load("lion"), load("adamw_clip")]
BATCH = next(iter(task("bytes").batches(0, 1)))
NOISY = Program.parse("def noisy(w, g, lr=0.01, noise):\n return lr * (g + noise)")


@pytest.fixture
def recorded(monkeypatch) -> list[str]:
    """Replays on the CPU: the action itself, on the buffers that it was recorded with. Says what ran."""
    ran: list[str] = []

    def record(action, device):
        def replay():
            ran.append("replay")
            action()

        ran.append("record")
        action()
        return replay

    monkeypatch.setitem(graph.RECORDERS, "cpu", record)
    return ran


@pytest.mark.parametrize("name", ["quadratic", "digits", "associative", "bytes"])
def test_replayed_steps_are_the_steps(name, recorded, monkeypatch):
    replayed = train(task(name), RULES, seed=1, steps=53)
    assert recorded == ["record", *["replay"] * 50]  # steps 1 and 51 look at the losses
    monkeypatch.delitem(graph.RECORDERS, "cpu")
    assert replayed == train(task(name), RULES, seed=1, steps=53)
    assert not any(o.failed for o in replayed)


class Watch(TorchDispatchMode):
    """Names of the operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["quadratic", "digits", "associative", "bytes", "bytes_wide"])
def test_what_is_captured_can_be(name, dtype, monkeypatch):
    """A capture allows no look at numbers and no constant of the host, which would be copied again."""
    seen = []

    def record(action, device):
        action()
        with Watch() as watch:
            action()
        seen.append(watch.seen)
        return action

    monkeypatch.setitem(graph.RECORDERS, "cpu", record)
    train(task(name), RULES, seed=1, steps=3, dtype=dtype)
    forbidden = {
        "_local_scalar_dense",
        "is_nonzero",
        "nonzero",
        "equal",
        "arange",
        "lift_fresh",
        "triu_",
        "_pin_memory",
    }
    assert seen and seen[0] & {"bmm", "mm"} and not seen[0] & forbidden


def test_a_program_that_runs_in_torch_keeps_all_steps_from_being_replayed(recorded):
    train(task("quadratic"), [*RULES, NOISY], seed=1, steps=5)
    assert recorded == []


def test_a_population_without_a_finite_loss_stops(recorded):
    wild = Program.parse("def wild(w, g, lr=1e30):\n return lr * g")
    (outcome,) = train(task("digits"), [wild], seed=1, steps=200)
    assert outcome.failed and recorded.count("replay") < 50


def test_gradients_in_bfloat16_are_near(monkeypatch):
    model, batch = task("bytes").model, BATCH
    params = stack(model.init(0), 3)
    whole, low = Gradients(model, params), Gradients(model, params, "bfloat16")
    losses = [each(batch).double() for each in (whole, low)]
    torch.testing.assert_close(*losses, rtol=2e-2, atol=0)
    for a, b in zip(whole.grads, low.grads, strict=True):
        assert b.dtype is torch.float32
        assert (a - b).norm() < 0.03 * a.norm()


@pytest.mark.parametrize("name", ["digits", "bytes"])
def test_training_in_bfloat16_is_near(name):
    whole, low = (np.array([o.loss for o in train(task(name), RULES, 1, 60, dtype=d)]) for d in ("float32", "bfloat16"))
    assert np.abs(whole - low).max() < 0.03 and (whole != low).all()


def test_other_formats_are_refused():
    with pytest.raises(ValueError, match="unknown dtype 'float16': the model's pass runs in float32 or bfloat16"):
        train(task("quadratic"), RULES, seed=0, steps=1, dtype="float16")


# --- on GPUs ------------------------------------------------------------------------------------------------

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@cuda
@pytest.mark.parametrize("name", ["quadratic", "digits", "bytes"])
def test_a_gpu_trains_as_the_cpu_does(name):
    here, there = (np.array([o.loss for o in train(task(name), RULES, 1, 20, d)]) for d in ("cpu", "cuda"))
    np.testing.assert_allclose(there, here, rtol=1e-4)


@pytest.mark.gpu
@cuda
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_graphs_change_nothing(dtype, monkeypatch):
    replayed = train(task("bytes"), RULES, 1, 60, "cuda", dtype)
    monkeypatch.delitem(graph.RECORDERS, "cuda")
    assert train(task("bytes"), RULES, 1, 60, "cuda", dtype) == replayed


@pytest.mark.gpu
@cuda
def test_slices_and_neighbours_change_little(monkeypatch):
    """A population of many, cut by memory, against each rule alone."""
    monkeypatch.setattr(models, "_device_bytes", lambda device: 8 * 5 * task("bytes").model.pass_bytes(BATCH))
    together = [o.loss for o in train(task("bytes"), RULES * 4, 1, 20, "cuda")]
    alone = [train(task("bytes"), [rule], 1, 20, "cuda")[0].loss for rule in RULES]
    np.testing.assert_allclose(together, alone * 4, rtol=1e-4)
