"""Any torch module as the model of a task: its copies go through it together, by `torch.func`."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from ..dsl.roles import roles_of
from .data import Batch
from .model import Population
from .module_loss import LossOfModule, MakeModule, ModuleLoss, label_loss, sampled_label_loss
from .task_error import TaskError, blamed, is_out_of_memory

log = logging.getLogger(__name__)
_T = TypeVar("_T")

# What the copies of a slice may keep for their backward pass. torch's own bookkeeping, some milliseconds a pass, is
# shared by a slice: from 8 to 64 MiB small transformers take the least time a copy, two to four times less than one
# copy at a time, and beyond that the cache is left behind.
_ROOM = 64 << 20


class ModuleModel(Population):
    """A module that trains as a population; what is trained and how it draws is said by `ModuleLoss`.

    Where copies cannot go through the module together, as where it branches on a value that its weights decide, they
    go through it one by one, with one notice.

    Args:
        name: Of the task, for notices.
        make: Builds the module.
        loss: (module, batch) -> mean loss in nats; cross-entropy of labels by default.
        roles: Name or shell pattern -> role, over what `roles_of` infers.

    Raises:
        TaskError: No module, nothing to train, or a role that is none.

    >>> from torch import nn
    >>> model = ModuleModel("t", lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)))
    >>> model.roles
    {'0.weight': 'matrix', '0.bias': 'vector', '2.weight': 'head', '2.bias': 'vector'}
    >>> params = [p.expand(5, *p.shape).contiguous() for p in model.init(0)]
    >>> model.loss(params, Batch(torch.zeros(2, 4), torch.tensor([0, 1]))).shape
    torch.Size([5])
    """

    cache = _ROOM
    replayable = False  # it draws from Python's side, and may branch there

    def __init__(
        self, name: str, make: MakeModule, loss: LossOfModule | None = None, roles: Mapping[str, str] | None = None
    ) -> None:
        self.call = ModuleLoss(name, make, loss or label_loss)
        self.classifies = loss is None  # type: ignore[misc]
        self.together: bool | None = None  # unknown before the first pass
        self._bytes: dict[Any, int] = {}
        try:
            inferred = roles_of(self.call.module, roles)
        except ValueError as error:
            raise TaskError(f"{name}: roles: {error}") from None
        self.roles = {name: inferred[name] for name in self.call.trained}

    def __repr__(self) -> str:
        """What a fingerprint reads: the module's structure, in short, and the roles."""
        digest = hashlib.sha256(self.call.structure().encode()).hexdigest()[:12]
        return f"ModuleModel({digest}, {self.roles}, classifies={self.classifies})"

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Parameter name -> shape of one copy."""
        named = dict(self.call.module.named_parameters())
        return {name: tuple(named[name].shape) for name in self.roles}

    def init(self, seed: int) -> list[Tensor]:
        """One copy of the trained parameters, float32 on the CPU, a function of the seed alone."""
        return list(self.call.initial(seed).values())

    def forward(self, params: Sequence[Tensor], batch: Batch) -> Tensor:
        """(P,) mean losses."""

        def of_copy(copy: dict[str, Tensor]) -> Tensor:
            return self.call.at(copy, batch)

        with torch.no_grad():
            return self._either(vmap(of_copy, randomness="same"), of_copy, torch.stack, params, batch)

    def gradients_into(
        self, out: Sequence[Tensor], params: Sequence[Tensor], batch: Batch, loss: LossOfModule | None = None
    ) -> Tensor:
        """(P,) mean losses, the gradient of each copy's own loss written to `out`; `loss` in place of the task's."""

        def of_copy(copy: dict[str, Tensor]) -> Tensor:
            return self.call.at(copy, batch, loss)

        together = vmap(grad_and_value(of_copy), randomness="same")
        gradients, losses = self._either(together, partial(_one_gradient, of_copy), _stacked, params, batch)
        for into, name in zip(out, self.roles, strict=True):
            into.copy_(gradients[name])
        return losses.detach()

    def sampled_gradients_into(
        self, out: Sequence[Tensor], params: Sequence[Tensor], batch: Batch, uniform: Tensor
    ) -> None:
        """The gradients of one slice at drawn labels, written to `out`.

        Raises:
            NotImplementedError: The task has a loss of its own, so there are no labels to draw.
        """
        if not self.classifies:
            raise NotImplementedError(f"{self.call.name} has a loss of its own, so there are no labels to draw")
        self.gradients_into(out, params, batch, partial(sampled_label_loss, uniform=uniform))

    def bytes_per_copy(self, batch: Batch) -> int:
        """What one copy keeps for its backward pass, its parameters and their gradients, in bytes."""
        key = tuple(tuple(t.shape) for t in batch.tensors())
        if key not in self._bytes:
            self._bytes[key] = self._measured(batch)
        return self._bytes[key]

    def pass_bytes(self, batch: Batch) -> int:
        """The same: what is kept is what is taken."""
        return self.bytes_per_copy(batch)

    def _measured(self, batch: Batch) -> int:
        kept: dict[int, Tensor] = {}  # by storage, held so that no address comes twice

        def keep(value: Tensor) -> Tensor:
            kept[value.untyped_storage().data_ptr()] = value
            return value

        batch = batch.to("cpu")
        leaves = {name: p.requires_grad_() for name, p in self.call.initial(0).items()}
        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value)
        with torch.enable_grad(), self.call.mode(batch, torch.device("cpu")), hooks:
            self.call.at(leaves, batch)
        sizes = [value.untyped_storage().nbytes() for value in kept.values()]
        return sum(sizes) + 2 * sum(p.numel() * p.element_size() for p in leaves.values())

    def _named(self, params: Sequence[Tensor]) -> dict[str, Tensor]:
        return dict(zip(self.roles, params, strict=True))

    def _either(
        self,
        together: Callable[[dict[str, Tensor]], _T],
        alone: Callable[[dict[str, Tensor]], Any],
        join: Callable[[list[Any]], _T],
        params: Sequence[Tensor],
        batch: Batch,
    ) -> _T:
        """All copies at once; one by one where the module cannot, or where it raises an error for these weights."""
        if self._goes_together(together, batch):
            try:
                with self.call.mode(batch, params[0].device):
                    return together(self._named(params))
            except Exception as error:
                if isinstance(error, TaskError) or is_out_of_memory(error):
                    raise
        copies = (self._named([p[index] for p in params]) for index in range(len(params[0])))
        return join([self._one(alone, copy, batch) for copy in copies])

    def _goes_together(self, together: Callable[[dict[str, Tensor]], Any], batch: Batch) -> bool:
        """Whether copies can go through the module together: tried once, on initial weights, so that it depends on
        nothing that a run does.
        """
        if self.together is None:
            try:
                with self.call.mode(batch, torch.device("cpu")):
                    together(self._named([p.expand(2, *p.shape).contiguous() for p in self.init(0)]))
                self.together = True
            except Exception as error:
                if isinstance(error, TaskError) or is_out_of_memory(error):
                    raise
                self.together = False
                why = next(iter(str(error).splitlines()), type(error).__name__).partition(". ")[0]
                log.warning("%s: copies train one by one, which takes several times longer: %s", self.call.name, why)
        return self.together

    def _one(self, alone: Callable[[dict[str, Tensor]], Any], copy: dict[str, Tensor], batch: Batch) -> Any:
        """What `alone` gives for a copy; NaN where the module raises an error for these weights only.

        A loss may refuse what a diverging run makes, such as a probability that is NaN.
        """
        device = next(iter(copy.values())).device
        with self.call.mode(batch, device):
            try:
                return alone(copy)
            except Exception as error:
                if isinstance(error, TaskError) or is_out_of_memory(error):
                    raise
                failure = error
        with self.call.mode(batch, device):
            try:
                return _spoilt(alone({name: p.to(copy[name]) for name, p in self.call.initial(0).items()}))
            except Exception:
                raise blamed(self.call.name, failure) from failure


def _spoilt(found: Any) -> Any:
    """NaN in the place of a loss, or of gradients and a loss."""
    if isinstance(found, Tensor):
        return found * torch.nan
    gradients, loss = found
    return {name: g * torch.nan for name, g in gradients.items()}, loss * torch.nan


def _one_gradient(
    loss: Callable[[dict[str, Tensor]], Tensor], copy: dict[str, Tensor]
) -> tuple[dict[str, Tensor], Tensor]:
    """By autograd as a training loop has it, which knows more modules than torch.func."""
    leaves = {name: p.detach().requires_grad_() for name, p in copy.items()}
    with torch.enable_grad():
        value = loss(leaves)
    found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, found, strict=True)), value.detach()


def _stacked(found: list[tuple[dict[str, Tensor], Tensor]]) -> tuple[dict[str, Tensor], Tensor]:
    """Gradients and losses of copies, with a leading axis."""
    gradients, losses = zip(*found, strict=True)
    return {name: torch.stack([g[name] for g in gradients]) for name in gradients[0]}, torch.stack(losses)
