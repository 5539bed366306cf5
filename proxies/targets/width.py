"""Width: a decoder target at another one, so that a rule is tuned on a narrow model and trained on a wide one."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

from ..module_model import ModuleModel
from ..task_error import TaskError
from .decoder import Decoder, DecoderShape
from .target import Target


def at_width(target: Target, width: int, mup: bool = True) -> Target:
    """A decoder target at another width, in the maximal update parametrisation relative to its own.

    What a rule was tuned to on the target, its learning rate above all, holds at the other width as it is (Yang et al.
    2022, arXiv:2203.03466); see `Decoder` and `evaluator.validation.width_transfer`. Depth, batch and the number of
    heads stay; `steps` grows with the parameters, so that data ratio 1 means the same.

    Args:
        target: A language model; at the base width it is trained as it stands.
        width: Features of the residual stream, a multiple of twice the number of heads.
        mup: False: the standard parametrisation, for comparison.

    Raises:
        TaskError: A target that is no decoder, or a width that its heads do not divide.

    >>> from .registry import target as named
    >>> wide = at_width(named("gpt-100k"), 256)
    >>> wide.name, shape_of(wide).base_width
    ('gpt-100k@256', 64)
    """
    shape = shape_of(target)
    base = shape.base_width or shape.width
    own = target.name.rpartition("@")[0] if shape.base_width else target.name
    name = f"{own}@{width}{'' if mup else ' standard'}"
    model = ModuleModel(name, partial(Decoder, replace(shape, width=width, base_width=base if mup else 0)))
    grown = _size(model) / _size(target.model)  # type: ignore[arg-type]
    return replace(target, name=name, model=model, steps=max(10, int(round(target.steps * grown, -1))))


def shape_of(target: Target) -> DecoderShape:
    """The shape of a decoder target.

    Raises:
        TaskError: Its model is another.
    """
    module = target.model.call.module if isinstance(target.model, ModuleModel) else None
    if not isinstance(module, Decoder):
        raise TaskError(f"{target.name} is no decoder, so it has no other widths; gpt-100k has")
    return module.shape


def _size(model: ModuleModel) -> int:
    return sum(map(math.prod, model.shapes.values()))
