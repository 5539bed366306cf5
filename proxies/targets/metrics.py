"""Metrics of trained targets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...dsl.draws import Stream, indices, philox
from ..data import Batch

_CHOICES = 4
_RANK = 10


def accuracy(module: nn.Module, batches: Sequence[Batch]) -> float:
    """The share of examples whose class has the largest logit.

    >>> accuracy(nn.Identity(), [Batch(torch.eye(3), torch.tensor([0, 1, 1]))])  # doctest: +ELLIPSIS
    0.666...
    """
    right = [(module(b.x).argmax(-1) == b.y).float().mean() for b in batches]
    return float(torch.stack(right).mean())


def continuation_choice(module: nn.Module, batches: Sequence[Batch]) -> float:
    """How often a language model finds, among four, the second half of a window that its first half goes on with.

    The other three are second halves of other windows of the batch, fixed; the right one must be likelier than each. Of
    equal ones, or where a likelihood is NaN, none is found.
    """
    right: list[Tensor] = []
    for number, batch in enumerate(batches):
        x, y = batch.x, batch.y
        half, rows = x.shape[1] // 2, len(x)
        shift = indices(philox(0, number, Stream.VALIDATION), _CHOICES - 1, rows - 1) + 1
        scores = [_log_likelihood(module, x, y, half)]
        for by in shift:
            other_x = torch.cat((x[:, : half + 1], x.roll(int(by), 0)[:, half + 1 :]), 1)
            other_y = torch.cat((y[:, :half], y.roll(int(by), 0)[:, half:]), 1)
            scores.append(_log_likelihood(module, other_x, other_y, half))
        first, *others = scores
        right.append(torch.stack([first > other for other in others]).all(0).float().mean())
    return float(torch.stack(right).mean())


def _log_likelihood(module: nn.Module, x: Tensor, y: Tensor, first: int) -> Tensor:
    """(B,) log-likelihoods of y from position `first` on."""
    logits = module(x)[:, first:]
    return -F.cross_entropy(logits.transpose(1, 2), y[:, first:], reduction="none").sum(1)


def mean_reciprocal_rank(scores: Tensor, right: Tensor) -> float:
    """MRR@10: the mean of 1 / rank of the right candidate, 0 below rank 10.

    What ties with it, or is NaN, ranks before it.

    Args:
        scores: (Q, C) a score for each query and candidate.
        right: (Q,) which candidate is right.

    >>> mean_reciprocal_rank(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
    0.75
    """
    of_right = scores.gather(1, right[:, None])
    rank = (~(scores < of_right)).sum(1).cpu().numpy()
    return float(np.where(rank <= _RANK, 1 / rank, 0.0).mean())
