"""Exported optimizers on parameters that two processes share (FSDP2), saved and loaded by distributed checkpointing."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

RULES = ["lion", "adamw", "c_adamw", "muon", "adafactor", "galore", "sgd_sai", "fira", "swan", "bounded"]


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without torch.distributed")
def test_shards_move_as_the_whole(tmp_path):
    script = Path(__file__).with_name("sharded_checks.py")
    command = [sys.executable, str(script), str(tmp_path / "store"), *RULES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    *lines, averages, codec, draws, workers = done.stdout.strip().split("\n")
    assert lines == [f"{name} moves shards as the whole" for name in RULES]
    assert averages == "onebit_adam averages over processes"
    assert codec.startswith("adam8bit: Adam8bit keeps 'm' in a codec of whole tensors, and a parameter is sharded; ")
    assert workers.startswith("onebit_adam: OnebitAdam averages over processes that hold whole parameters each, and")
    assert draws == "apollo: Apollo draws for whole tensors, and a parameter is sharded"
