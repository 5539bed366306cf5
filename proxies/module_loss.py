"""The loss of a torch module as a function of its trained parameters, for one copy."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from multiprocessing import parent_process
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, replace_all_batch_norm_modules_
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _NormBase

from .crossentropy import sample_targets
from .data import Batch
from .task_error import TaskError

log = logging.getLogger(__name__)

MakeModule = Callable[[], nn.Module]
LossOfModule = Callable[[nn.Module, Batch], Tensor]


def label_loss(module: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy in nats of `module(x)`, logits (..., V), at labels y (...); what a module is trained on
    unless its task says otherwise. Of an output with a field `logits`, as transformers has them, that is read.

    Raises:
        TypeError: The targets are no labels.

    >>> label_loss(nn.Identity(), Batch(torch.zeros(2, 4), torch.tensor([0, 3])))
    tensor(1.3863)
    """
    if not isinstance(batch.y, Tensor) or batch.y.is_floating_point():
        raise TypeError("the targets y are no whole numbers, as labels are; give the task a loss(module, batch)")
    logits = _logits(module, batch)
    return cross_entropy(logits.flatten(0, -2), batch.y.flatten())


def sampled_label_loss(module: nn.Module, batch: Batch, uniform: Tensor) -> Tensor:
    """The same at labels drawn from the module's own prediction by numbers (N,) from [0, 1)."""
    logits = _logits(module, batch).flatten(0, -2)
    return cross_entropy(logits, sample_targets(logits.detach().softmax(-1), uniform))


def _logits(module: nn.Module, batch: Batch) -> Tensor:
    out = module(batch.x)
    return getattr(out, "logits", out)


class ModuleLoss:
    """The loss of a module as a function of its trained parameters by name, one copy's.

    Parameters that ask for no gradient are not trained; a shared one is trained once. Buffers, and what is not
    trained, are at every call as `make` gives them at seed 0. A batch with a key is trained on: the module is in its
    training mode, and its draws are a function of the key. Without one it is in its evaluation mode.

    Args:
        name: Of the task, for notices.
        make: Builds the module, initial weights drawn from torch's own generator.
        loss: (module, batch) -> mean loss, a scalar.

    Raises:
        TaskError: What is made is no module, or has nothing to train.

    >>> loss = ModuleLoss("t", lambda: nn.Linear(2, 3), label_loss)
    >>> {name: tuple(p.shape) for name, p in loss.initial(0).items()}
    {'weight': (3, 2), 'bias': (3,)}
    """

    def __init__(self, name: str, make: MakeModule, loss: LossOfModule) -> None:
        self.name, self.make, self.loss = name, make, loss
        self.module = self.fresh(0)
        if any(isinstance(m, _NormBase) and m.track_running_stats for m in self.module.modules()):
            if parent_process() is None:  # a worker's parent has said it
                log.warning(
                    "%s: batch norm takes the statistics of each batch, in validation too, and keeps none", name
                )
            replace_all_batch_norm_modules_(self.module)
        self._call = _Call(self.module)
        named = dict(self.module.named_parameters())
        self.trained = [name for name, p in named.items() if p.requires_grad]
        if not self.trained:
            raise TaskError(f"{name}: the module has no parameter that asks for a gradient, so nothing to train")
        fixed = {n: p for n, p in named.items() if not p.requires_grad} | dict(self.module.named_buffers())
        self.fixed = {name: value.detach() for name, value in fixed.items()}
        self._moved: dict[tuple[torch.device, torch.dtype], dict[str, Tensor]] = {}

    def initial(self, seed: int) -> dict[str, Tensor]:
        """The trained parameters of a seed by name, float32 on the CPU; torch's generator is left as it was."""
        named = dict(self.fresh(seed).named_parameters())
        return {name: named[name].detach().float().contiguous() for name in self.trained}

    def fresh(self, seed: int) -> nn.Module:
        """A module with the weights of a seed; torch's generator is left as it was."""
        with seeded(seed, torch.device("cpu")):
            module = self.make()
        if not isinstance(module, nn.Module):
            raise TaskError(f"{self.name}: what it makes is a {type(module).__name__}, not a torch.nn.Module")
        return module

    def at(self, params: Mapping[str, Tensor], batch: Batch, loss: LossOfModule | None = None) -> Tensor:
        """The scalar loss of one copy; floating-point inputs and buffers take the parameters' dtype and device.

        Raises:
            TaskError: The loss is no scalar.
        """
        like = next(iter(params.values()))
        # Copies, since a module may write to its buffers.
        fixed = {name: value.clone() for name, value in self._fixed_like(like).items()}
        values = {f"module.{name}": value for name, value in (fixed | dict(params)).items()}
        found = functional_call(self._call, values, (loss or self.loss, batch.map(lambda t: _like(t, like))))
        if not isinstance(found, Tensor) or found.ndim:
            shown = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise TaskError(f"{self.name}: the loss of a batch is one number, a tensor of shape (), and not {shown}")
        return found

    def _fixed_like(self, like: Tensor) -> dict[str, Tensor]:
        """What is not trained, on the device and in the dtype of what is; moved once."""
        key = like.device, like.dtype
        if key not in self._moved:
            self._moved[key] = {name: _like(value, like) for name, value in self.fixed.items()}
        return self._moved[key]

    @contextmanager
    def mode(self, batch: Batch, device: torch.device) -> Iterator[None]:
        """The mode and the draws that a batch asks for; enter it anew for every slice, so that all draw alike."""
        if self.module.training != (batch.key is not None):
            self.module.train(batch.key is not None)
        with _ops_that_know_populations(device), seeded(batch.key or 0, device):
            yield

    def structure(self) -> str:
        """The module as text, without addresses of objects, and what of it is trained."""
        shown = re.sub(r" at 0x[0-9a-f]+", "", str(self.module))
        return f"{shown} {self.trained} {[(name, tuple(v.shape)) for name, v in self.fixed.items()]}"


class _Call(nn.Module):
    """Calls a loss on a module, so that `functional_call` can lend that module other weights."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, loss: LossOfModule, batch: Batch) -> Any:
        return loss(self.module, batch)


def _like(value: Tensor, like: Tensor) -> Tensor:
    """A tensor on the device of another and, where it is of floating point, in its dtype."""
    return value.to(like) if value.is_floating_point() else value.to(like.device)


@contextmanager
def _ops_that_know_populations(device: torch.device) -> Iterator[None]:
    """On a CPU torch has two ops that would take the copies of a population one after another, with a warning: of
    attention, and of a whole nn.TransformerEncoderLayer in evaluation.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's generators of the CPU and of a device at a seed, and as they were afterwards.

    >>> before = torch.random.get_rng_state()
    >>> with seeded(1, torch.device("cpu")):
    ...     drawn = torch.rand(1)
    >>> torch.equal(before, torch.random.get_rng_state())
    True
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        for cuda in devices:
            with torch.cuda.device(cuda):
                torch.cuda.manual_seed(seed)
        yield
