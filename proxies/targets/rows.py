"""Images and tables of scikit-learn, divided into examples to train on, to tune on, and to touch once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from ...dsl.draws import Stream, normal, philox
from ..data import Batch

# Shares of the examples, in one fixed shuffle.
PARTS = {"train": (0.0, 0.6), "validation": (0.6, 0.8), "test": (0.8, 1.0)}


@cache
def _loaded(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (N, features) float32 of mean 0 and deviation 1 over the data, pixels as they are, and classes (N,)."""
    from sklearn import datasets

    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    order = np.argsort(philox(0, stream=Stream.PROBLEM).random_raw(len(x)), kind="stable")
    x = x / 16 if name == "digits" else (x - x.mean(0)) / x.std(0)
    return x[order].astype(np.float32), y[order].astype(np.int64)


@dataclass(frozen=True)
class Rows:
    """A data set of scikit-learn in shuffled epochs, under normal noise of a standard deviation, drawn anew.

    Batches: x (B, features) float32 and y (B,) int64 classes, functions of (seed, step). Validation and test are
    without noise.

    >>> [len(b.y) for b in Rows("wine").validation()]
    [35]
    """

    name: str
    noise: float = 0.0

    def batches(self, seed: int, steps: int, size: int) -> Iterator[Batch]:
        """`steps` batches of `size` examples; the same whatever `steps`."""
        x, y = self._part("train")
        each = len(x) // size
        for step in range(steps):
            epoch, place = divmod(step, each)
            if place == 0:
                order = np.argsort(philox(seed, epoch, Stream.PROBLEM).random_raw(len(x)), kind="stable")
            rows = order[place * size : (place + 1) * size]
            noisy = x[rows]
            if self.noise:
                noisy = noisy + np.float32(self.noise) * normal(philox(seed, step, Stream.BATCH), noisy.shape)
            yield Batch(torch.from_numpy(noisy), torch.from_numpy(y[rows]))

    def validation(self) -> list[Batch]:
        """The examples that settings are chosen on."""
        return [self._whole("validation")]

    def test(self) -> list[Batch]:
        """The examples that are touched once."""
        return [self._whole("test")]

    def digest(self) -> str:
        """A hash of all examples in their order."""
        return hashlib.sha256(b"".join(a.tobytes() for a in _loaded(self.name))).hexdigest()

    def _part(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        x, y = _loaded(self.name)
        a, b = (round(share * len(x)) for share in PARTS[part])
        return x[a:b], y[a:b]

    def _whole(self, part: str) -> Batch:
        x, y = self._part(part)
        return Batch(torch.from_numpy(x), torch.from_numpy(y))
