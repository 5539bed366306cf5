# mypy: disable-error-code="no-untyped-def, var-annotated"
"""What generated Triton modules carry: the arithmetic of the op table, and the tables that their kernels read."""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

# Small programs hide each other's latency; where programs add up, half as many wait for each other half as often.
_WARPS = 4
# A thread has eight elements: two moves of 16 bytes in float32, one in bfloat16.
_BLOCK = tl.constexpr(256 * _WARPS)
# Without fusion a * a - b * b is 0 where a is b, as everywhere else.
_OPTIONS = {"num_warps": _WARPS, "enable_fp_fusion": False}
_PARTIALS = tl.constexpr(4096)  # added up at a time by the last program
_TYPES = {
    torch.float64: tl.float64,
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}


@triton.jit
def _quotient(x, y, exact: tl.constexpr = True):
    """X / y, and 0 where y is 0; rounded correctly if `exact`, else to two units, and fast."""
    divisor = tl.where(y == 0, 1.0, y)
    if divisor.dtype != tl.float32:
        quotient = x / divisor
    elif exact:
        quotient = tl.div_rn(x, divisor)
    else:  # of beyond 2**126 the reciprocal is 0
        scale = tl.where(tl.abs(divisor) > 2.0**125, 0.25, 1.0)
        quotient = (x * scale) / (divisor * scale)
    return tl.where(y == 0, 0.0, quotient)


@triton.jit
def _root(x, exact: tl.constexpr = True):
    """The root of |x|; rounded correctly if `exact`, else to a unit, and fast."""
    x = tl.abs(x)
    if x.dtype != tl.float32:
        root = tl.sqrt(x)
    elif exact:
        root = tl.sqrt_rn(x)
    else:  # of subnormal numbers it is 0
        small = x < 2.0**-64
        root = tl.sqrt(tl.where(small, x * 2.0**64, x)) * tl.where(small, 2.0**-32, 1.0)
    return root


@triton.jit
def _address(table, row: tl.constexpr, tensor, count, dtype: tl.constexpr, aligned: tl.constexpr):
    """Where a tensor begins; `aligned` promises a multiple of 16 bytes."""
    address = tl.load(table + row * count + tensor).to(tl.pointer_type(dtype))
    return tl.multiple_of(address, 16 if aligned else 1)


@triton.jit
def _gradient(g, grad_scale, maximize: tl.constexpr, exact: tl.constexpr):
    """The gradient that the rule sees."""
    if grad_scale is not None:
        g = _quotient(g, tl.load(grad_scale).to(g.dtype), exact)
    return -g if maximize else g


@triton.jit
def _is_last(counter, number):
    """Whether this is the last of the programs that count here; it sees what the others wrote."""
    tl.debug_barrier()
    last = tl.atomic_add(counter, 1) == number - 1
    tl.store(counter, 0, mask=last)  # for the next step
    return last


@triton.jit
def _sum(partials, number):
    """The sum of numbers, always in the same order."""
    total = tl.zeros((_PARTIALS,), tl.float64)
    for start in range(0, number, _PARTIALS):
        place = start + tl.arange(0, _PARTIALS)
        total += tl.load(partials + place, mask=place < number, other=0.0, cache_modifier=".cg")
    return tl.sum(total, 0)


@triton.jit
def _largest(x):
    """The largest element, NaN if one is NaN."""
    wrong = tl.max((x != x).to(tl.int32), 0)
    return tl.where(wrong != 0, float("nan"), tl.max(x, 0))


@triton.jit
def _amax(partials, number):
    """The largest of numbers."""
    total = tl.full((_PARTIALS,), float("-inf"), tl.float64)
    for start in range(0, number, _PARTIALS):
        place = start + tl.arange(0, _PARTIALS)
        x = tl.load(partials + place, mask=place < number, other=float("-inf"), cache_modifier=".cg")
        total = tl.maximum(total, x, propagate_nan=tl.PropagateNan.ALL)
    return _largest(total)


@triton.jit(do_not_specialize=["count"])
def _read_counts(table, out, count, row: tl.constexpr, block: tl.constexpr):
    """The float32 number at each address of a row."""
    tensor = tl.program_id(0) * block + tl.arange(0, block)
    inside = tensor < count
    address = tl.load(table + row * count + tensor, mask=inside, other=0).to(tl.pointer_type(tl.float32))
    tl.store(out + tensor, tl.load(address, mask=inside).to(tl.float64), mask=inside)


def _counts(plan, row, count):
    """The count of steps of each tensor, on the device."""
    out = torch.empty(count, dtype=torch.float64, device=plan.table.device)
    _read_counts[(triton.cdiv(count, 1024),)](plan.table, out, count, row, 1024)
    return out


def _values(function, numbers, count, device):
    """Results of a function of single numbers, as floats; of numbers on the device as a table there."""
    if not any(isinstance(x, torch.Tensor) and x.device == device for x in numbers.values()):
        return None, [float(x) for x in function({name: float(x) for name, x in numbers.items()})]
    there = {
        name: x.to(device, torch.float64).reshape(-1)
        if isinstance(x, torch.Tensor)
        else torch.full((1,), x, dtype=torch.float64, device=device)
        for name, x in numbers.items()
    }
    held = torch.stack([x.expand(count) for x in function(there)])
    return held, [0.0] * len(held)


class _Plan(NamedTuple):
    """What kernels read of lists of tensors."""

    addresses: tuple  # of tensors, list by list
    sizes: tuple
    aligned: torch.Tensor  # whether all addresses of a tensor are multiples of 16
    table: torch.Tensor  # sizes, then addresses
    programs: torch.Tensor
    counters: torch.Tensor  # one for each tensor, one for all; 0 between steps
    sources: tuple  # a CUDA graph copies from them again


_plans = {}  # by the addresses of the parameters
_captured = []  # what CUDA graphs read, as long as they may be replayed


def _plan(tensors, singles):
    """The plan of lists of tensors and of single numbers, copied to the device where something moved."""
    params = tensors[0]
    addresses = tuple([x.data_ptr() for each in (*tensors, *singles) for x in each])
    sizes = tuple([x.numel() for x in params])
    key = addresses[: len(params)]
    plan = _plans.get(key)
    capturing = params[0].is_cuda and torch.cuda.is_current_stream_capturing()
    if plan is None or plan.addresses != addresses or plan.sizes != sizes:
        plan = _new_plan(plan, addresses, sizes, len(tensors), params[0].device)
        if not capturing:  # what a graph copies is there when it is replayed, not now
            _plans[key] = plan
            if len(_plans) > 256:
                del _plans[next(iter(_plans))]
    if capturing:
        _captured.append(plan)
    return plan


def _new_plan(old, addresses, sizes, rows, device):
    """A plan for new addresses, with what of the old one still holds."""
    count = len(sizes)
    table = torch.tensor((*sizes, *addresses), dtype=torch.int64, device="cpu")
    aligned = (table[count : (1 + rows) * count].view(rows, count) % 16 == 0).all(0)
    source, table = _upload(table, device)
    if old is not None and old.sizes == sizes and torch.equal(old.aligned, aligned):
        return old._replace(addresses=addresses, table=table, sources=(source, *old.sources[1:]))
    listed, programs = _upload(_programs(sizes, aligned), device)
    counters = torch.zeros(count + 1, dtype=torch.int32, device=device)
    return _Plan(addresses, sizes, aligned, table, programs, counters, (source, listed))


def _programs(sizes, aligned):
    """For each program its tensor, its chunk, and whether that is full and moves by 16 bytes."""
    size = torch.tensor(sizes, dtype=torch.int64, device="cpu")
    count = (size + _BLOCK.value - 1) // _BLOCK.value
    tensor = torch.repeat_interleave(count)
    chunk = torch.arange(len(tensor), device="cpu") - (count.cumsum(0) - count)[tensor]
    full = aligned[tensor] & ((chunk + 1) * _BLOCK.value <= size[tensor])
    return torch.stack([tensor, chunk, full.long()], 1).to(torch.int32)


def _upload(x, device):
    """A tensor to copy from, and its copy on the device; pinned, so that the host does not wait."""
    x = x.pin_memory() if device.type == "cuda" else x
    return x, x.to(device, non_blocking=True)
