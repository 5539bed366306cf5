"""Data of the user's own as the data of a task: checked, with keys for what a module draws, and a digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from typing import Any

import torch

from ..dsl.draws import Stream, philox
from .data import Batch
from .task_error import TaskError, blamed


class Source:
    """What a task trains and measures on, from an object with `batches(seed, steps, size)` and `validation()`.

    Each gives batches, or pairs (x, y) of tensors, arrays, or tuples or dicts of them. Training batches get a key, a
    function of (seed, step). A `digest()` is used where there is one; else the first batch of seed 0 and the
    validation data are hashed.

    Args:
        name: Of the task, for errors.
        data: The object.

    Raises:
        TaskError: In one line, for what the object lacks, and at use for what it raises.
    """

    def __init__(self, name: str, data: Any) -> None:
        lacking = [f"{method}()" for method in ("batches", "validation") if not hasattr(data, method)]
        if lacking:
            raise TaskError(f"{name}: data is a {type(data).__name__}, which lacks {' and '.join(lacking)}")
        self.name, self.data = name, data

    def __repr__(self) -> str:
        """Nothing but the kind: what it holds is in the digest."""
        return "Source()"

    def batches(self, seed: int, steps: int, size: int) -> Iterator[Batch]:
        """`steps` training batches, each with a key; raises TaskError where there are fewer."""
        step = -1
        try:
            for step, given in enumerate(islice(self.data.batches(seed, steps, size), steps)):
                yield self._batch(given, int(philox(seed, step, Stream.MODULE).random_raw()) >> 1)
        except Exception as error:
            raise blamed(self.name, error) from error
        if step + 1 < steps:
            raise TaskError(f"{self.name}: batches({seed}, {steps}) ended after {step + 1}; it gives one for each step")

    def validation(self) -> list[Batch]:
        """The held-out data, made once."""
        return self._held_out

    @cached_property
    def _held_out(self) -> list[Batch]:
        found = self.fresh_validation()
        if not found:
            raise TaskError(f"{self.name}: validation() gives no batch")
        return found

    def fresh_validation(self) -> list[Batch]:
        """The held-out data, made anew."""
        try:
            found = self.data.validation()
            if isinstance(found, tuple) and any(hasattr(part, "shape") for part in found):
                raise TaskError(f"{self.name}: validation() is a list of pairs, [(x, y)], and not one pair")
            return [self._batch(given, None) for given in found]
        except Exception as error:
            raise blamed(self.name, error) from error

    def digest(self) -> str:
        """A hash of the content."""
        if hasattr(self.data, "digest"):
            return str(self.data.digest())
        first = next(self.batches(0, 1, getattr(self.data, "batch", 1)))
        return digest_of([first, *self.validation()])

    def _batch(self, given: Any, key: int | None) -> Batch:
        if not isinstance(given, (tuple, list)) or len(given) not in (2, 3):
            raise TaskError(f"{self.name}: a batch is a pair (x, y), and not a {type(given).__name__}")
        batch = Batch(_as_tensors(given[0]), _as_tensors(given[1]), key)
        if not batch.tensors():
            raise TaskError(f"{self.name}: a batch holds no tensor, only {type(given[0]).__name__}s")
        return batch


def digest_of(batches: list[Batch]) -> str:
    """A hash of the shapes, dtypes and bytes of batches.

    >>> one = Batch(torch.zeros(2), torch.ones(2))
    >>> digest_of([one]) == digest_of([one, one])
    False
    """
    sha = hashlib.sha256()
    for batch in batches:
        for tensor in batch.tensors():
            sha.update(f"{tuple(tensor.shape)} {tensor.dtype} ".encode())
            sha.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def _as_tensors(tree: Any) -> Any:
    """Arrays as tensors, in tuples and dicts too."""
    if isinstance(tree, dict):
        return {name: _as_tensors(value) for name, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        return tuple(_as_tensors(value) for value in tree)
    return torch.as_tensor(tree) if hasattr(tree, "__array__") else tree
