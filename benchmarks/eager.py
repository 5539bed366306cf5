"""The baseline: the proxies' models as ordinary modules, one at a time, trained through autograd.

Written the way a person writes a small model for speed: one product for queries, keys and values, torch's own
attention, norm and loss, gradients set to None rather than to zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepsmith.proxies import Batch, Model
from stepsmith.proxies.mlp import MLP
from stepsmith.proxies.transformer import Transformer

_EPS = 1e-5


class EagerMLP(nn.Module):
    """`proxies.mlp.MLP`, one copy."""

    def __init__(self, model: MLP) -> None:
        super().__init__()
        self.hidden = nn.Linear(model.features, model.hidden)
        self.head = nn.Linear(model.hidden, model.classes)

    def forward(self, batch: Batch) -> Tensor:
        """The mean loss in nats."""
        return F.cross_entropy(self.head(F.relu(self.hidden(batch.x))), batch.y)

    def views(self) -> list[Tensor]:
        """The weights in the order of the model's `shapes`."""
        return [self.hidden.weight, self.hidden.bias, self.head.weight, self.head.bias]


class Block(nn.Module):
    """Attention and an MLP, each behind a norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 2 * width, bias=False)
        self.down = nn.Linear(2 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) to the same."""
        rows, time, width = x.shape
        split = (rows, time, self.heads, width // self.heads)
        q, k, v = (part.view(split).transpose(1, 2) for part in self.qkv(_norm(x)).split(width, -1))
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(rows, time, width))
        return x + self.down(F.relu(self.up(_norm(x))))

    def views(self) -> list[Tensor]:
        """The weights in the order of the model's `shapes`: query, key and value are parts of one matrix."""
        return [*self.qkv.weight.chunk(3), self.out.weight, self.up.weight, self.down.weight]


class EagerTransformer(nn.Module):
    """`proxies.transformer.Transformer`, one copy."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.token = nn.Embedding(model.symbols, model.width)
        self.position = nn.Parameter(torch.empty(model.length, model.width))
        self.blocks = nn.ModuleList(Block(model.width, model.heads) for _ in range(model.layers))
        self.head = nn.Linear(model.width, model.symbols, bias=False)

    def forward(self, batch: Batch) -> Tensor:
        """The mean loss in nats."""
        x = self.token(batch.x) + self.position[: batch.x.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(self.head(_norm(x)).flatten(0, 1), batch.y.flatten())

    def views(self) -> list[Tensor]:
        """The weights in the order of the model's `shapes`."""
        blocks = (view for block in self.blocks for view in block.views())
        return [self.token.weight, self.position, *blocks, self.head.weight]


def _norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), eps=_EPS)


def eager(model: Model, copy: Sequence[Tensor]) -> EagerMLP | EagerTransformer:
    """The model as a module that holds this copy of its weights, in their dtype.

    Raises:
        TypeError: A model without an eager form.
    """
    if isinstance(model, MLP):
        module: EagerMLP | EagerTransformer = EagerMLP(model)
    elif isinstance(model, Transformer):
        module = EagerTransformer(model)
    else:
        raise TypeError(f"no eager form of {type(model).__name__}")
    module.to(copy[0].dtype)
    with torch.no_grad():
        for view, values in zip(module.views(), copy, strict=True):
            view.copy_(values)
    return module


class EagerLoop:
    """A module and torch's AdamW."""

    def __init__(self, model: Model, copy: Sequence[Tensor], fused: bool = False, **settings: float) -> None:
        self.module = eager(model, copy)
        self.optimizer = torch.optim.AdamW(self.module.parameters(), fused=fused or None, **settings)

    def step(self, batch: Batch) -> Tensor:
        """One training step; the loss before it."""
        self.optimizer.zero_grad()
        loss = self.module(batch)
        loss.backward()
        self.optimizer.step()
        return loss.detach()
