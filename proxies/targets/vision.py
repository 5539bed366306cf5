"""A vision transformer, and a perceptron for tables."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class VisionTransformer(nn.Module):
    """Square images of one channel, flattened (B, side * side) -> logits (B, classes).

    Patches are embedded by one linear map, learned positions are added, and the mean over patches after the last block
    is classified (Dosovitskiy et al. 2021, arXiv:2010.11929; mean in place of a class token: Beyer et al. 2022,
    arXiv:2205.01580).

    >>> VisionTransformer(side=8, patch=2, width=32, layers=1, heads=2, classes=10)(torch.zeros(5, 64)).shape
    torch.Size([5, 10])
    """

    def __init__(self, side: int, patch: int, width: int, layers: int, heads: int, classes: int) -> None:
        super().__init__()
        self.side, self.patch = side, patch
        self.embed = nn.Linear(patch * patch, width)
        self.position = nn.Parameter(0.02 * torch.randn((side // patch) ** 2, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, F.gelu, batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the classes."""
        count = self.side // self.patch
        x = images.view(-1, count, self.patch, count, self.patch).transpose(2, 3).reshape(len(images), count**2, -1)
        x = self.embed(x) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


def perceptron(features: int, hidden: int, classes: int) -> nn.Module:
    """Two hidden layers of GELU with layer norm, for tables.

    >>> perceptron(13, 32, 3)(torch.zeros(2, 13)).shape
    torch.Size([2, 3])
    """
    return nn.Sequential(
        nn.Linear(features, hidden), nn.LayerNorm(hidden), nn.GELU(),
        nn.Linear(hidden, hidden), nn.LayerNorm(hidden), nn.GELU(),
        nn.Linear(hidden, classes),
    )  # fmt: skip
