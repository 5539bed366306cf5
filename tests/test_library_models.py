"""Models of other libraries are tasks as they are."""

import sys
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits

import stepsmith as ss
from stepsmith.evaluator.train import train
from stepsmith.proxies.text import Text

sys.path.append(str(Path(__file__).parent))

from torchvision_ops import declare_ops, timm_or_skip


def learns(task, lr: float, below: float) -> None:
    """It passes the first look; three copies train together as alone, one of them well."""
    assert "one by one" not in ss.smoketest_task(task)["population"]
    programs = [ss.load("adamw").with_lr(lr * factor) for factor in (0.1, 0.3, 1.0)]
    together = train(task, programs, seed=0)
    alone = train(task, programs[2:], seed=0)
    assert together[2].loss == pytest.approx(alone[0].loss, rel=1e-3)
    assert together[2].loss < below


def test_a_gpt2_of_transformers_learns_speeches():
    declare_ops()  # transformers imports torchvision where it is installed
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")

    def gpt2():
        sizes = {"vocab_size": 128, "n_positions": 16, "n_embd": 24, "n_layer": 2, "n_head": 2}
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))

    task = ss.task_of_module(gpt2, Text(held_out=128), batch=16, steps=60, name="gpt2")
    assert sorted(name for name, role in task.model.roles.items() if role == "embedding") == [
        "transformer.wpe.weight", "transformer.wte.weight"]  # fmt: skip
    assert "lm_head.weight" not in task.model.shapes  # tied: trained once
    learns(task, lr=1e-2, below=3.2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_vision_transformer_of_timm_learns_digits():
    timm = timm_or_skip()

    def vit():
        return timm.create_model("vit_tiny_patch16_224", img_size=8, patch_size=4, in_chans=1, num_classes=10,
                                 embed_dim=32, depth=2, num_heads=2, drop_path_rate=0.05)  # fmt: skip

    images, labels = load_digits(return_X_y=True)
    data = ss.Examples(torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(labels))
    task = ss.task_of_module(vit, data, batch=32, steps=120, name="vit")
    learns(task, lr=1e-2, below=1.2)
