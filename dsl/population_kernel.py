# mypy: disable-error-code="no-untyped-def"
"""The Triton kernel that interprets P different programs over P sets of weights.

A Triton program takes one update program at a time, so that no warp diverges, and goes through its phases: a range of
instructions over a range of tiles. Registers cannot be indexed at run time, so a value is a place in memory: for each
row of a table and each tensor an address, the distance between copies, and the distance between elements (0 for single
numbers). Nothing is left to do between phases: an instruction that reduces adds its tiles up in their order, and
finishes at the last one. So a result depends on its program alone.
"""

import triton
import triton.language as tl

from .ops import OPCODE
from .population_ops import elementwise, finish, term
from .triton_helpers import _largest

_FIELDS = tl.constexpr(6)  # of an instruction: opcode, unit, dest, x, y, z
_ON_TENSOR, _REDUCE_SCALAR = tl.constexpr(0), tl.constexpr(1)  # units; 2 reduces over all tensors
_AMAX = tl.constexpr(OPCODE["amax"])


@triton.jit
def _pointers(places, row, rows, kept, local, tensor, tensors, begin, lanes, copy, slot, real: tl.constexpr):
    """Where the elements of a tile of a value lie.

    Rows from `kept` on have a copy for each running program; those from `local` on hold one tile alone.
    """
    size = rows * tensors
    at = places + row * tensors + tensor
    index = tl.where(row >= kept, slot, copy).to(tl.int64)
    start = tl.load(at).to(tl.pointer_type(real)) + index * tl.load(at + size)
    return start + (tl.where(row >= local, 0, begin) + lanes) * tl.load(at + 2 * size)


@triton.jit
def _operands(places, at, rows, kept, local, tensor, tensors, begin, lanes, copy, slot, real: tl.constexpr):
    """Where the result and the three arguments of an instruction lie; `at` are their rows."""
    to = _pointers(places, tl.load(at), rows, kept, local, tensor, tensors, begin, lanes, copy, slot, real)
    x = _pointers(places, tl.load(at + 1), rows, kept, local, tensor, tensors, begin, lanes, copy, slot, real)
    y = _pointers(places, tl.load(at + 2), rows, kept, local, tensor, tensors, begin, lanes, copy, slot, real)
    z = _pointers(places, tl.load(at + 3), rows, kept, local, tensor, tensors, begin, lanes, copy, slot, real)
    return to, x, y, z


@triton.jit
def _reduced(opcode, x, y, inside, total):
    """A sum, or the largest number, of what was found before and of a tile; in float64."""
    x = x.to(tl.float64)
    if opcode == _AMAX:
        found = _largest(tl.where(inside, x, float("-inf")))
        more = tl.maximum(total, found, propagate_nan=tl.PropagateNan.ALL)
    else:
        more = total + tl.sum(tl.where(inside, term(opcode, x, y.to(tl.float64)), 0.0), 0)
    return more


@triton.jit(do_not_specialize=["count", "rows", "tensors", "kept", "local"])
def step(
    programs, phases, code, tiles, places, sizes, sums, count, rows, tensors, kept, local, real: tl.constexpr,
    block: tl.constexpr,
):  # fmt: skip
    """One step of every program; `TritonEngine` says what the tables are."""
    slot = tl.program_id(0)
    lanes = tl.arange(0, block).to(tl.int64)
    for copy in range(slot, count, tl.num_programs(0)):
        for phase in range(tl.load(programs + copy), tl.load(programs + copy + 1)):
            first, last = tl.load(phases + 4 * phase + 2), tl.load(phases + 4 * phase + 3)
            for tile in range(first, last):
                tensor = tl.load(tiles + 3 * tile)
                begin, number = tl.load(tiles + 3 * tile + 1), tl.load(tiles + 3 * tile + 2)
                inside = lanes < number
                for place in range(tl.load(phases + 4 * phase), tl.load(phases + 4 * phase + 1)):
                    at = code + _FIELDS * place
                    opcode, unit = tl.load(at), tl.load(at + 1)
                    to, x_at, y_at, z_at = _operands(
                        places, at + 2, rows, kept, local, tensor, tensors, begin, lanes, copy, slot, real
                    )
                    x, y = tl.load(x_at, mask=inside, other=0.0), tl.load(y_at, mask=inside, other=0.0)
                    if unit == _ON_TENSOR:
                        z = tl.load(z_at, mask=inside, other=0.0)
                        tl.store(to, elementwise(opcode, x, y, z, real), mask=inside)
                    else:
                        alone = unit == _REDUCE_SCALAR
                        sum_at = sums + slot.to(tl.int64) * rows + tl.load(at + 2)
                        total = tl.load(sum_at)
                        if (begin == 0) & (alone | (tile == first)):
                            total = tl.where(opcode == _AMAX, float("-inf"), 0.0).to(tl.float64)
                        total = _reduced(opcode, x, y, inside, total)
                        tl.debug_barrier()  # all have read what is written now
                        tl.store(sum_at, total)
                        if (begin + number == tl.load(sizes + tensor)) & (alone | (tile == last - 1)):
                            n = tl.load(sizes + tl.where(alone, tensor, tensors))
                            result = finish(opcode, total, n.to(tl.float64)).to(real)
                            tl.store(to, tl.broadcast_to(result, (block,)), mask=lanes == 0)
                    tl.debug_barrier()  # what one thread wrote the next instruction reads in another
