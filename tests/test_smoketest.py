"""The first look at a task: what is sound passes, and the first thing that is not is one line."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import stepsmith as ss
from stepsmith.proxies import TaskError

sys.path.append(str(Path(__file__).parent))

import own_modules


@pytest.mark.parametrize("name", ["digits", "bytes"])
def test_the_proxies_pass(name):
    assert "ms a copy and step" in ss.smoketest_task(name)["cost"]


def test_modules_of_every_kind_pass():
    for name, task in own_modules.tasks().items():
        found = ss.smoketest_task(task)
        assert "(float64)" in found["gradient"], name
        assert ("one by one" in found["population"]) == (name == "branching")


class Sound:
    steps, batch = 10, 8
    data = own_modules._images()

    def module(self):
        return own_modules.network()


class Forgetful(Sound):
    """Its weights are drawn by another library."""

    def module(self):
        module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        module[1].weight.data = torch.from_numpy(np.random.default_rng().normal(size=(10, 64))).float()
        return module


class Rooted(Sound):
    """Its loss is finite, and a gradient of it is not: that of a norm at 0."""

    def loss(self, module, batch):
        return F.cross_entropy(module(batch.x), batch.y) + (0 * module(batch.x)).square().sum().sqrt()


class Fixed(Sound):
    one = own_modules.network()

    def module(self):
        return self.one


class _Drifting:
    def __init__(self, train: bool) -> None:
        self.train, self.count, self.sound = train, itertools.count(), own_modules._images()

    def batches(self, seed, steps, size):
        for x, y, _ in self.sound.batches(seed, steps, size):
            yield x + (next(self.count) if self.train else 0), y

    def validation(self):
        return [(x + (0 if self.train else next(self.count)), y) for x, y, _ in self.sound.validation()]


class DriftingBatches(Sound):
    data = _Drifting(train=True)


class DriftingValidation(Sound):
    data = _Drifting(train=False)


class Uneven:
    steps, batch = 10, 8
    module = Sound.module

    def batches(self, seed, steps):
        return own_modules._images().batches(seed, steps, 8)

    def validation(self):
        x, y, _ = own_modules._images().validation()[0]
        return [(x[:10], y[:10]), (x[10:15], y[10:15])]


class Wrong(Sound):
    """A gradient that is cut off."""

    def loss(self, module, batch):
        return F.cross_entropy(module(batch.x), batch.y) * module(batch.x).detach().square().mean()


class Vector(Sound):
    def loss(self, module, batch):
        return F.cross_entropy(module(batch.x), batch.y, reduction="none")


class Real(Sound):
    data = ss.Examples(torch.zeros(50, 64), torch.zeros(50))


class Raising(Sound):
    def loss(self, module, batch):
        return module(batch.x)[99, 0]


class Infinite(Sound):
    def loss(self, module, batch):
        return module(batch.x).mean() / 0


@pytest.mark.parametrize(
    ("task", "says"),
    [
        (Forgetful, "determinism: seed 0 twice gives other initial weights"),
        (Fixed, "determinism: seeds 0 and 1 give the same initial weights"),
        (DriftingBatches, "determinism: batch 0 of seed 0 is another the second time"),
        (DriftingValidation, "validation: validation() gives other data the second time"),
        (Uneven, "validation: batches have [5, 10] examples"),
        (Wrong, "gradient: is "),
        (Vector, "the loss of a batch is one number, a tensor of shape (), and not a tensor of shape (8,)"),
        (Real, "give the task a loss(module, batch)"),
        (Raising, "IndexError: index 99 is out of bounds"),
        (Infinite, "shapes: losses of 4 copies are"),
        (Rooted, "shapes: a gradient is not finite"),
    ],
)
def test_what_is_not_sound_is_one_line(task, says):
    with pytest.raises(TaskError) as caught:
        ss.smoketest_task(task)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_the_line_of_the_tasks_own_code_is_named():
    with pytest.raises(TaskError, match=r"test_smoketest.py:\d+: IndexError"):
        ss.smoketest_task(Raising)


def test_data_that_is_drawn_anew_in_every_process_is_found(tmp_path):
    text = """import torch
from torch import nn
import stepsmith as ss

class Mine:
    steps, batch = 48, 8
    data = ss.Examples(torch.randn(200, 6), torch.arange(200) % 2)

    def module(self):
        return nn.Linear(6, 2)
"""
    for name, seeded in (("drawn", text), ("seeded", text.replace("torch.randn(200, 6)", "torch.eye(200)[:, :6]"))):
        (tmp_path / f"{name}.py").write_text(seeded)
    assert ss.smoketest_task(f"{tmp_path}/seeded.py:Mine")
    with pytest.raises(TaskError, match="another process loads other data or settings from the file"):
        ss.smoketest_task(f"{tmp_path}/drawn.py:Mine")
