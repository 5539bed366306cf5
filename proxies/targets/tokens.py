"""Windows of tokens in epochs: every window of the training text is seen once before any is seen again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from ...dsl.draws import Stream, indices, philox
from ..data import Batch
from ..task_error import TaskError
from .corpus import corpus, tokens

_ROWS = 64  # windows of a batch that measures
_LEAST_WINDOWS = 16  # of a part that measures


@dataclass(frozen=True)
class Tokens:
    """Windows of `length` tokens and the tokens one further on, from one source.

    An epoch cuts the training text, from an offset of its own, into windows that share nothing, and shuffles them:
    batch i is a function of (seed, i, size). Batches: x and y (B, length) int64.

    Attributes:
        source: See `corpus`.
        vocabulary: 128 for bytes, else the size of a byte-pair encoding.
        held_out: Windows at even distances that validation, and the test, measure on.
    """

    source: str = "speeches"
    vocabulary: int = 128
    length: int = 64
    held_out: int = 512

    def windows(self) -> int:
        """Windows of the training text, which share nothing."""
        return max(0, len(self._part("train")) - self.length - 1) // self.length

    def epoch(self, size: int) -> int:
        """Batches of `size` windows in an epoch; what does not fill one is left out, other windows in each epoch."""
        return self.windows() // size

    def check(self, size: int) -> None:
        """Raises TaskError, in one line, where a part of the text is too short for its windows."""
        if not self.epoch(size):
            raise TaskError(
                f"text {self.source!r}: {len(self._part('train')):,} symbols to train on are less than a batch of "
                f"{size} windows of {self.length}; give a longer text, or take a smaller target"
            )
        for part in ("validation", "test"):
            if (size := len(self._part(part))) < _LEAST_WINDOWS * self.length:
                raise TaskError(
                    f"text {self.source!r}: its {part} documents hold {size:,} symbols, and need "
                    f"{_LEAST_WINDOWS * self.length:,}; give a longer text, or take a smaller target"
                )

    def batches(self, seed: int, steps: int, size: int) -> Iterator[Batch]:
        """`steps` batches of `size` windows; the same whatever `steps`."""
        each, text = self.epoch(size), self._part("train")
        for epoch in range(-(-steps // each)):
            starts = self._shuffled(seed, epoch)
            for place in range(min(each, steps - epoch * each)):
                yield self._windows(text, starts[place * size : (place + 1) * size])

    def validation(self) -> list[Batch]:
        """Windows of the documents that settings are chosen on."""
        return self._even("validation")

    def test(self) -> list[Batch]:
        """Windows of the documents that are touched once."""
        return self._even("test")

    def digest(self) -> str:
        """A hash of the text and of its encoding."""
        sha = hashlib.sha256()
        for part in ("train", "validation", "test"):
            sha.update(hashlib.sha256(corpus(self.source, part)).digest())
        if self.vocabulary != 128:
            sha.update(self._part("validation").tobytes())
        return sha.hexdigest()

    def bytes_per_token(self) -> float:
        """Bytes of text that a token stands for, on the test documents."""
        return len(corpus(self.source, "test")) / len(self._part("test"))

    def _part(self, part: str) -> np.ndarray:
        return tokens(self.source, part, self.vocabulary)

    def _shuffled(self, seed: int, epoch: int) -> np.ndarray:
        bits = philox(seed, epoch, Stream.BATCH)
        offset = int(indices(bits, 1, self.length)[0])
        return np.argsort(bits.random_raw(self.windows()), kind="stable") * self.length + offset

    def _even(self, part: str) -> list[Batch]:
        text = self._part(part)
        starts = np.linspace(0, len(text) - self.length - 1, self.held_out).astype(np.int64)
        return [self._windows(text, some) for some in np.split(starts, range(_ROWS, self.held_out, _ROWS))]

    def _windows(self, text: np.ndarray, starts: np.ndarray) -> Batch:
        found = text[starts[:, None] + np.arange(self.length + 1)].astype(np.int64)
        windows = torch.from_numpy(found)
        return Batch(windows[:, :-1], windows[:, 1:])
