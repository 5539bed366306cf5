"""The model's pass in training: in float32, or in a format of less precision beside weights that stay float32."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..proxies import Model
from ..proxies.data import Batch

#: Formats of the pass by name.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def dtype_of(name: str) -> torch.dtype:
    """The format of a name.

    Raises:
        ValueError: A format that no pass is written for.

    >>> dtype_of("bfloat16")
    torch.bfloat16
    """
    if name not in DTYPES:
        raise ValueError(f"unknown dtype {name!r}: the model's pass runs in {' or '.join(DTYPES)}")
    return DTYPES[name]


class Gradients:
    """Losses and gradients of a population; `grads` holds the last ones, in the dtype of the weights.

    With a `dtype` other than the weights', each call rounds the weights to copies, runs the pass forward and backward
    in them, and reads its gradients back. Losses then have that precision too.
    """

    def __init__(self, model: Model, params: Sequence[Tensor], dtype: str = "float32") -> None:
        kind = dtype_of(dtype)
        self.model, self.params = model, params
        self.grads = [torch.empty_like(p) for p in params]
        rounds = kind != params[0].dtype
        self._low = [[torch.empty_like(p, dtype=kind) for p in params] for _ in range(2)] if rounds else None

    def __call__(self, batch: Batch) -> Tensor:
        """(P,) losses in nats on a batch."""
        if self._low is None:
            return self.model.gradients(self.params, batch, out=self.grads)[0]
        weights, slopes = self._low
        torch._foreach_copy_(weights, list(self.params))
        losses, _ = self.model.gradients(weights, batch, out=slopes)
        torch._foreach_copy_(self.grads, slopes)
        return losses
