"""The role of every parameter of a torch module: matrix, vector, embedding or head.

Exported files of rules that act by role carry this text.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from .errors import did_you_mean, quoted
from .parameter import ROLES

if TYPE_CHECKING:
    from torch import Tensor, nn


def roles_of(module: nn.Module, overrides: Mapping[str, str] | None = None) -> dict[str, str]:
    """Parameter name -> role, by a rule that reads the module's structure and no shapes beyond the number of axes.

    In this order: what `overrides` says; the table of an Embedding or EmbeddingBag is an "embedding", also where a
    head shares it; fewer than two axes make a "vector"; the matrix of the last registered Linear or Bilinear is the
    "head", unless it stands in a block that is repeated or no other matrix is there; the rest are each a "matrix".
    A matrix is read as (fan_out, fan_in, ...); a transposed convolution, which keeps it the other way, is not turned.

    Args:
        module: Its `named_parameters` are named in the result, in their order; a shared one once.
        overrides: Name or shell pattern -> role, such as {"*.gate.weight": "vector"}; the first that fits counts.

    Raises:
        ValueError: An unknown role, or a pattern that fits no parameter.

    >>> from torch import nn
    >>> roles_of(nn.Sequential(nn.Embedding(9, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 9)))
    ... # doctest: +NORMALIZE_WHITESPACE
    {'0.weight': 'embedding', '1.weight': 'vector', '1.bias': 'vector', '2.weight': 'matrix', '2.bias': 'vector',
     '3.weight': 'head', '3.bias': 'vector'}
    """
    names = [name for name, _ in module.named_parameters()]
    chosen = _overridden(names, overrides or {})
    tables, head = _tables(module), _head(module)

    def role(name: str, parameter: nn.Parameter) -> str:
        if name in chosen:
            return chosen[name]
        if id(parameter) in tables:
            return "embedding"
        if parameter.ndim < 2:
            return "vector"
        return "head" if parameter is head else "matrix"

    return {name: role(name, parameter) for name, parameter in module.named_parameters()}


def role_groups(module: nn.Module, overrides: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """Parameter groups by role, with names: what an optimizer takes whose rule acts by role.

    Takes and raises what `roles_of` does, and raises TypeError for what is no module.

    >>> from torch import nn
    >>> groups = role_groups(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 9)))
    >>> [(group["role"], [name for name, _ in group["params"]]) for group in groups]
    [('matrix', ['0.weight']), ('vector', ['0.bias', '1.bias']), ('head', ['1.weight'])]
    """
    if not hasattr(module, "named_parameters"):
        raise TypeError(f"role_groups takes a module, not a {type(module).__name__}")
    groups: dict[str, list[Any]] = {}
    roles = roles_of(module, overrides)
    for name, parameter in module.named_parameters():
        groups.setdefault(roles[name], []).append((name, parameter))
    return [{"params": params, "role": role} for role, params in groups.items()]


def _overridden(names: list[str], overrides: Mapping[str, str]) -> dict[str, str]:
    chosen: dict[str, str] = {}
    for pattern, role in overrides.items():
        if role not in ROLES:
            raise ValueError(f"unknown role {quoted(role)} for {quoted(pattern)}; {did_you_mean(role, ROLES)}")
        fits = [name for name in names if fnmatchcase(name, pattern)]
        if not fits:
            raise ValueError(f"no parameter is called {quoted(pattern)}; {did_you_mean(pattern, names)}")
        for name in fits:
            chosen.setdefault(name, role)
    return chosen


def _tables(module: nn.Module) -> set[int]:
    from torch import nn

    return {id(m.weight) for m in module.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))}


def _head(module: nn.Module) -> Tensor | None:
    """The weight of the last linear map, where it stands in no repeated block and other matrices are there."""
    from torch import nn

    maps = [(name, m) for name, m in module.named_modules() if isinstance(m, (nn.Linear, nn.Bilinear))]
    tables = _tables(module)
    matrices = [p for p in module.parameters() if p.ndim > 1 and id(p) not in tables]
    if not maps or len(matrices) < 2:
        return None
    name, last = maps[-1]
    steps = name.split(".")
    above = [(module.get_submodule(".".join(steps[:i])), steps[i]) for i in range(len(steps))]
    return None if any(_repeats(parent, child) for parent, child in above) else last.weight


def _repeats(parent: nn.Module, child: str) -> bool:
    """Whether a child is a block among others: in a list, or a module of modules beside one of its own class."""
    from torch import nn

    if isinstance(parent, nn.ModuleList):
        return True
    block = parent.get_submodule(child)
    alike = [m for m in parent.children() if type(m) is type(block)]
    return len(alike) > 1 and next(block.children(), None) is not None
