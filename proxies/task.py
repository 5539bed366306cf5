"""A task: a model, its data, and how long and on what schedule it trains."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .data import Batch, Data
from .model import Model
from .schedule import schedule


@dataclass(frozen=True)
class Task:
    """What an optimizer is scored on.

    Attributes:
        batch: Examples a step.
        steps: The full budget; hurdles are shorter.
        warmup: Share of the steps that warm up.
        decay: Shape of the decay; see `schedule`.
        held_out: Names of the tasks that stand for this one's unseen data, width and text; never searched on.
        file: Where it is defined, for a task of the user's own: its AdamW curve stands beside that file.
        text_digest: A hash of the file's text.
    """

    name: str
    model: Model
    data: Data
    batch: int
    steps: int
    warmup: float = 0.05
    decay: str = "linear"
    held_out: tuple[str, ...] = ()
    file: str = ""
    text_digest: str = ""

    def batches(self, seed: int, steps: int | None = None) -> Iterator[Batch]:
        """The training batches of a seed; batch i is the same whatever `steps`."""
        return self.data.batches(seed, self.steps if steps is None else steps, self.batch)

    def validation(self) -> list[Batch]:
        """Fixed held-out data in batches of one size: the mean of their losses is the loss."""
        return self.data.validation()

    def schedule(self, steps: int | None = None) -> np.ndarray:
        """(steps,) multipliers of the peak learning rate; a short run decays fully too."""
        return schedule(self.steps if steps is None else steps, self.warmup, self.decay)

    def fingerprint(self) -> str:
        """12 hex digits for the data, the model, the settings and the text that defines them, if that is a file's:
        a stored curve is good for one of them.
        """
        settings = (self.model, self.data, self.batch, self.steps, self.warmup, self.decay)
        # Rounded, since the last bit of a normal draw may differ between machines.
        scales = [f"{p.square().mean().sqrt():.2g}" for p in self.model.init(0)]
        content = (settings, self.model.shapes, scales, self.data.digest(), *filter(None, [self.text_digest]))
        return hashlib.sha256(repr(content).encode()).hexdigest()[:12]
