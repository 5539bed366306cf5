"""What a proxy is trained on: batches that are a function of (seed, step) alone, and fixed held-out ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor


class Batch(NamedTuple):
    """One batch, seen by every copy of the population: `x` (B, ...) inputs and `y` (B, ...) targets.

    For a module each is what its loss reads: a tensor, or a tuple or dict of them. `key` seeds what the module draws
    in training, such as dropout; None on a batch that measures.
    """

    x: Any
    y: Any
    key: int | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The same batch with every tensor changed.

        >>> Batch(torch.ones(2), {"mask": torch.ones(2)}).map(lambda t: 2 * t).y
        {'mask': tensor([2., 2.])}
        """
        return Batch(_mapped(self.x, change), _mapped(self.y, change), self.key)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        return self.map(lambda t: t.to(device))

    def tensors(self) -> list[Tensor]:
        """All tensors, in a fixed order."""
        return [*_tensors(self.x), *_tensors(self.y)]


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (dict, tuple, list)):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from _tensors(value)


def _mapped(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, dict):
        return {name: _mapped(value, change) for name, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        return tuple(_mapped(value, change) for value in tree)
    return tree


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
