"""Mean cross-entropy over the last axis, for a population, in few passes over memory."""

from __future__ import annotations

import torch
from torch import Tensor

from .workspace import Workspace


def cross_entropy(logits: Tensor, targets: Tensor, scratch: Workspace) -> tuple[Tensor, Tensor]:
    """Losses (P,) in nats and probabilities (P, N, V), from logits (P, N, V), overwritten, and targets (N,).

    loss = mean_n -log p(n, y_n) with p = softmax over V, kept because the gradient needs it. One target's
    loss is cut at -log of the least normal number, 87 nats in float32, where p underflows.
    """
    # In place, which halves the memory touched; the kernels read a value before they write over it.
    probs = torch.softmax(logits, -1, out=logits)
    chosen = probs.view(len(probs), -1).index_select(1, _positions(targets, logits.shape[-1], scratch))
    return chosen.clamp_min_(torch.finfo(chosen.dtype).tiny).log_().mean(1).neg_(), probs


def subtract_targets(probs: Tensor, targets: Tensor, scratch: Workspace) -> Tensor:
    """`probs` - onehot(targets), in place: N times the gradient of the mean loss by the logits, (P, N, V).

    Targets are (N,), or (P, N) where each copy has its own.
    """
    copies, rows, symbols = probs.shape
    if targets.ndim == 2:
        places = _positions(targets, symbols, scratch)
        probs.view(copies, -1).scatter_add_(1, places, probs.new_full((1, 1), -1.0).expand(copies, rows))
        return probs
    minus_one = scratch.constant("minus one", lambda: probs.new_full((1, 1), -1.0)).expand(copies, rows)
    # Every position is hit once, so the sum is exact and its order does not matter.
    probs.view(copies, -1).index_add_(1, _positions(targets, symbols, scratch), minus_one)
    return probs


def sample_targets(probs: Tensor, uniform: Tensor) -> Tensor:
    """Labels (P, N) drawn from probabilities (P, N, V) by inversion of numbers (N,) from [0, 1)."""
    below = probs.cumsum(-1) <= uniform.to(probs)[:, None]
    return below.sum(-1).clamp(max=probs.shape[-1] - 1)


def _positions(targets: Tensor, symbols: int, scratch: Workspace) -> Tensor:
    """Where each target lies in a copy's flattened (N * V,) table."""
    rows = targets.shape[-1]
    starts = scratch.constant("starts", lambda: torch.arange(0, rows * symbols, symbols))
    return starts + targets
