"""A target: a task of a torch module that is trained as users train, one model at a time."""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from torch import Tensor, nn

from ..data import Batch
from ..module_model import ModuleModel
from ..task import Task

_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Metric:
    """A number beside the loss that a user of the model cares about, of a trained module on batches; more is better."""

    name: str
    of: Callable[[nn.Module, Sequence[Batch]], float]


@dataclass(frozen=True)
class Target(Task):
    """What optimizers are validated on. `steps` is data ratio 1: twenty tokens a parameter for a language model.

    Attributes:
        clip: Norm to which the gradient of a step is clipped; 0 for none.
        micro_batches: Parts that a batch is accumulated over.
        dtype: "float32", or "bfloat16" for passes under autocast; weights and states stay float32.
        metric: Measured on the test data at the end of the final runs.
    """

    clip: float = 1.0
    micro_batches: int = 1
    dtype: str = "float32"
    metric: Metric | None = None

    def fingerprint(self) -> str:
        """12 hex digits for all that a run's losses depend on but the program, the seed and the machine."""
        return _fingerprint(self)

    def module(self, seed: int) -> nn.Module:
        """A fresh module with the weights of a seed."""
        assert isinstance(self.model, ModuleModel)
        return self.model.call.fresh(seed)

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        """The mean loss of a module on a batch, in nats."""
        assert isinstance(self.model, ModuleModel)
        return self.model.call.loss(module, batch)

    @property
    def has_test(self) -> bool:
        """Whether there is data that no setting is chosen on."""
        return hasattr(self.data, "test")

    def test(self) -> list[Batch]:
        """Data that is touched once, when all settings are frozen; the validation data where there is none."""
        return self.data.test() if hasattr(self.data, "test") else self.validation()

    def bits_per_byte(self, loss: float) -> float | None:
        """A loss in nats a token as bits a byte of the text; None where there is no text."""
        length = getattr(self.data, "bytes_per_token", None)
        return loss / math.log(2) / length() if length else None

    def epochs(self, steps: int) -> float:
        """How often so many steps read the data; 0 where it is drawn anew."""
        epoch = getattr(self.data, "epoch", None)
        return steps / epoch(self.batch) if epoch else 0.0

    def tokens(self, steps: int) -> int:
        """Examples, of a language model tokens, of so many steps."""
        return steps * self.batch * getattr(self.data, "length", 1)


@cache
def _fingerprint(target: Target) -> str:
    """Kept, since it draws weights from torch's own generator, which threads share."""
    with _ONE_AT_A_TIME:
        own = target.clip, target.micro_batches, target.dtype
        return hashlib.sha256(repr((Task.fingerprint(target), own)).encode()).hexdigest()[:12]
