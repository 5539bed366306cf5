# mypy: ignore-errors
"""Steps by one call of a compiled kernel over all tensors. Exported files of rules with kernels carry this text."""

import array
import ctypes
import functools
import hashlib
import importlib.util
import linecache
import math
import os
import shutil
import warnings

import torch

from ..dsl.compile_c import CompilerMissing, build_library
from .optimizer import _PLAIN, _ROUNDINGS, _SHORT, _keeps_lost, _precision, _real


class Fused:
    """The fused way of a step, for rules with kernels: C on CPUs, Triton on GPUs."""

    def _step_fused(self, group, params):
        rule, on_cpu = self._rule(group), params[0].device.type == "cpu"
        rows = self._rows(group, params) if (rule.kernel_c if on_cpu else rule.kernel_triton) else None
        if rows is None:
            return False
        sizes = array.array("q", map(torch.Tensor.numel, rows[0]))
        table = array.array("q", [x for row in rows for x in map(torch.Tensor.data_ptr, row)])
        if not self._known_to_fit(group, rows, sizes, table):
            return False
        if on_cpu:
            done = self._step_on_cpu(group, params, rows, sizes, table)
        else:
            done = self._step_on_gpu(group, params, rows)
        if done and type(params[0]) not in _PLAIN:  # the kernel knows shards alone
            torch.autograd.graph.increment_version([*params, *(x for p in params for x in self.state[p].values())])
        return done

    def _rows(self, group, params):
        """Weights, gradients, states and counts as lists of tensors that lie alike in memory; None if they do not."""
        rule, plain = self._rule(group), all(type(p) in _PLAIN for p in params)
        if not plain and (rule.reduces or not all(hasattr(p, "to_local") for p in params)):
            return None  # a shard does not know the sum over all
        states = [self.state[p] for p in params]
        grads = [p.grad.resolve_neg() for p in params] if rule.gradients else params  # a view may hold the negative
        rows = [params, grads]
        names = [*rule.tensors, *(name for name, _ in rule.singles)]
        lost = _keeps_lost(group, params[0])
        names += ["lost"] if lost else []
        rows += [[s[name] for s in states] for name in names]
        if not plain:
            rows = [[x.to_local() if hasattr(x, "to_local") else x for x in row] for row in rows]
        if params[0].is_complex():
            rows = [[_real(x).resolve_neg() for x in row] for row in rows]
        if not all(all(map(torch.Tensor.is_contiguous, row)) for row in rows):
            w = rows[0]
            if not all(_is_dense(p) for p in w):
                return None
            rows[1] = [_laid_out(g, p) for g, p in zip(rows[1], w, strict=True)]
            count = len(rule.tensors) + lost
            tensors = [row for row, name in zip(rows[2:], names, strict=True) if name not in dict(rule.singles)]
            if not all(x.stride() == p.stride() for row in tensors[:count] for x, p in zip(row, w, strict=True)):
                return None
        if rule.counts:
            rows.append([s["step"] for s in states])
        return rows

    def _known_to_fit(self, group, rows, sizes, table):
        """Whether a kernel may take these addresses.

        Sizes are compared at every step, and the dtype and device of gradients, which `p.grad.data` sets without a
        check; the rest only where a weight or a state has moved.
        """
        known, count, rule = vars(self).setdefault("_fitted", {}), len(sizes), self._rule(group)
        lost, weight = _keeps_lost(group, rows[0][0]), rows[0][0]
        like_weights, _, _ = _parts(rule, rows, lost)
        if any(array.array("q", map(torch.Tensor.numel, row)) != sizes for row in like_weights):
            return False
        if {(x.dtype, x.device) for x in rows[1]} != {(rows[1][0].dtype, weight.device)}:
            return False
        key, held = (table[0], count), table[:count] + table[2 * count :]
        if known.get(key) != held:
            if not _fit(rule, rows, lost):
                return False
            if len(known) > 256:  # of weights that are gone
                known.clear()
            known[key] = held
        return True

    def __setstate__(self, state):
        """Takes up what a pickle or a checkpoint holds; its tensors may lie where others have lain."""
        super().__setstate__(state)
        self._fitted = {}

    def _step_on_cpu(self, group, params, rows, sizes, table):
        rule, weight, grad = self._rule(group), rows[0][0], rows[1][0]
        state = rows[2][0].dtype if rule.tensors else weight.dtype
        rounding = group["rounding"] if weight.dtype in _SHORT else "nearest"
        scale = -1.0 if group["maximize"] else 1.0
        if getattr(self, "grad_scale", None) is not None:
            scale /= self.grad_scale.item()
        dtypes = weight.dtype, grad.dtype, state
        library = _library(rule.kernel_c, type(self).__name__, *dtypes, rounding, scale != 1)
        if library is None:
            return False
        if not self._unscaled(rule):
            return True
        seed = int(torch.randint(1 << 62, ())) if rounding == "stochastic" else 0
        step = rows[-1][0].item() + 1 if rule.counts else None
        values = array.array("d", [float(x) for x in self._values(group, step)])
        threads = torch.get_num_threads()
        done = library(len(rows[0]), _at(sizes), _at(table), _at(values), scale, seed, threads)
        if done == _UNLIKE:
            return all([self._step_fused(group, some) for some in self._by_count(params)])
        if done:
            raise MemoryError(f"{type(self).__name__} has no memory for its sums")
        torch.autograd.graph.increment_version([x for row in (rows[0], *rows[2:]) for x in row])
        return True

    def _step_on_gpu(self, group, params, rows):
        rule = self._rule(group)
        step = _gpu_step(rule.kernel_triton, type(self).__name__)
        if step is None or (group["rounding"] != "nearest" and rows[0][0].dtype in _SHORT):
            return False
        device, count = rows[0][0].device, None
        scale, found_inf = (self._on(device, name) for name in ("grad_scale", "found_inf"))
        steps = rows.pop() if rule.counts else []
        if steps and steps[0].device.type == "cpu":
            equal = self._by_count(params)
            if len(equal) > 1:
                return all([self._step_fused(group, some) for some in equal])
            if not self._unscaled(rule):
                return True
            count = steps[0].item() + 1
        if steps:
            torch._foreach_add_(steps, 1)
        values = self._values(group, steps[0] if steps and count is None else count)
        numbers = {name: x for name, x in zip(rule.numbers, values, strict=True) if name != "t" or count is not None}
        states, singles = rows[2 : 2 + len(rule.tensors)], rows[2 + len(rule.tensors) :]
        step(rows[0], rows[1], states, singles, steps, numbers, maximize=group["maximize"], grad_scale=scale,
             found_inf=found_inf)  # fmt: skip
        if steps and count is None and found_inf is not None:
            torch._foreach_sub_(steps, [found_inf] * len(steps))
        return True

    def _on(self, device, name):
        """What a GradScaler left, on the device; None if it left nothing."""
        given = getattr(self, name, None)
        return None if given is None else given.to(device, non_blocking=True)


_UNLIKE = 1  # what a kernel answers where parameters were not stepped equally often
_C = {torch.float32: "float", torch.float64: "double", torch.bfloat16: "bf16", torch.float16: "half"}


def _parts(rule, rows, lost):
    """Of the rows behind the weights: gradients, states and what rounding lost; single numbers; counts of steps."""
    end = 2 + len(rule.tensors)
    after = end + len(rule.singles)
    return [*rows[1:end], *rows[after : after + lost]], rows[end:after], rows[after + lost :]


def _fit(rule, rows, lost):
    """Whether what goes with a weight has its shape, and rows the dtypes and the device that a kernel reads there."""
    like_weights, singles, steps = _parts(rule, rows, lost)
    states, kept = like_weights[1 : 1 + len(rule.tensors)], like_weights[1 + len(rule.tensors) :]
    shapes = [x.shape for x in rows[0]]
    if any([x.shape for x in row] != shapes for row in like_weights):
        return False
    if any(x.numel() != 1 for row in [*singles, *steps] for x in row):
        return False
    if any(len({(x.dtype, x.device) for x in row}) > 1 for row in rows):
        return False
    weight, on_cpu = rows[0][0], rows[0][0].device.type == "cpu"
    read = [(row, torch.float32) for row in steps]
    if on_cpu:  # kernels for GPUs find the dtypes of rows themselves, and take counts on either side
        read += [(row, states[0][0].dtype) for row in states] + [(row, weight.dtype) for row in kept]
        read += [(row, _precision(weight)) for row in singles]
    here = rows if on_cpu else rows[: len(rows) - len(steps)]
    return all(row[0].dtype == dtype for row, dtype in read) and all(row[0].device == weight.device for row in here)


def _is_dense(x):
    """Whether every place between a tensor's first and last element is one of its elements."""
    pairs = sorted((stride, size) for stride, size in zip(x.stride(), x.shape, strict=True) if size > 1)
    return all(stride == math.prod(size for _, size in pairs[:i]) for i, (stride, _) in enumerate(pairs))


def _laid_out(grad, like):
    """A gradient in the memory order of its parameter."""
    return grad if grad.stride() == like.stride() else torch.empty_like(like, dtype=grad.dtype).copy_(grad)


def _at(numbers):
    return numbers.buffer_info()[0]


@functools.cache
def _library(source, name, weight, grad, state, rounding, scaled):
    """The compiled step for these dtypes; None, with one notice, where no C compiler works."""
    if any(x not in _C for x in (weight, grad, state)) or (rounding == "stochastic" and weight != torch.bfloat16):
        return None
    real = "double" if weight == torch.float64 else "float"
    dtypes = {weight, grad, state}
    words = {"REAL": real, "WEIGHT": _C[weight], "GRAD": _C[grad], "STATE": _C[state],
             "ROUND": _ROUNDINGS.index(rounding), "HALF": int(torch.float16 in dtypes),
             "SCALED": int(scaled), "PAIRED": int(dtypes == {torch.bfloat16} and rounding == "nearest")}  # fmt: skip
    head = "".join(f"#define {key} {value}\n" for key, value in words.items())
    flags = ["-fopenmp", "-DVECTOR_MATH", "-Wl,-z,defs", "-lmvec"]
    if dtypes <= set(_SHORT):  # rounding to 16 bits hides what fusing products and sums changes
        flags.append("-ffp-contract=fast")
    try:
        step = build_library(head + source, name.lower(), tuple(flags)).step
    except CompilerMissing as error:
        _notice(str(error))
        return None
    pointer = ctypes.c_void_p
    step.argtypes = [ctypes.c_int64, pointer, pointer, pointer, ctypes.c_double, ctypes.c_int64, ctypes.c_int]
    return step


@functools.cache
def _gpu_step(source, name):
    """The step that a text of Triton kernels defines; None, with one notice, where Triton cannot build it."""
    if importlib.util.find_spec("triton") is None:
        _notice("Triton is not installed")
        return None
    if not (os.environ.get("CC") or any(map(shutil.which, ("clang", "gcc", "cl")))):
        _notice("Triton needs a C compiler, and there is neither gcc nor clang; name another in CC")
        return None
    file = f"<{name} on GPUs {hashlib.blake2b(source.encode(), digest_size=6).hexdigest()}>"
    linecache.cache[file] = len(source), None, source.splitlines(keepends=True), file  # Triton reads functions there
    scope = {"__name__": file}
    exec(compile(source, file, "exec"), scope)
    return scope["step"]


@functools.cache
def _notice(reason):
    warnings.warn(f"steps are not fused, and several times slower: {reason}", stacklevel=2)
