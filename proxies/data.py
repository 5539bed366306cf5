"""What a proxy is trained on: batches that are a function of (seed, step) alone, and fixed held-out ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor


class Batch(NamedTuple):
    """One batch, seen by every copy of the population: `x` (B, ...) inputs and `y` (B, ...) targets."""

    x: Tensor
    y: Tensor

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        return Batch(self.x.to(device), self.y.to(device))


@runtime_checkable
class Data(Protocol):
    """A source of batches on the CPU."""

    def batches(self, seed: int, steps: int, size: int) -> Iterator[Batch]:
        """`steps` training batches of `size` examples; batch i depends on (seed, i, size) only."""
        ...

    def validation(self) -> list[Batch]:
        """The fixed held-out data, the same for every seed and candidate, in batches of one size."""
        ...

    def digest(self) -> str:
        """A hash of the content: what was read and how it was divided."""
        ...
