"""An exported class among timm's optimizers, so that timm's factory and training scripts make it by name."""

from __future__ import annotations

import inspect
import os

from ..dsl import Program, ProgramError
from .catalogue import load
from .export_torch import torch_class


def register_timm(program: Program | str | os.PathLike[str]) -> str:
    """Enters the class that `program.torch()` gives into timm's registry; returns the name to give as `opt`.

    The name is the program's after `stepsmith-`, with dashes for underscores, of which timm reads only what follows
    the last: its `c_lion` is its own Lion, and its own `clion` is left alone. timm passes its defaults on, so that
    weight decay is 0 and a momentum 0.9 unless the caller says otherwise, whatever the program's defaults are.
    What else the class takes, such as `total_steps`, is given to `create_optimizer_v2` by name.

    Args:
        program: A program, or what `discovered.load` takes.

    Raises:
        ProgramError: The program cannot be exported, or takes no `weight_decay`, which timm gives every optimizer.
        ImportError: timm is not installed.

    >>> register_timm("sgd")
    Traceback (most recent call last):
    stepsmith.dsl.errors.ProgramError: timm gives every optimizer a weight_decay and sgd takes none; register
    decoupled_decay(sgd)

    With timm::

        name = register_timm("c_lion")  # "stepsmith-c-lion"
        optimizer = timm.optim.create_optimizer_v2(model, opt=name, lr=1e-4, weight_decay=0.1)
    """
    program = program if isinstance(program, Program) else load(program)
    made = torch_class(program)
    takes = inspect.signature(made).parameters
    if "weight_decay" not in takes:
        remedy = f"register decoupled_decay({program.name})"
        raise ProgramError(f"timm gives every optimizer a weight_decay and {program.name} takes none; {remedy}")

    try:
        from timm.optim._optim_factory import (
            OptimInfo,
            default_registry,
        )  # timm.optim itself does not name the registry
    except ImportError as error:
        raise ImportError(
            f"register_timm needs timm and a torchvision that fits torch: pip install timm ({error})"
        ) from None

    betas = takes["betas"].default if "betas" in takes else ()
    info = OptimInfo(
        name="stepsmith-" + program.name.lower().replace("_", "-"),
        opt_class=made,
        description=" ".join(program.doc.splitlines()[:1]),
        has_eps="eps" in takes,
        has_momentum="momentum" in takes,
        has_betas=bool(betas),
        num_betas=len(betas),
    )
    default_registry.register(info)
    return info.name
