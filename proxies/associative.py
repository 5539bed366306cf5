"""A linear associative memory whose items come at heavy-tailed frequencies.

Item i has a fixed key and a fixed value; two matrices, as the value and output of an attention layer without the
attention, learn to recall one from the other. There are more items than dimensions, so that memories lie over one
another. Items come by a power law, as words do, and the loss that counts weights them alike, so that it is decided by
what came seldom. A gradient is a sum of outer products led by the frequent items: a rule that sees it as a matrix, such
as Muon, learns the tail along with the head; one that sees elements, such as Adam, learns the head first (Wang et al.
2025, arXiv:2509.26030).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch
from torch import Tensor

from ..dsl.draws import Stream, indices, normal, philox, uniform
from .crossentropy import sample_targets
from .data import Batch
from .model import Population
from .workspace import workspace


@dataclass(frozen=True)
class Zipf:
    """Items drawn by p(i) ~ (i + 1)^-exponent; an item's label is its own number, but for a share `noise` any number.

    Batches: x (B,) items and y (B,) labels, int64. Validation: every item `repeats` times, with its own fixed noise.
    128 items at exponent 2 are as unlike in frequency as 16,384 words at 1, which is what text has.

    >>> Zipf(items=3, exponent=1.0).probabilities().round(3).tolist()
    [0.545, 0.273, 0.182]
    """

    items: int = 128
    exponent: float = 2.0
    noise: float = 0.05  # without it losses fall to 0, and learning rates may grow without bound
    repeats: int = 8

    def probabilities(self) -> np.ndarray:
        """(items,) p(i), falling; their sum is 1."""
        weights = np.arange(1, self.items + 1, dtype=np.float64) ** -self.exponent
        return weights / weights.sum()

    def batches(self, seed: int, steps: int, size: int) -> Iterator[Batch]:
        """`steps` batches of `size` items; batch i depends on (seed, i, size) only."""
        bounds = self.probabilities().cumsum()[:-1]
        for step in range(steps):
            bits = philox(seed, step, Stream.BATCH)
            yield self._labelled(np.searchsorted(bounds, uniform(bits, (size,)), side="right"), bits)

    def validation(self) -> list[Batch]:
        """All items alike, the same for every seed."""
        return [self._labelled(np.tile(np.arange(self.items), self.repeats), philox(0, stream=Stream.VALIDATION))]

    def digest(self) -> str:
        """A hash of what fixes the draws, which its settings do."""
        return hashlib.sha256(repr(self).encode()).hexdigest()

    def _labelled(self, items: np.ndarray, bits: np.random.Philox) -> Batch:
        wrong = uniform(bits, items.shape) < self.noise
        labels = np.where(wrong, indices(bits, len(items), self.items), items)
        return Batch(torch.from_numpy(items), torch.from_numpy(labels))


@dataclass(frozen=True)
class Memory(Population):
    """logits = keys[x] V^T O^T values^T: what is kept of item x, against the values of all items.

    Keys and values are (items, width) normal draws of their `problem`; a key's elements have unit variance, a value
    about unit norm, as what a layer reads and a row of the head of a network have.

    >>> Memory(items=50, width=20, inner=10).shapes
    {'value': (10, 20), 'output': (20, 10)}
    """

    items: int = 128
    width: int = 32
    inner: int = 32
    problem: int = 0

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Parameter name -> shape of one copy."""
        return {"value": (self.inner, self.width), "output": (self.width, self.inner)}

    @cached_property
    def roles(self) -> dict[str, str]:
        """Parameter name -> its role."""
        return {"value": "matrix", "output": "matrix"}

    def init(self, seed: int) -> list[Tensor]:
        """Normal draws with std 1 / sqrt(fan_in), so that logits begin with about unit variance."""
        bits = philox(seed, stream=Stream.INIT)
        return [torch.from_numpy(normal(bits, shape)) * shape[1] ** -0.5 for shape in self.shapes.values()]

    def one_pass(self, params: Sequence[Tensor], batch: Batch) -> _Pass:
        """The pass of a slice."""
        return _Pass(self, params, batch)

    def bytes_per_copy(self, batch: Batch) -> int:
        """The size of the logits."""
        return 4 * self.items**2


@cache
def _tables(items: int, width: int, problem: int) -> tuple[Tensor, Tensor]:
    """Keys and values, (items, width) float32."""
    bits = philox(problem, stream=Stream.PROBLEM)
    keys, values = normal(bits, (items, width)), normal(bits, (items, width))
    return torch.from_numpy(keys), torch.from_numpy(values) * width**-0.5


class _Pass:
    """One forward and backward pass. What is kept is (P, inner, items), what is read (P, items, width).

    A batch holds far more examples than there are items, so logits are found once an item, (P, items, items), and
    weighted by how often an item came with a label: the same loss, at a cost that does not grow with the batch.
    """

    def __init__(self, model: Memory, params: Sequence[Tensor], batch: Batch) -> None:
        self.value, self.output = params
        self.items, (self.copies, self.inner, self.width) = model.items, self.value.shape
        self.x, like = batch.x, self.value
        self.scratch = workspace(model, like, self.copies, len(self.x))
        tables = _tables(model.items, model.width, model.problem)
        self.keys = self.scratch.constant("keys", lambda: tables[0].to(like.dtype))
        self.values = self.scratch.constant("values", lambda: tables[1].to(like.dtype))
        # Whole numbers in float32, so that the order of the sum does not matter, in bfloat16 passes either.
        self.ones = self.scratch.constant("ones", lambda: torch.ones(len(self.x)))
        counts = torch.zeros(self.items**2, device=like.device)
        counts.index_add_(0, self.x * self.items + batch.y, self.ones)
        self.counts = counts.to(like.dtype).mul_(1 / len(self.x)).view(self.items, self.items)

    def forward(self) -> Tensor:
        """Losses (P,) in nats."""
        self.kept = self.scratch("kept", self.copies, self.inner, self.items)
        torch.mm(self.value.view(-1, self.width), self.keys.T, out=self.kept.view(-1, self.items))
        self.read = self.scratch("read", self.copies, self.items, self.width)
        torch.bmm(self.kept.mT, self.output.mT, out=self.read)
        logits = self.scratch("logits", self.copies, self.items, self.items)
        torch.mm(self.read.view(-1, self.width), self.values.T, out=logits.view(-1, self.items))
        self.log_probs = torch.log_softmax(logits, -1, out=logits)
        return (self.log_probs.view(self.copies, -1) @ self.counts.view(-1)).neg_()

    def sample(self, uniform: Tensor) -> None:
        """Put labels drawn from the model's own prediction in place of the batch's."""
        labels = sample_targets(self.log_probs.exp().index_select(1, self.x), uniform)
        counts = torch.zeros(self.copies, self.items**2, device=self.x.device)
        counts.scatter_add_(1, self.x * self.items + labels, self.ones.expand(self.copies, -1))
        self.counts = counts.to(self.read.dtype).mul_(1 / len(self.x)).view(-1, self.items, self.items)

    def backward(self, out: Sequence[Tensor]) -> None:
        """Write the gradient of each copy's own loss."""
        value, output = out
        delta = self.log_probs.exp_().mul_(self.counts.sum(-1, keepdim=True)).sub_(self.counts)
        torch.mm(delta.view(-1, self.items), self.values, out=self.read.view(-1, self.width))
        torch.bmm(self.read.mT, self.kept.mT, out=output)
        torch.bmm(self.output.mT, self.read.mT, out=self.kept)
        torch.mm(self.kept.view(-1, self.items), self.keys, out=value.view(-1, self.width))
