"""Kind: how many numbers a value is, as the two axes along which it varies.

A value varies over the whole model (one number), per tensor, or along the named axes of a tensor. A parameter
of two or more dimensions reaches a program as a matrix of `fan_out` rows and `fan_in` columns, whatever layout
its module keeps; `short` and `long` are the same two sides by size; an integer k is an axis of rank k, never
longer than the shorter side.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, TypeAlias

Axis: TypeAlias = str | int  # a name of AXES, or a rank; 1: the value does not vary there
AXES: tuple[str, ...] = ("fan_out", "fan_in", "short", "long")


class Kind:
    """The axes of a value, rows then columns; there is one object for each pair, so `is` compares.

    `small <= large` says that a value of the one may stand, written out, where the other is wanted.

    >>> Kind.of("fan_out", 1), Kind.SCALAR <= Kind.of("fan_out", 1) <= Kind.TENSOR
    ([fan_out, 1], True)
    >>> Kind.of("fan_out", 1) <= Kind.of(1, "fan_in")
    False
    """

    __slots__ = ("columns", "rows")
    GLOBAL: ClassVar[Kind]
    SCALAR: ClassVar[Kind]
    TENSOR: ClassVar[Kind]
    _made: ClassVar[dict[tuple[Axis, Axis], Kind]] = {}
    rows: Axis
    columns: Axis

    @classmethod
    def of(cls, rows: Axis, columns: Axis) -> Kind:
        """The kind with these axes."""
        made = cls._made.get((rows, columns))
        if made is None:
            made = object.__new__(cls)
            made.rows, made.columns = rows, columns
            cls._made[rows, columns] = made
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return Kind.of, (self.rows, self.columns)

    def __le__(self, other: Kind) -> bool:
        return self is other or join((self, other)) is other

    def __lt__(self, other: Kind) -> bool:
        return self is not other and self <= other

    def __str__(self) -> str:
        return _NAMES.get(self) or f"[{self.rows}, {self.columns}]"

    __repr__ = __str__

    @property
    def plain(self) -> bool:
        """Whether tensors of any shape have it: one number, one per tensor, or one per element."""
        return self in _NAMES

    @property
    def transposed(self) -> Kind:
        """Rows for columns."""
        return Kind.of(self.columns, self.rows)


Kind.GLOBAL = Kind.of("model", "model")
Kind.SCALAR = Kind.of(1, 1)
Kind.TENSOR = Kind.of("fan_out", "fan_in")
_NAMES = {Kind.GLOBAL: "global", Kind.SCALAR: "scalar", Kind.TENSOR: "tensor"}
#: The kinds that have a name of their own in a header.
NAMED_KINDS: dict[str, Kind] = {name: kind for kind, name in _NAMES.items()}
_joined: dict[tuple[Kind, Kind], Kind | None] = {}


def join(kinds: Iterable[Kind]) -> Kind | None:
    """The kind of an elementwise result of arguments of these kinds; None where their axes differ.

    >>> join([Kind.of("fan_out", 1), Kind.of(1, "fan_in")])
    tensor
    """
    result = Kind.GLOBAL
    for kind in kinds:
        if kind is result:
            continue
        if (result, kind) not in _joined:
            _joined[result, kind] = _join(result, kind)
        joined = _joined[result, kind]
        if joined is None:
            return None
        result = joined
    return result


def _join(a: Kind, b: Kind) -> Kind | None:
    if a is Kind.GLOBAL or b is Kind.GLOBAL:
        return b if a is Kind.GLOBAL else a
    rows, columns = _axis(a.rows, b.rows), _axis(a.columns, b.columns)
    return None if rows is None or columns is None else Kind.of(rows, columns)


def _axis(a: Axis, b: Axis) -> Axis | None:
    if a == 1 or b == 1:
        return b if a == 1 else a
    return a if a == b else None
