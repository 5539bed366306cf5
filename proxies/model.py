"""What a proxy trains: P copies of one small model, a leading axis apart, all on one batch.

A model here writes its forward and backward pass by hand, as batched torch operations into scratch that is
kept. Eager autograd spends most of a tiny step on bookkeeping and fresh memory; this spends it on arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .data import Batch
from .workspace import apart

# A slice's largest intermediate takes at most this many bytes on a CPU. Measured with 1 MiB of second-level
# cache: from 1 to 8 MiB the time per copy changes by a few percent.
_CACHE = 2 << 20
# On a GPU a pass takes at most this share of all memory. Of one model there are up to four: training and validation,
# slices and a rest.
_SHARE = 1 / 8


@runtime_checkable
class Model(Protocol):
    """A model with a population axis. Parameters are contiguous (P, *shape), in the order of `shapes`."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Parameter name -> shape of one copy; matrices are (out, in)."""
        ...

    @property
    def roles(self) -> dict[str, str]:
        """Parameter name -> "matrix", "vector", "embedding" or "head"."""
        ...

    @property
    def classifies(self) -> bool:
        """Whether its targets are labels that can be drawn from its prediction."""
        ...

    @property
    def replayable(self) -> bool:
        """Whether its pass does the same work on every batch of one shape, without asking Python."""
        ...

    def init(self, seed: int) -> list[Tensor]:
        """One copy, float32 on the CPU, a function of the seed alone."""
        ...

    def loss(self, params: Sequence[Tensor], batch: Batch) -> Tensor:
        """(P,) mean losses in nats, differentiable once."""
        ...

    def gradients(
        self, params: Sequence[Tensor], batch: Batch, out: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """(P,) losses and the gradient of each copy's own loss, without autograd."""
        ...

    def sampled_gradients(self, params: Sequence[Tensor], batch: Batch, uniform: Tensor) -> list[Tensor]:
        """The gradient of each copy's mean loss at labels drawn from its own prediction."""
        ...

    def pass_bytes(self, batch: Batch) -> int:
        """What a forward and backward pass takes for each copy of its slice in float32, in bytes."""
        ...

    def slice_size(self, copies: int, batch: Batch, device: torch.device, dtype: torch.dtype = torch.float32) -> int:
        """How many copies run through a pass at once."""
        ...


class Pass(Protocol):
    """One forward and backward pass of a slice; `backward` follows `forward`."""

    def forward(self) -> Tensor:
        """(P,) mean losses in nats."""
        ...

    def sample(self, uniform: Tensor) -> None:
        """Puts labels drawn from the model's own prediction in place of the batch's; `uniform` (N,) in [0, 1)."""
        ...

    def backward(self, out: Sequence[Tensor]) -> None:
        """Writes the gradient of each copy's own loss to `out`."""
        ...


class Population:
    """Base of the models: cuts a population into slices that fit the cache, and joins autograd.

    A model gives `one_pass` (or its own `forward` and `gradients_into`) for one slice, and `bytes_per_copy`.
    `classifies` says whether its targets are labels that can be drawn from its prediction, `cache` how many bytes the
    copies of a slice may take on a CPU, `replayable` whether its pass can be part of a CUDA graph.
    """

    classifies: ClassVar[bool] = True
    cache: ClassVar[int] = _CACHE
    replayable: ClassVar[bool] = True

    def init(self, seed: int) -> list[Tensor]:
        """One copy, float32 on the CPU, a function of the seed alone."""
        raise NotImplementedError

    def one_pass(self, params: Sequence[Tensor], batch: Batch) -> Pass:
        """A forward and backward pass over one slice."""
        raise NotImplementedError

    def forward(self, params: Sequence[Tensor], batch: Batch) -> Tensor:
        """(P,) mean losses in nats."""
        return self.one_pass(params, batch).forward()

    def gradients_into(self, out: Sequence[Tensor], params: Sequence[Tensor], batch: Batch) -> Tensor:
        """(P,) mean losses in nats, the gradient of each copy's own loss written to `out`."""
        run = self.one_pass(params, batch)
        loss = run.forward()
        run.backward(out)
        return loss

    def bytes_per_copy(self, batch: Batch) -> int:
        """The largest intermediate of one copy in float32, in bytes."""
        raise NotImplementedError

    def pass_bytes(self, batch: Batch) -> int:
        """What a forward and backward pass takes for each copy of its slice in float32, in bytes."""
        return _pass_bytes(self, tuple((tuple(x.shape), x.dtype) for x in batch.tensors()))

    def slice_size(self, copies: int, batch: Batch, device: torch.device, dtype: torch.dtype = torch.float32) -> int:
        """How many copies run through a pass at once: on a CPU what fits the cache, on a GPU its share of memory."""
        if device.type != "cuda":
            return max(1, self.cache // self.bytes_per_copy(batch))
        each = self.pass_bytes(batch) * dtype.itemsize // 4
        most = max(1, int(_SHARE * _device_bytes(device)) // each)
        return -(-copies // -(-copies // most))  # slices of about one size

    def losses(self, params: Sequence[Tensor], batch: Batch) -> Tensor:
        """Losses (P,) in nats, forward only and without autograd."""
        with torch.no_grad():
            batch = batch.to(params[0].device)
            slices = zip(*self._slices(params, batch), strict=True)
            return torch.cat([self.forward(some, batch) for some in slices])

    def gradients(
        self, params: Sequence[Tensor], batch: Batch, out: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Losses (P,) in nats and d losses[p] / d params[i][p], without autograd.

        Args:
            params: Contiguous (P, *shape) tensors of one dtype and device, in the order of `shapes`.
            batch: Seen by every copy; moved to the device of the parameters.
            out: Contiguous tensors to write the gradients to; fresh ones if None.
        """
        with torch.no_grad():
            batch = batch.to(params[0].device)
            grads = [torch.empty_like(p) for p in params] if out is None else list(out)
            cut = (zip(*self._slices(tensors, batch), strict=True) for tensors in (grads, params))
            losses = [self.gradients_into(into, some, batch) for into, some in zip(*cut, strict=True)]
            return torch.cat(losses), grads

    def sampled_gradients(self, params: Sequence[Tensor], batch: Batch, uniform: Tensor) -> list[Tensor]:
        """The gradient of each copy's mean loss at labels drawn from its own prediction.

        Args:
            params: As for `gradients`.
            batch: Its inputs alone count.
            uniform: (N,) numbers from [0, 1), one per label, shared by the copies.

        Raises:
            NotImplementedError: The model has no labels to draw.
        """
        with torch.no_grad():
            batch, grads = batch.to(params[0].device), [torch.empty_like(p) for p in params]
            for into, some in zip(*(zip(*self._slices(x, batch), strict=True) for x in (grads, params)), strict=True):
                self.sampled_gradients_into(into, some, batch, uniform.to(some[0].device))
            return grads

    def sampled_gradients_into(
        self, out: Sequence[Tensor], params: Sequence[Tensor], batch: Batch, uniform: Tensor
    ) -> None:
        """The gradients of one slice at drawn labels, written to `out`."""
        run = self.one_pass(params, batch)
        run.forward()
        run.sample(uniform)
        run.backward(out)

    def loss(self, params: Sequence[Tensor], batch: Batch) -> Tensor:
        """Losses (P,) in nats; their gradient comes with them, so `backward` only scales it.

        Raises:
            RuntimeError: On a second differentiation, which the hand-written pass does not have.
        """
        if torch.is_grad_enabled() and any(p.requires_grad for p in params):
            return _Loss.apply(self, batch, *params)
        return self.losses(params, batch)

    def _slices(self, tensors: Sequence[Tensor], batch: Batch) -> list[tuple[Tensor, ...]]:
        """Each tensor cut along the population."""
        first = tensors[0]
        size = self.slice_size(len(first), batch, first.device, first.dtype)
        return [t.split(size) for t in tensors]


@cache
def _pass_bytes(model: Population, shapes: tuple[tuple[tuple[int, ...], torch.dtype], ...]) -> int:
    """Measured on the CPU: what scratch grows by with a copy, and two fresh tensors of the largest size beside it."""
    (x, y), taken = (torch.zeros(shape, dtype=dtype) for shape, dtype in shapes), []
    batch = Batch(x, y)
    for copies in (1, 2):
        params = stack(model.init(0), copies)
        with torch.no_grad(), apart() as scratch:
            model.gradients_into([torch.empty_like(p) for p in params], params, batch)
            taken.append(scratch())
    return taken[1] - taken[0] + 2 * model.bytes_per_copy(batch)


@cache
def _device_bytes(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).total_memory)


class _Loss(torch.autograd.Function):
    """Copies are independent, so the forward pass knows each gradient up to the factor of its own loss."""

    @staticmethod
    def forward(ctx: Any, model: Population, batch: Batch, *params: Tensor) -> Tensor:
        losses, gradients = model.gradients(params, batch)
        ctx.save_for_backward(*gradients)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        scaled = (g * upstream.view(-1, *[1] * (g.ndim - 1)) for g in ctx.saved_tensors)
        return None, None, *scaled


def stack(copy: Sequence[Tensor], size: int) -> list[Tensor]:
    """A population of `size` equal copies: contiguous (size, *shape) tensors.

    >>> [tuple(p.shape) for p in stack([torch.zeros(3), torch.zeros(2, 4)], 5)]
    [(5, 3), (5, 2, 4)]
    """
    return [p.expand(size, *p.shape).contiguous() for p in copy]
