"""A causal pre-norm transformer over bytes, P copies at once.

Ordinary in structure: token and position embeddings, blocks of multi-head attention and a ReLU MLP behind
RMSNorm, a last RMSNorm, a head. Neither biases nor gains, which at this size change nothing but time.
Activations are (P, N, width) with N = B * T tokens; every matrix product is one batched product over P.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from ..dsl.draws import Stream, normal, philox
from .crossentropy import cross_entropy, sample_targets, subtract_targets
from .data import Batch
from .model import Population
from .workspace import workspace

_EPS = 1e-5
_softmax_backward = torch.ops.aten._softmax_backward_data.out
_relu_backward = torch.ops.aten.threshold_backward.grad_input


@dataclass(frozen=True)
class Transformer(Population):
    """A byte-level language model of `layers` blocks; the MLP is twice as wide as the stream.

    Attributes:
        embedding_std: Of token and position embeddings as they start. With 0.5 losses vary least over seeds, 0.015 nats
            at AdamW's best rate; large models start with 0.02 (Radford et al. 2019).
        tied: Whether the head is the token embedding (Press and Wolf 2017, arXiv:1608.05859).

    Raises:
        ValueError: A width that the heads do not divide.

    >>> sum(math.prod(shape) for shape in Transformer().shapes.values())
    6400
    """

    width: int = 16
    heads: int = 1
    layers: int = 1
    length: int = 16
    symbols: int = 128
    # A fingerprint knows these two from the weights' scales and shapes.
    embedding_std: float = field(default=0.5, repr=False)
    tied: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of {self.heads} heads")

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Parameter name -> shape of one copy."""
        d = self.width
        attention = {name: (d, d) for name in ("query", "key", "value", "out")}
        block = {**attention, "up": (2 * d, d), "down": (d, 2 * d)}
        blocks = {f"{i}.{name}": shape for i in range(self.layers) for name, shape in block.items()}
        head = {} if self.tied else {"head": (self.symbols, d)}
        return {"token": (self.symbols, d), "position": (self.length, d), **blocks, **head}

    @cached_property
    def roles(self) -> dict[str, str]:
        """Parameter name -> its role."""
        special = {"token": "embedding", "position": "embedding", "head": "head"}
        return {name: special.get(name, "matrix") for name in self.shapes}

    def init(self, seed: int) -> list[Tensor]:
        """Normal draws: embeddings with their std, matrices 1 / sqrt(fan_in), less into the stream."""
        bits = philox(seed, stream=Stream.INIT)
        return [torch.from_numpy(normal(bits, s) * self._std(name)) for name, s in self.shapes.items()]

    def _std(self, name: str) -> float:
        if self.roles[name] == "embedding":
            return self.embedding_std
        std = self.shapes[name][1] ** -0.5
        return std * (2 * self.layers) ** -0.5 if name.endswith(("out", "down")) else std

    def one_pass(self, params: Sequence[Tensor], batch: Batch) -> _Pass:
        """The pass of a slice."""
        return _Pass(self, params, batch)

    def bytes_per_copy(self, batch: Batch) -> int:
        """The size of the logits."""
        return 4 * batch.x.numel() * self.symbols


class _Pass:
    """One forward and backward pass; what the backward needs stays in the scratch under its name."""

    def __init__(self, model: Transformer, params: Sequence[Tensor], batch: Batch) -> None:
        first = params[0]
        self.model, self.weights = model, dict(zip(model.shapes, params, strict=True))
        self.head = "token" if model.tied else "head"
        self.copies, (self.rows, self.time) = first.shape[0], batch.x.shape
        self.tokens = batch.x.reshape(-1)
        self.targets = batch.y.reshape(-1)
        self.scratch = workspace(model, first, self.copies, self.rows, self.time)

    def forward(self) -> Tensor:
        """Losses (P,) in nats."""
        x = self._embed()
        for i in range(self.model.layers):
            self._attention(i, x)
            self._mlp(i, x)
        final = self._norm("final", x)
        logits = torch.bmm(final, self.weights[self.head].mT, out=self._wide("logits", self.model.symbols))
        loss, self.probs = cross_entropy(logits, self.targets, self.scratch)
        return loss

    def sample(self, uniform: Tensor) -> None:
        """Put labels drawn from the model's own prediction in place of the batch's."""
        self.targets = sample_targets(self.probs, uniform)

    def backward(self, out: Sequence[Tensor]) -> None:
        """Write the gradient of each copy's own loss."""
        self.grads = dict(zip(self.weights, out, strict=True))
        delta = subtract_targets(self.probs, self.targets, self.scratch)
        share = 1.0 / self.tokens.numel()  # of the mean; it rides on two products, where it is free
        _scaled_product(share, delta.mT, self.scratch["final"], self.grads[self.head])
        dfinal = self._wide("dy", self.model.width)
        _scaled_product(share, delta, self.weights[self.head], dfinal)
        dx = self._wide("dx", self.model.width).zero_()
        self._norm_backward("final", dfinal, dx)
        for i in reversed(range(self.model.layers)):
            self._mlp_backward(i, dx)
            self._attention_backward(i, dx)
        self._embed_backward(dx)

    def _wide(self, name: str, width: int) -> Tensor:
        return self.scratch(name, self.copies, self.rows * self.time, width)

    def _embed(self) -> Tensor:
        x = self._wide("x", self.model.width)
        torch.index_select(self.weights["token"], 1, self.tokens, out=x)
        x.view(self.copies, self.rows, self.time, -1).add_(self.weights["position"][:, None, : self.time])
        return x

    def _embed_backward(self, dx: Tensor) -> None:
        by_row = dx.view(self.copies, self.rows, self.time, -1)
        position = self.grads["position"]
        if self.time < position.shape[1]:
            position.zero_()
        torch.sum(by_row, 1, out=position[:, : self.time])
        token = self.grads["token"]
        if not self.model.tied:  # else it holds what the head wrote
            token.zero_()
        if dx.is_cuda:
            # index_add_ is atomic there, so its sums would depend on the order of the threads.
            symbols = self.scratch.constant("symbols", lambda: torch.arange(self.model.symbols)[:, None])
            token.baddbmm_((symbols == self.tokens).to(dx.dtype).expand(self.copies, -1, -1), dx)
        else:
            token.index_add_(1, self.tokens, dx)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        """RMSNorm, y = x / rms(x) over the width."""
        d = x.shape[-1]
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True, out=self._wide(f"{name} scale", 1))
        scale.square_().mul_(1 / d).add_(_EPS).rsqrt_()
        return torch.mul(x, scale, out=self._wide(name, d))

    def _norm_backward(self, name: str, dy: Tensor, dx: Tensor) -> None:
        """Add scale * (dy - y mean(y dy)) to dx; overwrites dy."""
        y, scale = self.scratch[name], self.scratch[f"{name} scale"]
        product = torch.mul(y, dy, out=self._wide("product", y.shape[-1]))
        mean = torch.mean(product, -1, keepdim=True, out=self._wide("mean", 1))
        dx.addcmul_(dy.addcmul_(y, mean, value=-1), scale)

    def _mlp(self, i: int, x: Tensor) -> None:
        y = self._norm(f"{i}.mlp", x)
        hidden = torch.bmm(y, self.weights[f"{i}.up"].mT, out=self._wide(f"{i}.hidden", 2 * self.model.width))
        x.baddbmm_(hidden.relu_(), self.weights[f"{i}.down"].mT)

    def _mlp_backward(self, i: int, dx: Tensor) -> None:
        hidden = self.scratch[f"{i}.hidden"]
        torch.bmm(dx.mT, hidden, out=self.grads[f"{i}.down"])
        dhidden = torch.bmm(dx, self.weights[f"{i}.down"], out=self._wide("dhidden", 2 * self.model.width))
        _relu_backward(dhidden, hidden, 0, grad_input=dhidden)
        torch.bmm(dhidden.mT, self.scratch[f"{i}.mlp"], out=self.grads[f"{i}.up"])
        dy = torch.bmm(dhidden, self.weights[f"{i}.up"], out=self._wide("dy", self.model.width))
        self._norm_backward(f"{i}.mlp", dy, dx)

    def _attention(self, i: int, x: Tensor) -> None:
        y = self._norm(f"{i}.attention", x)
        for h in range(self.model.heads):
            *projections, out = self._head(self.weights, i, h)
            q, k, v = (
                torch.bmm(y, weight.mT, out=self._wide(f"{i}.{h}.{name}", weight.shape[1]))
                for name, weight in zip("qkv", projections, strict=True)
            )
            seen = self._wide(f"{i}.{h}.seen", v.shape[-1])
            torch.bmm(self._looks(i, h, q, k), self._by_row(v), out=self._by_row(seen))
            x.baddbmm_(seen, out.mT)

    def _looks(self, i: int, h: int, q: Tensor, k: Tensor) -> Tensor:
        """softmax(q k^T / sqrt(size)) over the past, (P * B, T, T)."""
        looks = self.scratch(f"{i}.{h}.looks", self.copies * self.rows, self.time, self.time)
        mask = self.scratch.constant("mask", lambda: _causal_mask(self.time, q.dtype))
        torch.baddbmm(mask, self._by_row(q), self._by_row(k).mT, alpha=q.shape[-1] ** -0.5, out=looks)
        return torch.softmax(looks, -1, out=looks)

    def _attention_backward(self, i: int, dx: Tensor) -> None:
        y = self.scratch[f"{i}.attention"]
        dy = self._wide("dy", self.model.width).zero_()
        for h in range(self.model.heads):
            *projections, out = self._head(self.weights, i, h)
            *slopes, slope_out = self._head(self.grads, i, h)
            _product(dx.mT, self.scratch[f"{i}.{h}.seen"], slope_out)
            dseen = torch.bmm(dx, out, out=self._wide("dseen", out.shape[-1]))
            deltas = self._looks_backward(i, h, dseen)
            for delta, projection, slope in zip(deltas, projections, slopes, strict=True):
                _product(delta.mT, y, slope)
                dy.baddbmm_(delta, projection)
        self._norm_backward(f"{i}.attention", dy, dx)

    def _looks_backward(self, i: int, h: int, dseen: Tensor) -> list[Tensor]:
        """The gradients by q, k and v, (P, N, size) each."""
        size = dseen.shape[-1]
        q, k, v = (self._by_row(self.scratch[f"{i}.{h}.{name}"]) for name in "qkv")
        deltas = [self._wide(f"d{name}", size) for name in "qkv"]
        dq, dk, dv, dseen = map(self._by_row, (*deltas, dseen))
        looks = self.scratch[f"{i}.{h}.looks"]
        torch.bmm(looks.mT, dseen, out=dv)
        dlooks = torch.bmm(dseen, v.mT, out=self.scratch("dlooks", *looks.shape))
        _softmax_backward(dlooks, looks, -1, looks.dtype, grad_input=dlooks)
        _scaled_product(size**-0.5, dlooks, k, dq)
        _scaled_product(size**-0.5, dlooks.mT, q, dk)
        return deltas

    def _head(self, tensors: dict[str, Tensor], i: int, h: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One head: rows of query, key and value (P, size, width) and columns of out (P, width, size).

        Slices of weights cost nothing, where gathering the heads of activations would copy them.
        """
        size = self.model.width // self.model.heads
        part = slice(h * size, (h + 1) * size)
        query, key, value = (tensors[f"{i}.{name}"][:, part] for name in ("query", "key", "value"))
        return query, key, value, tensors[f"{i}.out"][:, :, part]

    def _by_row(self, x: Tensor) -> Tensor:
        """(P, N, size) seen as (P * B, T, size)."""
        return x.view(self.copies * self.rows, self.time, -1)


def _product(a: Tensor, b: Tensor, out: Tensor) -> None:
    """Write a b by way of contiguous memory, without which bmm falls back to one product at a time."""
    if out.is_contiguous():
        torch.bmm(a, b, out=out)
    else:
        out.copy_(torch.bmm(a, b))


def _scaled_product(alpha: float, a: Tensor, b: Tensor, out: Tensor) -> None:
    """Write alpha a b; beta = 0 says that what stood in `out` is not read."""
    torch.baddbmm(out, a, b, beta=0, alpha=alpha, out=out)


def _causal_mask(time: int, dtype: torch.dtype) -> Tensor:
    """(1, T, T): 0 where a position may look, -inf at what comes later."""
    return torch.full((1, time, time), -math.inf, dtype=dtype).triu_(1)
