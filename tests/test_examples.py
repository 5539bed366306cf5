"""The examples run as they stand: losses fall, and a run that was cut off ends at the same weights."""

import re
import runpy
from pathlib import Path

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture
def steps(tmp_path, monkeypatch):
    """What stepped, at which rates: an entry for each step that any optimizer takes, whatever wraps it."""
    monkeypatch.chdir(tmp_path)
    seen = []

    def note(optimizer, args, kwargs):
        seen.append((type(optimizer), [float(group["lr"]) for group in optimizer.param_groups]))

    hook = register_optimizer_step_post_hook(note)
    yield seen
    hook.remove()


def run(name: str) -> dict:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")


def falls(text: str) -> bool:
    first, last = map(float, re.search(r"loss (\S+) -> (\S+)", text).groups())
    return last < 0.8 * first


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(one.parameters(), other.parameters(), strict=True))


def rates(steps: list, cls: type, whole: int) -> list[float]:
    """The rates of the uninterrupted run, which half a run follows at the rates of its second half."""
    assert {kind for kind, _ in steps} == {cls}
    assert len(steps) == whole + whole // 2
    assert steps[whole:] == steps[whole // 2 : whole]
    assert all(len(set(lrs)) == 1 for _, lrs in steps)
    return [lrs[0] for _, lrs in steps[:whole]]


def decays(optimizer: torch.optim.Optimizer) -> list[float]:
    return [group["weight_decay"] for group in optimizer.param_groups]


def test_transformers_trainer(steps, capsys):
    pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    example = run("transformers_trainer")
    assert falls(capsys.readouterr().out)
    assert same_weights(example["whole"].model, example["resumed"].model)
    lrs = rates(steps, example["Lion"], example["STEPS"])
    assert lrs[:6] == pytest.approx([2e-3 * share / 5 for share in range(6)])
    assert sorted(lrs[5:], reverse=True) == lrs[5:] and lrs[-1] < 1e-5
    optimizer = example["whole"].optimizer
    assert decays(optimizer) == [0.1, 0.0]
    assert {p.ndim for p in optimizer.param_groups[1]["params"]} == {1}


def test_lightning_module(steps, capsys):
    pytest.importorskip("lightning", reason="lightning is not installed")
    example = run("lightning_module")
    assert falls(capsys.readouterr().out)
    whole, resumed = example["whole"], example["resumed"]
    assert same_weights(whole, resumed)
    assert resumed.losses == whole.losses[len(whole.losses) // 2 :]
    lrs = rates(steps, example["CAdamW"], len(whole.losses))
    assert max(lrs) == pytest.approx(5e-3, rel=0.01) and lrs[0] < 1e-3 and lrs[-1] < 1e-5
    assert decays(whole.trainer.optimizers[0]) == [0.1, 0.0]


def test_accelerate_loop(steps, capsys):
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    example = run("accelerate_loop")
    assert falls(capsys.readouterr().out)
    assert same_weights(example["whole"], example["resumed"])
    whole = 4 * 15  # epochs, of 29 batches, of which a step takes two
    lrs = rates(steps, example["NAdamW"], whole)
    cosine = torch.cos(torch.arange(whole) * torch.pi / whole)
    assert lrs == pytest.approx((5e-3 * (1 + cosine) / 2).tolist(), rel=1e-3, abs=1e-7)
    assert decays(example["optimizer"]) == [0.1, 0.0]


# --- compiled by torch --------------------------------------------------------------------------------------


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.timeout(900)  # inductor builds C++: half a minute, and ten times that on a machine that does much else
def test_compiled_step(tmp_path, monkeypatch, capsys, fresh_compiler):
    monkeypatch.chdir(tmp_path)
    example = run("compiled_step")
    assert falls(capsys.readouterr().out)
    for x, y in zip(example["compiled"].parameters(), example["eager"].parameters(), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-6)


def test_new_rates_compile_nothing(fresh_compiler):
    from torch._dynamo.testing import CompileCounter

    train = runpy.run_path(str(EXAMPLES / "compiled_step.py"))["train"]
    built = []
    for count in (3, 20):
        torch._dynamo.reset()
        counter = CompileCounter()
        train(torch.nn.Linear(64, 10), count, backend=counter)
        built.append(counter.frame_count)
    assert built[0] == built[1] > 0
