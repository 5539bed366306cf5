"""Small modules of every kind that tasks are made of, with data for them."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

import stepsmith as ss
from stepsmith.proxies import Task
from stepsmith.proxies.text import Text


def _images(channels: int = 1) -> ss.Examples:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(120, channels, 8, 8, generator=generator)
    return ss.Examples(images, (images.mean((1, 2, 3)) * 8).long() % 10)


class Encoder(nn.Module):
    """A causal transformer encoder with dropout, which keeps its mask in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(128, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.2, batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 128)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(16))

    def forward(self, x):
        return self.head(self.blocks(self.table(x), mask=self.mask))


class Tied(nn.Module):
    """A table that is the head too; a frozen shift, and a count that the module writes to."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(128, 12)
        self.mix = nn.Linear(12, 12)
        self.head = nn.Linear(12, 128, bias=False)
        self.head.weight = self.table.weight
        self.shift = nn.Parameter(torch.randn(12), requires_grad=False)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.head(torch.tanh(self.mix(self.table(x)) + self.shift) * self.calls)


class Branching(nn.Module):
    """Its way depends on a value that its weights decide, which no population can take at once."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(64, 10)

    def forward(self, x):
        y = self.map(x.flatten(1))
        return y if y[0, 0] > 0 else 2 * y


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 10)
    )


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.GELU(), nn.Dropout(0.2), nn.Linear(16, 10))


def squared(module: nn.Module, batch: ss.Batch) -> torch.Tensor:
    return F.mse_loss(module(batch.x), F.one_hot(batch.y, 10).float())


def tasks() -> dict[str, Task]:
    """A task of each."""
    short = {"batch": 8, "steps": 16}
    return {
        "network": ss.task_of_module(network, _images(), name="network", **short),
        "squared": ss.task_of_module(network, _images(), loss=squared, name="squared", **short),
        "convolutions": ss.task_of_module(convolutions, _images(), name="convolutions", **short),
        "encoder": ss.task_of_module(Encoder, Text(held_out=64), name="encoder", **short),
        "tied": ss.task_of_module(Tied, Text(held_out=64), name="tied", **short),
        "branching": ss.task_of_module(Branching, _images(), name="branching", **short),
    }
