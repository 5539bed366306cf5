"""Codecs: forms in which a state is kept between steps, each with its meaning and its bytes.

After a step a state with a codec is what it would be if it had been written in that form and read again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .dynamic_tree import dynamic_tree

Array = NDArray[np.float64]
Draw = Callable[[tuple[int, ...]], Array]
BLOCK = 256  # elements that share one absolute maximum in the 8-bit maps
_BF16_BITS = 8  # of significand


class Codec(NamedTuple):
    """A codec by name, with its number where it takes one."""

    name: str
    number: int = 0

    def __str__(self) -> str:
        return f"{self.name}({self.number})" if self.number else self.name

    @property
    def words(self) -> str:
        """What its number is, too.

        >>> Codec("int8", 4096).words, Codec("low_rank", 2).words, Codec("bf16").words
        ('int8 from 4096 elements', 'low_rank of rank 2', 'bf16')
        """
        said = {"least elements": f"from {self.number} elements", "rank": f"of rank {self.number}"}
        return f"{self.name} {said[CODECS[self.name].number]}" if self.number else self.name

    @property
    def needs_matrix(self) -> bool:
        """Whether it stores matrices alone."""
        return self.name == "low_rank"

    def bytes(self, shape: tuple[int, ...]) -> float:
        """Bytes that a tensor of this shape takes.

        >>> Codec("bf16").bytes((8, 4)), Codec("low_rank", 2).bytes((8, 4)), Codec("int8", 64).bytes((8, 4))
        (64.0, 96.0, 128.0)
        """
        return CODECS[self.name].bytes(shape, self.number)

    @property
    def torch(self) -> str:
        """The form in which torch keeps it, an expression over `torch_codecs`.

        >>> Codec("uint8", 4096).torch
        'Blocks(4096, signed=False)'
        """
        return CODECS[self.name].torch.format(self.number)

    @property
    def torch_parts(self) -> tuple[str, ...]:
        """What the names of the tensors end in, in which torch keeps it."""
        return tuple(_torch_form(self).parts)

    def kept_torch(self, x: Any, uniform: Draw) -> Any:
        """The same for a torch tensor."""
        form = _torch_form(self)
        return form.read(form.write(x, uniform), x)

    def kept(self, x: Array, uniform: Draw) -> Array:
        """What is read after x was written; `uniform` draws from [0, 1) in a shape."""
        return CODECS[self.name].meaning(x, self.number, uniform)


@dataclass(frozen=True)
class _Row:
    """A codec's meaning in numpy, its form in torch, its bytes."""

    meaning: Callable[[Array, int, Draw], Array]
    torch: str  # takes the number
    bytes: Callable[[tuple[int, ...], int], float]
    number: str = ""  # what the number is; "" takes none
    required: bool = False
    doc: str = ""


@cache
def _torch_form(codec: Codec) -> Any:
    from . import torch_codecs

    return eval(codec.torch, vars(torch_codecs))  # our own text


@cache
def dynamic_map(signed: bool) -> Array:
    """The 256 values of the 8-bit dynamic tree, from -1 (unsigned: 0) to 1, rising.

    Seven decades; the lower a decade, the fewer bits are left for its fraction. Dettmers et al. 2022,
    arXiv:2110.02861, section 1.3.

    >>> dynamic_map(True).size, dynamic_map(False).size, float(dynamic_map(False)[1])
    (256, 256, 3.25e-07)
    """
    return np.array(dynamic_tree(signed))


def _blockwise(signed: bool) -> Callable[[Array, int, Draw], Array]:
    def kept(x: Array, least: int, uniform: Draw) -> Array:
        if x.size < least:
            return x
        blocks = np.zeros((-(-x.size // BLOCK), BLOCK))
        blocks.reshape(-1)[: x.size] = x.reshape(-1)
        scale = np.abs(blocks).max(axis=1, keepdims=True)
        part = blocks / np.where(scale > 0, scale, 1.0)
        table = dynamic_map(signed)
        codes = np.searchsorted((table[:-1] + table[1:]) / 2, part)
        read = np.where(np.isfinite(scale), table[codes] * scale, np.nan)
        return read.reshape(-1)[: x.size].reshape(x.shape)

    return kept


def _bf16(x: Array, number: int, uniform: Draw) -> Array:
    """Rounded up or down at random, so that it is right on average."""
    exponent = np.frexp(x)[1]
    whole = np.floor(np.ldexp(x, _BF16_BITS - exponent) + uniform(x.shape))
    return np.where(np.isfinite(x), np.ldexp(whole, exponent - _BF16_BITS), x)


def _low_rank(x: Array, rank: int, uniform: Draw) -> Array:
    """The nearest matrix of this rank."""
    if not np.isfinite(x).all():
        return np.full_like(x, np.nan)
    u, s, v = np.linalg.svd(x, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank]


def _eight_bits(shape: tuple[int, ...], least: int) -> float:
    elements = int(np.prod(shape))
    return 4.0 * elements if elements < least else elements + 4.0 * -(-elements // BLOCK)


CODECS: dict[str, _Row] = {
    "int8": _Row(_blockwise(True), "Blocks({}, signed=True)", _eight_bits, "least elements",
                 doc="signed 8-bit dynamic map with a maximum per 256 elements"),
    "uint8": _Row(_blockwise(False), "Blocks({}, signed=False)", _eight_bits, "least elements",
                  doc="the same for numbers that are not negative"),
    "bf16": _Row(_bf16, "Half()", lambda shape, _: 2.0 * float(np.prod(shape)),
                 doc="bfloat16 with stochastic rounding"),
    "low_rank": _Row(_low_rank, "LowRank({})",
                     lambda shape, r: 4.0 * min(r, *shape) * float(sum(shape)), "rank", required=True,
                     doc="the nearest matrix of a rank, as two factors"),
}  # fmt: skip


def codec_problem(name: str, number: float | None) -> str:
    """What is wrong with a codec as written; "" when nothing is."""
    row: Any = CODECS[name]
    if number is not None and not row.number:
        return f"{name} takes no number"
    if number is None:
        return f"{name} takes a number, the {row.number}: write {name}(4)" if row.required else ""
    whole = math.isfinite(number) and number == int(number) and 1 <= number <= 2**31
    wanted = {"rank": "a rank", "least elements": "a least number of elements"}[row.number]
    return "" if whole else f"{name} takes {wanted}, a whole number above 0, not {number:g}"
