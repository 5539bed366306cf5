"""Random numbers that depend on nothing but what they are for: Philox keyed by (seed, step).

Tasks draw batches and weights from it, programs their noise: the same numbers in every lowering.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What a draw is for; streams of one (seed, step) never overlap."""

    BATCH = 0
    VALIDATION = 1
    INIT = 2
    PROBLEM = 3
    NOISE = 4
    PROJECTION = 5
    ROUNDING = 6
    PROBE = 7
    LABELS = 8
    MODULE = 9


def philox(seed: int, step: int = 0, stream: Stream = Stream.BATCH, tensor: int = 0) -> np.random.Philox:
    """The bit generator of one (seed, step) in one stream, and of one tensor where it matters.

    Args:
        seed: Key, 0 <= seed < 2**64.
        step: Key, 0 <= step < 2**64.
        stream: Upper word of the counter, so each stream has 2**192 blocks to itself.
        tensor: The word below it.

    Raises:
        ValueError: A seed or step outside that range.

    >>> philox(0, 1).random_raw(2).tolist() == philox(0, 1).random_raw(2).tolist()
    True
    """
    if not (0 <= seed < 2**64 and 0 <= step < 2**64):
        raise ValueError(f"seed and step must lie in [0, 2**64), not {seed} and {step}")
    key = np.array((seed, step), dtype=np.uint64)
    return np.random.Philox(key=key, counter=np.array((0, 0, tensor, stream), dtype=np.uint64))


def indices(bits: np.random.Philox, count: int, below: int) -> np.ndarray:
    """`count` indices in [0, below), with replacement.

    The raw stream is part of numpy's promise, `Generator.integers` is not; the bias below / 2**64 is nothing.
    """
    return (bits.random_raw(count) % np.uint64(below)).astype(np.int64)


def normal(bits: np.random.Philox, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal float32 draws."""
    return np.random.Generator(bits).standard_normal(shape, dtype=np.float32)


def uniform(bits: np.random.Philox, shape: tuple[int, ...]) -> np.ndarray:
    """Float32 draws from [0, 1)."""
    return np.random.Generator(bits).random(shape, dtype=np.float32)


def noise(seed: int, step: int, tensor: int, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal float32 draws of one tensor: what programs read as noise, and `two_point` goes along."""
    return normal(philox(seed, step, Stream.NOISE, tensor), shape)


def projection(seed: int, step: int, tensor: int, shape: tuple[int, ...]) -> np.ndarray:
    """Float64 standard normal draws for the random projection of one tensor."""
    return normal(philox(seed, step, Stream.PROJECTION, tensor), shape).astype(np.float64)


def rounding(seed: int, step: int, tensor: int, state: int, shape: tuple[int, ...]) -> np.ndarray:
    """Float64 draws from [0, 1) for the stochastic rounding of one state of one tensor."""
    return uniform(philox(seed, step, Stream.ROUNDING, tensor + (state << 32)), shape).astype(np.float64)
