"""Fine-tuning: a byte model that has read the speeches learns to tell which passages come from the same speech."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...dsl.compile_c import cache_dir
from ...dsl.draws import Stream, indices, philox
from ..data import Batch
from ..module_loss import seeded
from ..schedule import schedule
from ..whole_file import replace_file
from .corpus import by_document, corpus
from .decoder import Decoder, DecoderShape
from .metrics import mean_reciprocal_rank
from .tokens import Tokens

_TEMPERATURE = 0.05
_QUERIES = 64  # of a batch that measures: each is ranked against the others' passages
_STEPS, _BATCH, _LR, _BETAS, _DECAY = 1000, 16, 6e-3, (0.9, 0.98), 0.1  # of the training before


@dataclass(frozen=True)
class Passages:
    """Pairs of passages of `length` bytes from the same document.

    Batches: x (B, 2, length) int64 symbols, a query and its passage; y (B,) int64, the row of the passage that is
    right, which is its own. The documents of a batch that measures are all different.
    """

    source: str = "speeches"
    length: int = 128
    held_out: int = 8

    def batches(self, seed: int, steps: int, size: int) -> Iterator[Batch]:
        """`steps` batches of `size` pairs; batch i is a function of (seed, i, size)."""
        for step in range(steps):
            yield self._pairs("train", philox(seed, step, Stream.BATCH), size)

    def validation(self) -> list[Batch]:
        """Pairs of the documents that settings are chosen on."""
        return self._fixed("validation")

    def test(self) -> list[Batch]:
        """Pairs of the documents that are touched once."""
        return self._fixed("test")

    def digest(self) -> str:
        """A hash of the text."""
        parts = (hashlib.sha256(corpus(self.source, part)).digest() for part in ("train", "validation", "test"))
        return hashlib.sha256(b"".join(parts)).hexdigest()

    def _fixed(self, part: str) -> list[Batch]:
        size = min(_QUERIES, len(self._documents(part)))
        return [self._pairs(part, philox(0, i, Stream.VALIDATION), size) for i in range(self.held_out)]

    def _pairs(self, part: str, bits: np.random.Philox, size: int) -> Batch:
        """Different documents where there are enough of them."""
        documents = self._documents(part)
        order = np.argsort(bits.random_raw(len(documents)), kind="stable")
        chosen = [documents[order[i % len(documents)]] for i in range(size)]
        places = indices(bits, 2 * size, 2**62).reshape(size, 2)
        rows = [
            [document[start : start + self.length] for start in place % (len(document) - self.length)]
            for document, place in zip(chosen, places, strict=True)
        ]
        return Batch(torch.from_numpy(np.asarray(rows).astype(np.int64)), torch.arange(size))

    def _documents(self, part: str) -> tuple[np.ndarray, ...]:
        return _long_documents(self.source, part, 2 * self.length)


@cache
def _long_documents(source: str, part: str, least: int) -> tuple[np.ndarray, ...]:
    return tuple(np.frombuffer(d, np.uint8) for d in by_document(source, part) if len(d) > least)


class Ranker(nn.Module):
    """Passages (B, 2, T) -> (B, B) scores of each query's against each passage: cosines over a temperature.

    Starts from a decoder that was trained on the text, the same for every seed, and a fresh projection.
    """

    def __init__(self, shape: DecoderShape, source: str) -> None:
        super().__init__()
        self.decoder = Decoder(shape)
        self.decoder.load_state_dict(pretrained(shape, source))
        self.project = nn.Linear(shape.width, shape.width, bias=False)

    def forward(self, pairs: Tensor) -> Tensor:
        """Logits of which passage belongs to a query."""
        both = self.decoder.features(pairs.flatten(0, 1)).mean(1)
        query, passage = F.normalize(self.project(both), dim=-1).unflatten(0, (-1, 2)).unbind(1)
        return query @ passage.mT / _TEMPERATURE


def pretrained(shape: DecoderShape, source: str) -> dict[str, Tensor]:
    """The weights of a decoder trained on the training documents; made once, then kept in the cache folder.

    torch's AdamW trains it, whichever optimizers are compared on what follows.
    """
    identity = repr(
        (
            {name: value for name, value in asdict(shape).items() if value or name != "base_width"},
            source,
            _STEPS,
            _BATCH,
            _LR,
            _BETAS,
            _DECAY,
            hashlib.sha256(corpus(source, "train")).hexdigest(),
        )
    )
    path = cache_dir() / f"decoder-{hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()}.pt"
    if not path.exists():
        found = _trained(shape, source)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(path, lambda file: torch.save(found, file))
    return dict(torch.load(path, weights_only=True))


def _trained(shape: DecoderShape, source: str) -> dict[str, Tensor]:
    with seeded(0, torch.device("cpu")), torch.enable_grad():
        model = Decoder(shape)
        optimizer = torch.optim.AdamW(model.parameters(), lr=_LR, betas=_BETAS, weight_decay=_DECAY)
        data = Tokens(source, shape.vocabulary, shape.length)
        for factor, some in zip(schedule(_STEPS), data.batches(0, _STEPS, _BATCH), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = _LR * float(factor)
            F.cross_entropy(model(some.x).flatten(0, 1), some.y.flatten()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    return model.state_dict()


def ranking(module: nn.Module, batches: Sequence[Batch]) -> float:
    """MRR@10 of the passage that belongs to a query, among those of a batch."""
    return float(np.mean([mean_reciprocal_rank(module(batch.x), batch.y) for batch in batches]))
