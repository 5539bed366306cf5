"""Tasks of the user's own: of a torch module and its data, or of a class that gives them."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from ..dsl.errors import quoted
from .module_loss import LossOfModule, MakeModule
from .module_model import ModuleModel
from .schedule import schedule
from .source import Source
from .task import Task
from .task_error import TaskError

_NEEDED = ("module", "steps", "batch")
_OPTIONAL = ("loss", "warmup", "decay", "roles", "held_out")
_DATA = ("data", "batches", "validation")


def task_of_module(
    make_module: MakeModule,
    data: Any,
    *,
    batch: int,
    steps: int,
    loss: LossOfModule | None = None,
    warmup: float = 0.05,
    decay: str = "linear",
    roles: Mapping[str, str] | None = None,
    held_out: Sequence[str] = (),
    name: str = "module",
) -> Task:
    """A task that trains a torch module, as a population wherever `torch.func` can.

    Args:
        make_module: Makes the module with fresh weights, drawn from torch's generator; a class that needs no
            arguments will do.
        data: Has `batches(seed, steps, size)` and `validation()`, which give pairs (x, y): see `Source`, `Examples`.
        batch: Examples a step.
        steps: The full budget.
        loss: (module, batch) -> mean loss, a scalar; by default the cross-entropy in nats of `module(batch.x)`, or of
            its `logits`, at the labels `batch.y`.
        warmup: Share of the steps that warm up.
        decay: "linear", "cosine" or "constant_linear"; see `schedule`.
        roles: Name or shell pattern of a parameter -> "matrix", "vector", "embedding" or "head", where what
            `role_groups` infers is not meant.
        held_out: Names of tasks that stand for unseen data.
        name: For messages.

    Raises:
        TaskError: In one line, for what makes no task.

    >>> import torch
    >>> from .examples import Examples
    >>> digits = Examples(torch.rand(200, 64), torch.arange(200) % 10)
    >>> task_of_module(lambda: nn.Linear(64, 10), digits, batch=16, steps=100).model.shapes
    {'weight': (10, 64), 'bias': (10,)}
    """
    if isinstance(make_module, nn.Module) or not callable(make_module):
        raise TaskError(f"{name}: give a function that makes the module, so that each seed has weights of its own")
    for setting, value in (("steps", steps), ("batch", batch)):
        if not isinstance(value, int) or value < 1:
            raise TaskError(f"{name}: {setting} is a whole number from 1, not {quoted(repr(value))}")
    try:
        schedule(steps, warmup, decay)
    except (TypeError, ValueError) as error:
        raise TaskError(f"{name}: {error}") from None
    model = ModuleModel(name, make_module, loss, roles)
    return Task(name, model, Source(name, data), batch, steps, warmup, decay, tuple(held_out))


def task_of(owner: Any, name: str = "") -> Task:
    """The task that a class or an object of it gives; a task as it is.

    What it has: `steps` and `batch`, numbers; `module()`, which makes the module; `data`, or `batches(seed, steps)`
    and `validation()` of its own, which give pairs (x, y). What it may have: `loss(module, batch)`, `warmup`,
    `decay`, `roles`, `held_out`. Each as `task_of_module` takes it.

    Raises:
        TaskError: In one line, for what lacks or is misspelt.

    >>> class Mine:
    ...     step = 100
    >>> task_of(Mine)
    Traceback (most recent call last):
    stepsmith.proxies.task_error.TaskError: Mine is no task: it lacks module(), steps (it has 'step'), batch, and data
    or batches() with validation()
    """
    if isinstance(owner, Task):
        return owner
    owner = owner() if isinstance(owner, type) else owner
    name = name or type(owner).__name__
    _check(owner, name)
    settings = {key: getattr(owner, key) for key in _OPTIONAL if hasattr(owner, key)}
    data = owner.data if hasattr(owner, "data") else _Own(owner)
    return task_of_module(owner.module, data, batch=owner.batch, steps=owner.steps, name=name, **settings)


class _Own:
    """The data that a task's class makes itself, in batches of its own size."""

    def __init__(self, owner: Any) -> None:
        self.owner = owner
        if hasattr(owner, "digest"):
            self.digest = owner.digest

    def batches(self, seed: int, steps: int, size: int) -> Iterator[Any]:
        yield from self.owner.batches(seed, steps)

    def validation(self) -> Any:
        return self.owner.validation()


def _check(owner: Any, name: str) -> None:
    """Raises TaskError where an attribute lacks, or is one but for a letter."""
    shown = {"module": "module()"}
    lacking = [shown.get(key, key) + _near(owner, key) for key in _NEEDED if not hasattr(owner, key)]
    if not hasattr(owner, "data") and not (hasattr(owner, "batches") and hasattr(owner, "validation")):
        lacking.append("data or batches() with validation()")
    if lacking:
        listed = ", ".join(lacking[:-1]) + (", and " if len(lacking) > 2 else " and " if lacking[1:] else "")
        raise TaskError(f"{name} is no task: it lacks {listed}{lacking[-1]}")
    for key in _OPTIONAL:
        if not hasattr(owner, key) and (near := _near(owner, key)):
            raise TaskError(f"{name}: {key} is not given{near}; give it under that name")


def _near(owner: Any, key: str) -> str:
    """The name that an attribute may have been given in error."""
    own = [n for n in dir(owner) if not n.startswith("_") and n not in (*_NEEDED, *_OPTIONAL, *_DATA)]
    close = difflib.get_close_matches(key, own, n=1, cutoff=0.8)
    return f" (it has {close[0]!r})" if close else ""
