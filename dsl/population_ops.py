"""Rows of the op table as Triton functions of an opcode, from which a kernel chooses while it runs.

A function is a binary tree of branches, six deep for all elementwise rows. All threads of a program take the same one,
so that a choice costs a few cycles.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from .layout import indent
from .op import Op
from .ops import OPCODE, ROWS
from .source import executed


def _tree(leaves: Sequence[tuple[int, str]]) -> list[str]:
    """Lines that set `found` to the expression of an opcode; leaves stand by rising opcode."""
    if len(leaves) == 1:
        return [f"found = {leaves[0][1]}"]
    half = len(leaves) // 2
    below, above = (indent(_tree(some)) for some in (leaves[:half], leaves[half:]))
    return [f"if opcode < {leaves[half][0]}:", *below, "else:", *above]


def _function(name: str, takes: str, leaves: Sequence[tuple[int, str]]) -> list[str]:
    return ["@triton.jit", f"def {name}(opcode, {takes}):", *indent([*_tree(leaves), "return found"]), ""]


def _elementwise(row: Op) -> str:
    """A row on blocks x, y and z of type `real`."""
    if not row.arity:
        return f"tl.full(x.shape, {row.in_triton}, real)"
    return f"({row.in_triton}).to(real)"


def _term(row: Op) -> str:
    """What a reduction adds up, in float64."""
    return "tl.full(x.shape, 1.0, tl.float64)" if row.c == "1" else row.c


def _source() -> str:
    rows = [row for row in ROWS if row.in_triton]
    reductions = [row for row in rows if not row.elementwise]
    finish = {row: re.sub(r"\bsqrt\b", "tl.sqrt", row.finish) for row in reductions}
    tables = {
        "elementwise": ("x, y, z, real: tl.constexpr", {r: _elementwise(r) for r in rows if r.elementwise}),
        "term": ("x, y", {r: _term(r) for r in reductions}),
        "finish": ("x, n", finish),
    }
    functions = [
        _function(name, takes, sorted((OPCODE[row.name], text) for row, text in leaves.items()))
        for name, (takes, leaves) in tables.items()
    ]
    return "\n".join(line for function in functions for line in function)


def _load() -> dict[str, Any]:
    """The functions, made by executing their text."""
    import triton
    import triton.language as tl
    from triton.language.extra import libdevice

    from .triton_helpers import _quotient, _root

    return executed(
        _source(), "rows in Triton", __name__, triton=triton, tl=tl, libdevice=libdevice, _quotient=_quotient,
        _root=_root,
    )  # fmt: skip


_loaded = _load()
elementwise, term, finish = (_loaded[name] for name in ("elementwise", "term", "finish"))
