"""Decoder-only transformers for targets: the GPT-2 family and the LLaMA family in one module."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...dsl.errors import did_you_mean
from ..task_error import TaskError

STYLES = ("gpt", "llama")
_ROTATION_BASE = 10_000.0
_EMBEDDING_STD = 0.02


@dataclass(frozen=True)
class DecoderShape:
    """The size of a decoder and its family.

    Attributes:
        style: "gpt": LayerNorm, learned positions, GELU, head tied to the embedding. "llama": RMSNorm, rotary
            positions, SwiGLU, a head of its own.
        qk_norm: Whether queries and keys are normalised before they meet (Henry et al. 2020, arXiv:2010.04245).
        base_width: 0 for the standard parametrisation. Otherwise the maximal update parametrisation (Yang et al. 2022,
            arXiv:2203.03466): the model of this width with as many heads is the standard one, and what it was tuned to
            holds at other widths. See `Decoder`.

    Raises:
        TaskError: An unknown style, or a width that its heads do not divide into even parts.

    >>> DecoderShape(vocabulary=128, width=64, layers=2, heads=4, length=64).head_width
    16
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    length: int
    style: str = "gpt"
    qk_norm: bool = False
    base_width: int = 0

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            raise TaskError(f"unknown decoder style {self.style!r}; {did_you_mean(self.style, STYLES)}")
        if self.width % (2 * self.heads):
            raise TaskError(f"{self.heads} heads take a width that is a multiple of {2 * self.heads}, not {self.width}")
        if self.base_width < 0:
            raise TaskError(f"a base width is at least 1, or 0 for the standard parametrisation, not {self.base_width}")

    @property
    def width_ratio(self) -> float:
        """Width over base width; 1 in the standard parametrisation."""
        return self.width / self.base_width if self.base_width else 1.0

    @property
    def head_width(self) -> int:
        """Features of a head."""
        return self.width // self.heads

    @property
    def hidden(self) -> int:
        """Features inside the feed-forward part: about as many parameters in either style."""
        return 4 * self.width if self.style == "gpt" else 8 * -(-self.width // 3)


class Decoder(nn.Module):
    """A pre-norm decoder: tokens (B, T) -> logits (B, T, V).

    Matrices start normal with standard deviation 1 / sqrt(fan_in), those that write to the residual stream smaller by
    sqrt(2 layers) (Radford et al. 2019); embeddings with 0.02. GPT: Radford et al. 2019; LLaMA: Touvron et al. 2023,
    arXiv:2302.13971, with rotary positions (arXiv:2104.09864) and SwiGLU (arXiv:2002.05202).

    With a base width b and r = width / b (arXiv:2203.03466, table 8): logits are divided by r, a head of its own starts
    with 1 / sqrt(b), and queries meet keys times sqrt(d / r) / d for heads of d features. Learning rates are the
    optimizer's part: `evaluator.validation.width_transfer`.

    >>> model = Decoder(DecoderShape(vocabulary=128, width=32, layers=1, heads=2, length=8, style="llama"))
    >>> model(torch.zeros(4, 8, dtype=torch.long)).shape
    torch.Size([4, 8, 128])
    """

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.position = nn.Embedding(shape.length, shape.width) if shape.style == "gpt" else None
        blocks = [_Block(shape) for _ in range(shape.layers)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = _norm(shape)
        self.head = nn.Linear(shape.width, shape.vocabulary, bias=False)
        self.apply(_start)
        if shape.style == "gpt":
            self.head.weight = self.embedding.weight
        else:
            self.head.weight.data *= math.sqrt(shape.width_ratio)
        for block in blocks:
            for last in (block.attention.out, block.feed.down):
                last.weight.data /= math.sqrt(2 * shape.layers)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the token after each."""
        read, ratio = self.features(tokens), self.shape.width_ratio
        return self.head(read if ratio == 1 else read / ratio)

    def extra_repr(self) -> str:
        """Shown with the parts: what no part says, and fingerprints must know."""
        return f"base_width={self.shape.base_width}" if self.shape.base_width else ""

    def features(self, tokens: Tensor) -> Tensor:
        """(B, T, width): what the head reads."""
        x = self.embedding(tokens)
        if self.position is not None:
            x = x + self.position.weight[: tokens.shape[-1]]
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class _Block(nn.Module):
    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.attention_norm, self.feed_norm = _norm(shape), _norm(shape)
        self.attention = _Attention(shape)
        self.feed = _Feed(shape)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed(self.feed_norm(x))


class _Attention(nn.Module):
    """Causal attention. Query, key and value are matrices of their own, since matrix rules treat each as one map."""

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.shape = shape
        self.query, self.key, self.value, self.out = (nn.Linear(shape.width, shape.width, bias=False) for _ in range(4))
        ratio = shape.width_ratio
        self.scale = None if ratio == 1 else (shape.head_width * ratio) ** -0.5  # None: 1 / sqrt(head width)
        self.query_norm = nn.RMSNorm(shape.head_width) if shape.qk_norm else None
        self.key_norm = nn.RMSNorm(shape.head_width) if shape.qk_norm else None
        if shape.style == "llama":
            turns = _rotation(shape.length, shape.head_width)
            self.register_buffer("cos", turns.cos(), persistent=False)
            self.register_buffer("sin", turns.sin(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self._by_head(part(x)) for part in (self.query, self.key, self.value))
        if self.query_norm is not None and self.key_norm is not None:
            q, k = self.query_norm(q), self.key_norm(k)
        if self.shape.style == "llama":
            q, k = self._turned(q), self._turned(k)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)
        return self.out(seen.transpose(-2, -3).flatten(-2))

    def _by_head(self, x: Tensor) -> Tensor:
        """(..., T, width) as (..., heads, T, head_width)."""
        return x.unflatten(-1, (self.shape.heads, -1)).transpose(-2, -3)

    def _turned(self, x: Tensor) -> Tensor:
        """Each pair of features turned by an angle that grows with the position."""
        time = x.shape[-2]
        cos, sin = self.cos[:time], self.sin[:time]
        one, two = x.chunk(2, -1)
        return torch.cat((one * cos - two * sin, two * cos + one * sin), -1)


class _Feed(nn.Module):
    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.up = nn.Linear(shape.width, shape.hidden, bias=False)
        self.gate = nn.Linear(shape.width, shape.hidden, bias=False) if shape.style == "llama" else None
        self.down = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is None:
            return self.down(F.gelu(self.up(x)))
        return self.down(F.silu(self.gate(x)) * self.up(x))


def _norm(shape: DecoderShape) -> nn.Module:
    return nn.RMSNorm(shape.width) if shape.style == "llama" else nn.LayerNorm(shape.width)


def _rotation(length: int, width: int) -> Tensor:
    """(length, width / 2) angles."""
    rates = _ROTATION_BASE ** -(torch.arange(0, width, 2) / width)
    return torch.outer(torch.arange(length), rates)


def _start(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=_EMBEDDING_STD)
