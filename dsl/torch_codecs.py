# mypy: disable-error-code="no-untyped-def"
"""Forms in which torch keeps a state that has a codec. Exported files carry this text.

`blank` makes the tensors of a zero state like x, `write` those of x, and `read` gives x back; `uniform` draws from
[0, 1) in a shape. `parts` are what the names of the tensors end in.
"""

import functools
import math

import torch

from .dynamic_tree import dynamic_tree


class Blocks:
    """8 bits an element, codes of a dynamic map, and the largest size of each 256 elements.

    A tensor of fewer than `least` elements is kept as it is.
    """

    parts = ("", "_scale")

    def __init__(self, least, signed):
        self.least, self.signed = least, signed

    def blank(self, x):
        """The tensors of a zero state like x."""
        return self.write(torch.zeros_like(x), None)

    def write(self, x, uniform):
        """Those of x."""
        if x.numel() < self.least:
            return [x]
        flat = torch.nn.functional.pad(x.reshape(-1), (0, -x.numel() % 256)).view(-1, 256)
        scale = flat.abs().amax(1)
        table = _table(self.signed, x.dtype, x.device)
        part = flat / torch.where(scale > 0, scale, 1.0)[:, None]
        codes = torch.bucketize(part, (table[:-1] + table[1:]) / 2).clamp(max=255)
        return [codes.to(torch.uint8).view(-1)[: x.numel()].view(x.shape), scale]

    def read(self, kept, like):
        """The state that they hold, in the dtype of `like`."""
        if len(kept) == 1:
            return kept[0].to(like.dtype)
        codes, scale = kept
        scale = torch.where(torch.isfinite(scale), scale, math.nan).to(like.dtype)
        table = _table(self.signed, like.dtype, like.device)
        return table[codes.int()] * scale.repeat_interleave(256)[: codes.numel()].view(codes.shape)


class Half:
    """bfloat16, rounded up or down at random so that it is right on average."""

    parts = ("",)

    def blank(self, x):
        """The tensors of a zero state like x."""
        return [torch.zeros_like(x, dtype=torch.bfloat16)]

    def write(self, x, uniform):
        """Those of x."""
        power = 8 - torch.frexp(x)[1]
        half = power // 2  # older versions of torch have 2 ** power between, which may be infinite
        drawn = torch.as_tensor(uniform(x.shape), dtype=x.dtype, device=x.device)
        whole = torch.floor(torch.ldexp(torch.ldexp(x, half), power - half) + drawn)
        near = torch.ldexp(torch.ldexp(whole, -half), half - power)
        return [torch.where(torch.isfinite(x), near, x).to(torch.bfloat16)]

    def read(self, kept, like):
        """The state that they hold, in the dtype of `like`."""
        return kept[0].to(like.dtype)


class LowRank:
    """The nearest matrix of a rank, as two factors."""

    parts = ("_left", "_right")

    def __init__(self, rank):
        self.rank = rank

    def blank(self, x):
        """The tensors of a zero state like x."""
        rank = min(self.rank, *x.shape)
        return [x.new_zeros(x.shape[0], rank), x.new_zeros(rank, x.shape[1])]

    def write(self, x, uniform):
        """Those of x."""
        if not bool(torch.isfinite(x).all()):
            return [torch.full_like(part, math.nan) for part in self.blank(x)]
        u, s, v = torch.linalg.svd(x, full_matrices=False)
        return [u[:, : self.rank] * s[: self.rank], v[: self.rank]]

    def read(self, kept, like):
        """The state that they hold, in the dtype of `like`."""
        return kept[0].to(like.dtype) @ kept[1].to(like.dtype)


@functools.cache
def _table(signed, dtype, device):
    return torch.tensor(dynamic_tree(signed), dtype=dtype, device=device)
