"""Examples that lie in memory as the data of a task."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ..dsl.draws import Stream, indices, philox
from .data import Batch
from .source import digest_of
from .task_error import TaskError

_VALIDATION_BATCH = 256  # at most


class Examples:
    """Inputs and targets, divided by a fixed shuffle into examples to train on and to validate on.

    A batch is drawn with replacement, a function of (seed, step). Validation is in batches of one size of at most
    256; what does not fill them is left out.

    Args:
        x: (N, ...) tensor or array.
        y: (N, ...) targets, labels from 0 or what the task's loss takes.
        validation: The share to validate on.

    Raises:
        TaskError: Unlike lengths, or a share that leaves a part empty.

    >>> data = Examples(torch.rand(100, 3), torch.arange(100) % 2, validation=0.3)
    >>> next(data.batches(0, 1, 8)).x.shape, [len(batch.y) for batch in data.validation()]
    (torch.Size([8, 3]), [30])
    """

    def __init__(self, x: Any, y: Any, validation: float = 0.2) -> None:
        self.all = Batch(torch.as_tensor(x), torch.as_tensor(y))
        count, targets = len(self.all.x), len(self.all.y)
        if count != targets:
            raise TaskError(f"Examples takes one target for each input, and there are {count} of x and {targets} of y")
        held_out = round(validation * count)
        if not 0 < held_out < count:
            raise TaskError(f"Examples cannot leave {validation:g} of {count} examples to validation; write 0.2, say")
        order = np.argsort(philox(0, stream=Stream.PROBLEM).random_raw(count), kind="stable")
        self.train, self.held_out = order[held_out:], order[:held_out]

    def batches(self, seed: int, steps: int, size: int) -> Iterator[Batch]:
        """`steps` batches of `size` examples; batch i depends on (seed, i, size) only."""
        for step in range(steps):
            yield self._at(self.train[indices(philox(seed, step), size, len(self.train))])

    def validation(self) -> list[Batch]:
        """The held-out examples, the same for every seed."""
        count = -(-len(self.held_out) // _VALIDATION_BATCH)
        size = len(self.held_out) // count
        return [self._at(self.held_out[i * size : (i + 1) * size]) for i in range(count)]

    def digest(self) -> str:
        """A hash of all examples and of how they are divided."""
        return digest_of([self.all, Batch(torch.from_numpy(self.held_out), torch.from_numpy(self.train))])

    def _at(self, rows: np.ndarray) -> Batch:
        chosen = torch.from_numpy(rows)
        return self.all.map(lambda t: t[chosen])
