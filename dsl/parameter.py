"""Parameters as programs see them: roles, and the matrix of fan_out rows and fan_in columns.

Exported files of rules that act by role carry this text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

ROLES: tuple[str, ...] = ("matrix", "vector", "embedding", "head")


def infer_role(shape: Sequence[int]) -> str:
    """The role of a parameter of which nothing else is known: a matrix where it has two axes or more."""
    return "matrix" if len(shape) > 1 else "vector"


def extent(axis: str | int, shape: tuple[int, int]) -> int:
    """The length of an axis for a matrix of this shape (fan_out, fan_in).

    >>> [extent(a, (8, 3)) for a in ("fan_out", "fan_in", "short", "long", 1, 4)]
    [8, 3, 3, 8, 1, 3]
    """
    if isinstance(axis, int):
        return min(axis, *shape)
    return {"fan_out": shape[0], "fan_in": shape[1], "short": min(shape), "long": max(shape)}[axis]


class ParameterView:
    """A parameter as a program sees it: its index in the model, its shape, and its matrix of rows and columns.

    Works on numpy arrays and torch tensors alike.
    """

    def __init__(self, index: Any, shape: tuple[int, ...], role: str) -> None:
        self.index, self.shape, self.role = index, shape, role
        self.flat = (shape[0], math.prod(shape[1:])) if len(shape) > 1 else None

    @property
    def matrix(self) -> tuple[int, int]:
        """(fan_out, fan_in). An embedding keeps a row per input, so its rows are fan_in."""
        assert self.flat is not None, "see check_matrices"
        return self.flat[::-1] if self.role == "embedding" else self.flat

    def sides(self, rows: str | int, columns: str | int) -> tuple[int, int]:
        """The shape of a matrix with these axes."""
        return extent(rows, self.matrix), extent(columns, self.matrix)

    def view(self, x: Any) -> Any:
        """The parameter's values as that matrix."""
        flat = x.reshape(self.flat)
        return flat.T if self.role == "embedding" else flat

    def back(self, x: Any) -> Any:
        """The matrix in the layout of the parameter."""
        return (x.T if self.role == "embedding" else x).reshape(self.shape)


def check_matrices(tensors: Sequence[ParameterView]) -> None:
    """Raises ValueError for a parameter without rows and columns."""
    for tensor in tensors:
        if tensor.flat is None:
            raise ValueError(
                f"parameter {tensor.index} has shape {tensor.shape}: no rows and columns, so its role is vector, "
                f"not {tensor.role}"
            )
