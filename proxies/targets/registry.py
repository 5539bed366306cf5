"""The targets by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache, partial

from torch import nn

from ...dsl.errors import did_you_mean
from ..module_model import ModuleModel
from ..task import Task
from ..task_error import TaskError
from ..task_file import file_task, is_file_name
from .decoder import Decoder, DecoderShape
from .metrics import accuracy, continuation_choice
from .passages import Passages, Ranker, ranking
from .rows import Rows
from .target import Metric, Target
from .tokens import Tokens
from .vision import VisionTransformer, perceptron
from .width import at_width


class UnknownTarget(TaskError):
    """A target name that nothing answers to."""


_RATIO = 20  # tokens a parameter at data ratio 1 (Hoffmann et al. 2022, arXiv:2203.15556)
_BYTES = 128

#: Language models: (width, layers, heads, length, vocabulary, batch, micro-batches).
_DECODERS = {
    "60k": (48, 2, 3, 64, _BYTES, 16, 1),
    "100k": (64, 2, 4, 64, _BYTES, 16, 1),
    "600k": (128, 3, 4, 128, _BYTES, 16, 1),
    "3m": (256, 4, 4, 256, _BYTES, 32, 1),
    "10m": (320, 8, 5, 512, _BYTES, 64, 1),
    "30m": (512, 8, 8, 1024, 8_192, 64, 2),
    "124m": (768, 16, 12, 1024, 12_288, 256, 8),
}
_BFLOAT16 = ("10m", "30m", "124m")  # sizes for GPUs


def _language(style: str, size: str, source: str = "speeches", qk_norm: bool = False, times: int = 1) -> Target:
    """A language model; with `times` its batches are so many times larger, and its steps as many times fewer."""
    width, layers, heads, length, vocabulary, batch, micro = _DECODERS[size]
    batch *= times
    shape = DecoderShape(vocabulary, width, layers, heads, length, style, qk_norm)
    marks = ("-qk" if qk_norm else "", f"-{source}" if source != "speeches" else "", f"-b{batch}" if times > 1 else "")
    name = f"{style}-{size}{''.join(marks)}"
    data = Tokens(source, vocabulary, length)
    model = ModuleModel(name, partial(Decoder, shape))
    parameters = sum(math.prod(s) for s in model.shapes.values())
    steps = round(_RATIO * parameters / (batch * length), -1)
    metric = Metric("continuation choice", continuation_choice)
    dtype = "bfloat16" if size in _BFLOAT16 else "float32"
    return Target(
        name, model, data, batch, int(steps), decay="constant_linear", micro_batches=micro, dtype=dtype, metric=metric
    )


def _classifier(
    name: str, make: Callable[[], nn.Module], data: Rows, batch: int, steps: int, roles: dict[str, str] | None = None
) -> Target:
    return Target(name, ModuleModel(name, make, roles=roles), data, batch, steps, metric=Metric("accuracy", accuracy))


def _ranker() -> Target:
    shape = DecoderShape(_BYTES, width=48, layers=2, heads=3, length=128)
    model = ModuleModel("rank-60k", partial(Ranker, shape, "speeches"))
    return Target("rank-60k", model, Passages(length=shape.length), 16, 300, metric=Metric("MRR@10", ranking))


def _vit() -> Target:
    make = partial(VisionTransformer, side=8, patch=2, width=64, layers=2, heads=4, classes=10)
    return _classifier("vit-100k", make, Rows("digits", noise=0.3), 64, 600, {"position": "embedding"})


_MAKERS: dict[str, Callable[[], Target]] = {
    **{f"{style}-{size}": partial(_language, style, size) for size in _DECODERS for style in ("gpt", "llama")},
    **{f"{style}-{size}-stdlib": partial(_language, style, size, "stdlib")
       for size in ("60k", "100k", "600k", "10m") for style in ("gpt", "llama")},
    **{f"{style}-{size}-b64": partial(_language, style, size, times=4)
       for size in ("60k", "100k", "600k") for style in ("gpt", "llama")},
    "llama-100k-qk": partial(_language, "llama", "100k", qk_norm=True),
    "rank-60k": _ranker,
    "vit-100k": _vit,
    "table-cancer": partial(
        _classifier, "table-cancer", partial(perceptron, 30, 64, 2), Rows("breast_cancer", noise=0.5), 32, 300
    ),
    "table-wine": partial(_classifier, "table-wine", partial(perceptron, 13, 64, 3), Rows("wine", noise=1.0), 16, 300),
}  # fmt: skip


def targets() -> tuple[str, ...]:
    """The names of all targets.

    >>> targets()[:4]
    ('gpt-60k', 'llama-60k', 'gpt-100k', 'llama-100k')
    """
    return tuple(_MAKERS)


def target(name: str, text: str = "") -> Target:
    """The target of a name, on a text of the user's own where one is given.

    Args:
        name: One of `targets`; NAME@WIDTH, a decoder at another width by `at_width`; or a task of the user's own,
            `my_task.py:MyTask`.
        text: Path of a text file or folder, or the name of a text; see `corpus`. Language models alone take one.

    Raises:
        UnknownTarget: One line, with the nearest name.
        TaskError: One line, for a text that cannot be read, or that the target does not take.

    >>> target("gpt-100k").steps
    2170
    >>> target("gpt-100k@256").name
    'gpt-100k@256'
    >>> target("gpt-small")
    Traceback (most recent call last):
    stepsmith.proxies.targets.registry.UnknownTarget: unknown target 'gpt-small': ...
    """
    if is_file_name(name):
        return _of_file(name, text)
    name, at, width = name.partition("@")
    if at:
        if not width.isdecimal() or not int(width):
            raise UnknownTarget(f"{name}@{width}: the width after @ is a whole number above 0, as in gpt-100k@256")
        return at_width(target(name, text), int(width))
    if name not in _MAKERS:
        raise UnknownTarget(f"unknown target {name!r}: {did_you_mean(name, _MAKERS)}")
    return _on_text(name, text) if text else _made(name)


@cache
def _made(name: str) -> Target:
    return _MAKERS[name]()


def _of_file(name: str, text: str) -> Target:
    task = file_task(name)
    if not isinstance(task.model, ModuleModel):
        raise TaskError(f"{name}: a target trains a torch module, and this task's model is none")
    if text:
        raise TaskError(f"{name} has data of its own, so it takes no text")
    return Target(**{field.name: getattr(task, field.name) for field in fields(Task)})


@cache
def _on_text(name: str, text: str) -> Target:
    own = _made(name)
    if not isinstance(own.data, Tokens):
        raise TaskError(f"{name} trains on no text, so it takes none; gpt-100k does")
    data = replace(own.data, source=text)
    data.check(own.batch)
    return replace(own, name=f"{name} on {text}", data=data)
