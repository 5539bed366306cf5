"""Training on targets: exact resume, what failed runs count as, precision, accumulation, and what is refused."""

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import stepsmith as ss
from stepsmith.dsl import Program, ProgramError
from stepsmith.evaluator.train import Run
from stepsmith.evaluator.validation import training
from stepsmith.evaluator.validation.fits import TargetTooLarge, check_target_fits, training_bytes
from stepsmith.evaluator.validation.training import Trainer, Training, check_trainable, train_target
from stepsmith.proxies import TaskError
from stepsmith.proxies.targets import target


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def losses(result):
    return result.curve, result.validation, result.test, result.metric


class Killed(Exception):
    pass


@pytest.mark.parametrize("rule", ["adamw", "lion", "muon", "adafactor", "adam8bit"])
@pytest.mark.parametrize("at", [1, 7, 19])
def test_a_run_that_was_killed_at_any_step_goes_on_to_the_same_bits(rule, at, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_SAVE_EVERY", -1.0)  # a checkpoint after each step
    wanted = Training(Run(ss.load(rule).with_lr(3e-3)), seed=1, steps=20, final=True)
    goal, path = target("table-wine"), tmp_path / "run.pt"
    whole = train_target(goal, wanted)
    advance = Trainer.advance

    def until(self, batch):
        if self.step == at:
            raise Killed
        advance(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "advance", until)
        with pytest.raises(Killed):
            train_target(goal, wanted, path)
    assert path.exists()
    assert losses(train_target(goal, wanted, path)) == losses(whole)
    assert not path.exists()


CODE = """
import sys, stepsmith as ss
from pathlib import Path
from stepsmith.evaluator.train import Run, use_one_thread
from stepsmith.evaluator.validation import training
from stepsmith.proxies.targets import target
use_one_thread()
training._SAVE_EVERY = 0.05
wanted = training.Training(Run(ss.load("adamw").with_lr(3e-3)), 0, 60, final=True)
found = training.train_target(target("gpt-60k"), wanted, Path(sys.argv[1]))
print(found.curve, found.validation, found.test, found.metric)
"""


def test_kill_minus_nine_and_again_is_as_never_killed(tmp_path):
    command, path = [sys.executable, "-c", CODE], tmp_path / "run.pt"
    whole = subprocess.run([*command, str(tmp_path / "other.pt")], capture_output=True, text=True, check=True).stdout
    running = subprocess.Popen([*command, str(path)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(running.pid, signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert path.exists()
    assert subprocess.run([*command, str(path)], capture_output=True, text=True, check=True).stdout == whole


def test_training_learns_and_its_curve_is_kept():
    found = train_target(target("table-cancer"), Training(Run(ss.load("adamw").with_lr(3e-3)), 0, 100, final=True))
    assert found.validation < 0.5 * found.start
    assert [step for step, *_ in found.curve] == list(range(5, 101, 5))
    assert found.test is not None and found.metric is not None and found.metric > 0.9
    assert found.seconds >= found.optimizer_seconds > 0


@pytest.mark.parametrize("lr", [1e4, 1e30])
def test_a_run_that_fails_counts_as_the_loss_at_initialisation(lr):
    found = train_target(target("table-wine"), Training(Run(ss.load("sgd").with_lr(lr)), 0, 40, final=True))
    assert found.reason in ("NaN", "Inf", "diverged")
    goal = target("table-wine")
    fresh = Trainer(goal, Training(Run(ss.load("sgd")), 0, 40))
    assert found.validation == found.start == fresh.loss(goal.validation())
    assert found.test == fresh.loss(goal.test())
    assert found.metric is not None and found.metric < 0.9  # of the model that never trained


def test_accumulation_changes_nothing_but_rounding():
    whole = target("table-cancer")
    wanted = Training(Run(ss.load("adamw").with_lr(1e-3)), 0, 30)
    one = train_target(whole, wanted)
    four = train_target(replace(whole, micro_batches=4), wanted)
    assert four.validation == pytest.approx(one.validation, rel=1e-4)


def test_a_batch_that_parts_do_not_divide_is_refused():
    with pytest.raises(TaskError, match="a batch of 32 cannot be accumulated over 5 equal parts"):
        train_target(replace(target("table-cancer"), micro_batches=5), Training(Run(ss.load("sgd")), 0, 2))


def test_a_checkpoint_that_cannot_be_read_begins_anew(tmp_path):
    wanted, path = Training(Run(ss.load("adamw")), 0, 5), tmp_path / "run.pt"
    path.write_bytes(b"half a checkpoint")
    assert losses(train_target(target("table-wine"), wanted, path)) == losses(
        train_target(target("table-wine"), wanted)
    )


def test_a_checkpoint_of_other_states_begins_anew(tmp_path):
    path = tmp_path / "run.pt"
    other = Trainer(target("table-wine"), Training(Run(ss.load("sgd")), 0, 5))
    other.advance(next(other.target.batches(0, 5)))
    other.save(path)
    held = torch.load(path)
    del held["since"]  # as of another version: found after the weights are already in the module
    torch.save(held, path)
    wanted = Training(Run(ss.load("sgd")), 0, 5)
    assert losses(train_target(other.target, wanted, path)) == losses(train_target(other.target, wanted))


def test_rules_that_nothing_can_train_are_refused():
    for text, said in (("lr * w", "f never reads g"), ("g", "f never reads lr")):
        with pytest.raises(ProgramError, match=said):
            check_trainable(ss.Program.parse(f"def f(w, g, lr=0.1):\n  return {text}"))


def test_bfloat16_passes_keep_weights_in_float32():
    low = replace(target("gpt-60k"), dtype="bfloat16")
    wanted = Training(Run(ss.load("adamw").with_lr(3e-3)), 0, 8)
    trainer = Trainer(low, wanted)
    for batch in low.data.batches(0, 2, 4):
        trainer.advance(batch)
    assert {p.dtype for p in trainer.module.parameters()} == {torch.float32}
    state = trainer.optimizer.state[next(iter(trainer.module.parameters()))]
    assert state["m"].dtype == torch.float32
    short = replace(low, batch=4)
    assert train_target(short, wanted).validation == pytest.approx(
        train_target(replace(short, dtype="float32"), wanted).validation, abs=0.03
    )


def test_gradients_are_clipped_to_the_targets_norm():
    found = {}
    for clip in (0.0, 1e-3):
        trainer = Trainer(replace(target("table-wine"), clip=clip), Training(Run(ss.load("sgd").with_lr(1.0)), 0, 4))
        before = [p.detach().clone() for p in trainer.module.parameters()]
        trainer.advance(next(trainer.target.batches(0, 1)))
        after = [p.detach() for p in trainer.module.parameters()]
        moved = torch.stack([(p - q).norm() for p, q in zip(after, before, strict=True)]).norm()
        found[clip] = float(moved)
    assert found[1e-3] == pytest.approx(1e-3 * float(trainer.factors[0]), rel=1e-3)
    assert found[0.0] > 10 * found[1e-3]


def test_a_routed_rule_acts_by_role():
    trainer = Trainer(target("gpt-60k"), Training(Run(ss.load("muon")), 0, 4))
    roles = {group["role"] for group in trainer.optimizer.param_groups}
    assert {"matrix", "embedding", "vector"} <= roles
    trainer.advance(next(trainer.target.batches(0, 1)))
    named = dict(trainer.module.named_parameters())
    assert "v" in trainer.optimizer.state[named["embedding.weight"]]
    assert "v" not in trainer.optimizer.state[named["blocks.0.attention.query.weight"]]


def test_progress_and_schedules_reach_the_rule():
    rule = Program.parse("def f(w, g, lr=1.0, progress):\n  return lr * g * (1 - progress)")
    trainer = Trainer(target("table-wine"), Training(Run(rule, warmup=0.0), 0, 10))
    assert trainer.optimizer.param_groups[0]["total_steps"] == 10
    assert train_target(target("table-wine"), Training(Run(rule), 0, 10)).reason == ""


@pytest.mark.parametrize(("rule", "said"), [("adahessian", "oracle hutchinson"), ("cosine", "is a schedule")])
def test_what_no_plain_loop_can_run_is_refused_in_a_line(rule, said):
    with pytest.raises(ProgramError, match=said) as error:
        train_target(target("table-wine"), Training(Run(ss.load(rule)), 0, 4))
    assert "\n" not in str(error.value)


def test_a_target_too_large_for_memory_is_refused_in_a_line(monkeypatch):
    monkeypatch.setattr("stepsmith.evaluator.validation.fits.available", lambda device: 10**9)
    big, adamw = target("gpt-10m"), ss.load("adamw")
    assert training_bytes(big, adamw) > 16 * sum(p.numel() for p in big.model.init(0))
    with pytest.raises(TargetTooLarge, match=r"gpt-10m with adamw needs .* GB .* 1.0 GB are free") as error:
        check_target_fits(big, adamw)
    assert "\n" not in str(error.value)
    check_target_fits(target("gpt-60k"), adamw)


#: Whose code decides a run's losses.
SOURCES = (
    "proxies/targets/corpus.py", "proxies/targets/decoder.py", "proxies/targets/metrics.py",
    "proxies/targets/passages.py", "proxies/targets/rows.py", "proxies/targets/tokens.py", "proxies/targets/vision.py",
    "proxies/module_loss.py", "proxies/schedule.py", "evaluator/validation/training.py",
    "evaluator/validation/width_transfer.py", "discovered/optimizer.py", "discovered/fused_step.py",
    "discovered/export_torch.py", "discovered/rule_text.py", "discovered/by_role.py", "discovered/sampled.py",
    "dsl/to_c.py", "dsl/fused.c", "dsl/to_torch.py", "dsl/to_triton.py", "dsl/torch_codecs.py", "dsl/torch_helpers.py",
    "dsl/torch_source.py", "dsl/triton_helpers.py",
)  # fmt: skip
DIGEST = "c147151df2e7"


def code_of(path):
    """A file's text without comments, docstrings and spaces."""
    text = re.sub(r'"""[\s\S]*?"""|#.*', "", path.read_text("utf-8"))
    return re.sub(r"\s", "", text)


def test_records_know_the_code_that_made_them():
    root = Path(__file__).parents[1]
    digest = hashlib.sha256("".join(code_of(root / name) for name in SOURCES).encode()).hexdigest()[:12]
    assert digest == DIGEST, (
        "what decides a run's losses has changed: where losses change, raise VERSION in "
        f"evaluator/validation/training.py (runs of other versions are not used); then put {digest} here"
    )
