# mypy: ignore-errors
"""What every exported optimizer class is made of beside its rule. Exported files carry this text."""

import array
import ctypes
import functools
import hashlib
import importlib.util
import linecache
import math
import warnings

import torch

from ..dsl.compile_c import CompilerMissing, build_library


class Rule:
    """What a rule computes, keeps and reads.

    Args:
        update: `update(params, grads, *states, *numbers, *inputs)` gives the update, then the new states, where there
            are any: a tensor per parameter, in float32 at least.
        states: (name, form) pairs: "tensor" like the parameter, "scalar" one number each, "global" one for all, (rows,
            columns) another matrix, or a codec of a tensor.
        numbers: Names of what it reads beside tensors: lr, t, progress, hyperparameters.
        betas: Those of them that stand in the group's "betas".
        nonnegative: Arguments that are refused below 0.
        inputs: What else it reads: noise, random projections, estimates.
        periods: (name, steps) of the estimates.
        roles: Of the parameters on which it acts; () acts on all.
        arguments: Keys of its groups -> names in the constructor, where a file holds several rules.
        matrices: Whether it sees parameters as matrices.
        gradients: Whether it reads them.
        reduces: Whether it reduces over the elements of a tensor.
        gathers: Whether it reduces over all parameters.
        kernel_c: The fused step for CPUs.
        kernel_triton: And for GPUs.
    """

    def __init__(self, update, states=(), numbers=(), betas=(), nonnegative=(), inputs=(), periods=(), roles=(),
                 arguments=None, matrices=False, gradients=True, reduces=False, gathers=False, kernel_c="",
                 kernel_triton=""):  # fmt: skip
        self.update, self.states, self.numbers, self.betas = update, states, numbers, betas
        self.nonnegative, self.inputs, self.periods, self.roles = nonnegative, inputs, periods, roles
        self.arguments, self.matrices, self.gradients = arguments or {}, matrices, gradients
        self.reduces, self.gathers, self.kernel_c, self.kernel_triton = reduces, gathers, kernel_c, kernel_triton
        self.tensors = tuple(name for name, form in states if form == "tensor")
        self.singles = tuple((name, form == "scalar") for name, form in states if form in ("scalar", "global"))
        #: Whether it needs to know how often a parameter was stepped.
        self.counts = bool({"t", "progress"} & {*numbers}) or bool(inputs)


class RuleOptimizer(torch.optim.Optimizer):
    """A `torch.optim.Optimizer` whose rule a subclass gives.

    A step runs in one of three ways, which agree up to rounding: one call of the compiled kernel over all tensors
    ("fused"), torch's multi-tensor functions ("foreach"), or the same functions a tensor at a time.
    """

    _rules = ()  # one, or one for each set of roles
    _step_supports_amp_scaling = True  # torch.amp.GradScaler leaves grad_scale and found_inf to step()

    def _rule(self, group):
        """The rule of a group."""
        return self._rules[0]

    def _start(self, params, numbers, **flags):
        """Checks what all rules share; `numbers` are the rules' own defaults."""
        lr = numbers["lr"]
        if flags["foreach"] and flags["fused"]:
            raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
        if flags["differentiable"] and flags["fused"]:
            raise RuntimeError("`fused` does not support `differentiable`")
        if isinstance(lr, torch.Tensor) and lr.numel() != 1:
            raise ValueError(f"Tensor lr must be 1-element, not of {lr.numel()}")
        if isinstance(lr, torch.Tensor) and flags["foreach"] and not flags["capturable"]:
            raise ValueError("lr as a Tensor is not supported for capturable=False and foreach=True")
        for name in (name for rule in self._rules for name in rule.nonnegative):
            if not numbers[name] >= 0:
                raise ValueError(f"{name} must be at least 0, not {numbers[name]}")
        if flags["rounding"] not in _ROUNDINGS:
            raise ValueError(f"rounding must be one of {', '.join(_ROUNDINGS)}, not {flags['rounding']!r}")
        dtype = flags["state_dtype"]
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise ValueError(f"state_dtype must be None or a floating dtype such as torch.float32, not {dtype!r}")
        super().__init__(params, {**numbers, **flags})

    def __setstate__(self, state):
        """What an older pickle or a checkpoint lacks; states in the dtype in which they were saved."""
        super().__setstate__(state)
        for group in self.param_groups:
            for name, value in _FLAGS.items():
                group.setdefault(name, value)

    def load_state_dict(self, state_dict):
        """Loads what `state_dict` gave; states keep `state_dtype`, where torch would cast them to the parameter's."""
        given = []  # as other hooks before the load left it; other hooks after it see what stays
        before = self.register_load_state_dict_pre_hook(lambda _, loaded: given.append(loaded))
        after = self.register_load_state_dict_post_hook(lambda _: self._restore(given[-1]), prepend=True)
        try:
            super().load_state_dict(state_dict)
        finally:
            before.remove()
            after.remove()

    def _restore(self, given):
        """States as they were saved, in their own dtypes; counts of steps as the kernels read them."""
        saved = [i for group in given["param_groups"] for i in group["params"]]
        own = [(p, group) for group in self.param_groups for p in group["params"]]
        for index, (p, group) in zip(saved, own, strict=True):
            state = self.state[p] if index in given["state"] else {}
            for name, value in given["state"].get(index, {}).items():
                dtype = self._dtype_of(name, p, group, value)
                if name == "step":
                    state[name] = torch.as_tensor(value, dtype=torch.float32, device=_place_of_count(group, p))
                elif dtype is not None and state[name].dtype != dtype:
                    state[name] = value.to(device=state[name].device, dtype=dtype)

    def _dtype_of(self, name, p, group, saved):
        """The dtype of a state; None for what is not cast."""
        for own, form in self._rule(group).states:
            if _is_codec(form) and name in _stored(own, form):
                return saved.dtype
            if own == name:
                return _precision(p) if form in ("scalar", "global") else group["state_dtype"] or _real(p).dtype
        return None

    # --- a step ---

    def step(self, closure=None):
        """One step; returns the loss of the closure, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if torch.compiler.is_compiling():
            torch._dynamo.graph_break()  # so that the compiler sees that nothing here needs gradients
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            for group in self.param_groups:
                for bucket in self._alike(group, self._stepped(group)):
                    self._step_together(group, bucket)
        return loss

    def _stepped(self, group):
        """The parameters of a group that take this step."""
        if not self._rule(group).gradients:
            return [p for p in group["params"] if p.requires_grad]
        params = [p for p in group["params"] if p.grad is not None]
        for p in params:
            if p.grad.layout != torch.strided:
                raise RuntimeError(_SPARSE.format(type(self).__name__))
        return params

    def _alike(self, group, params):
        """Lists of parameters on one device, of one dtype."""
        buckets, kahan = {}, group["rounding"] == "kahan"
        for p in params:
            state = self.state[p]
            if not state:
                self._init_state(group, p)
            if kahan and _keeps_lost(group, p) and "lost" not in state:
                state["lost"] = torch.zeros_like(_real(p), memory_format=torch.preserve_format)
            if p.numel():
                buckets.setdefault((p.device, p.dtype, _gradient(p).dtype), []).append(p)
        return buckets.values()

    def _init_state(self, group, p):
        state, real, rule = self.state[p], _real(p), self._rule(group)
        dtype = group["state_dtype"]
        if rule.counts:
            state["step"] = torch.zeros((), dtype=torch.float32, device=_place_of_count(group, p))
        for name, form in rule.states:
            if form == "tensor":
                state[name] = torch.zeros_like(real, dtype=dtype, memory_format=torch.preserve_format)
            elif form in ("scalar", "global"):
                state[name] = torch.zeros((), dtype=_precision(p), device=p.device)
            elif isinstance(form, tuple):
                state[name] = real.new_zeros(self._view(group, p).sides(*form), dtype=dtype)
            elif hasattr(p, "to_local"):
                raise RuntimeError(_SHARDED.format(type(self).__name__, name))
            else:
                zero = torch.zeros_like(self._seen(group, [p])[0], dtype=_precision(p))
                state.update(zip(_stored(name, form), form.blank(zero), strict=False))

    def _seen(self, group, params, xs=None):
        """Tensors like the parameters (None: the parameters) as the rule sees them."""
        return [_real(p) for p in params] if xs is None else xs

    def _unseen(self, group, params, xs):
        """Back from that."""
        return xs

    def _step_together(self, group, params):
        fused = group["fused"]
        if fused is None:  # kernels for GPUs are asked for by name until they have been measured on one
            asked = group["foreach"] is not None or group["differentiable"] or torch.compiler.is_compiling()
            fused = not asked and params[0].device.type == "cpu"
        if fused and self._step_fused(group, params):
            return
        if not self._unscaled():
            return
        alone = group["foreach"] is False and not self._rule(group).gathers
        for bucket in [[p] for p in params] if alone else self._equally_old(group, params):
            self._step_with_torch(group, bucket)

    def _equally_old(self, group, params):
        """Lists of parameters that were stepped equally often; on a device the counts are taken to be equal."""
        rule = self._rule(group)
        if torch.compiler.is_compiling() and rule.counts and not rule.gathers:
            return [[p] for p in params]  # the compiled step must be right for all counts
        if not rule.counts or group["capturable"] or torch.compiler.is_compiling():
            return [params]
        buckets = {}
        for p in params:
            buckets.setdefault(self.state[p]["step"].item(), []).append(p)
        return buckets.values()

    def _values(self, group, step):
        """What the rule reads beside tensors, in its order; `step` is the count with this step."""
        rule = self._rule(group)
        found = {"t": step, "progress": step / group["total_steps"] if "progress" in rule.numbers else None}
        if rule.betas:
            found.update(zip(rule.betas, group["betas"], strict=True))
        values = [found[name] if name in found else group[name] for name in rule.numbers]
        return [x.reshape(()) if isinstance(x, torch.Tensor) else x for x in values]

    # --- with torch's own functions ---

    def _unscaled(self):
        """Whether there is a step to take: a GradScaler may have found gradients that are not finite."""
        found_inf = getattr(self, "found_inf", None)
        return found_inf is None or not bool(found_inf.item())

    def _step_with_torch(self, group, params):
        rule, precision = self._rule(group), _precision(params[0])
        states = [self.state[p] for p in params]
        step = None
        if rule.counts:
            torch._foreach_add_([s["step"] for s in states], 1)
            step = states[0]["step"]
            if not (group["capturable"] or torch.compiler.is_compiling()):
                step = step.item()
        apart = group["differentiable"]  # then what the rule reads must outlive the step
        w = [_real(p).to(precision, copy=apart) for p in params]
        g = [_real(_gradient(p)).to(precision) for p in params]
        scale = getattr(self, "grad_scale", None)
        if scale is not None:
            g = [x / scale.to(x.device) for x in g]
        if group["maximize"]:
            g = torch._foreach_neg(g)
        seen = self._seen(group, params, w)
        old = [self._read(group, params, seen, name, form) for name, form in rule.states]
        given = [*self._values(group, step), *self._inputs(group, params, step)]
        ends = rule.update(seen, self._seen(group, params, g), *old, *given)
        update, *new = ends if rule.states else (ends,)
        for (name, form), values in zip(rule.states, new, strict=True):
            self._keep(group, params, name, form, values)
        self._write(group, params, w, self._unseen(group, params, update))

    def _inputs(self, group, params, step):
        """What the rule reads beside tensors and numbers."""
        return []

    def _read(self, group, params, seen, name, form):
        """A state of these parameters as the rule sees it."""
        states, apart = [self.state[p] for p in params], group["differentiable"]
        if form in ("scalar", "global"):
            values = [s[name].clone() if apart else s[name] for s in states]
            return values if form == "scalar" else values[0]
        if form == "tensor" or isinstance(form, tuple):
            values = [s[name].to(seen[0].dtype, copy=apart) for s in states]
            return self._seen(group, params, values) if form == "tensor" else values
        stored = [[s[key] for key in _stored(name, form) if key in s] for s in states]
        return [form.read(parts, x) for parts, x in zip(stored, seen, strict=True)]

    def _keep(self, group, params, name, form, values):
        """Writes a state's new values."""
        states = [self.state[p] for p in params]
        if form in ("scalar", "global"):
            for place, state in enumerate(states):
                state[name].copy_(values[place] if form == "scalar" else values)
        elif form == "tensor" or isinstance(form, tuple):
            values = self._unseen(group, params, values) if form == "tensor" else values
            _overwrite([s[name] for s in states], values)
        else:
            for state, x in zip(states, values, strict=True):
                drawn = functools.partial(torch.rand, device=x.device)
                for key, part in zip(_stored(name, form), form.write(x, drawn), strict=False):
                    state[key].copy_(part)

    def _write(self, group, params, w, update):
        """The parameters less the update, rounded to their dtype as the group has it."""
        reals = [_real(p) for p in params]
        if group["rounding"] == "nearest" or reals[0].dtype not in _SHORT:
            if type(params[0]) in _PLAIN:
                torch._foreach_sub_(reals, update)
            else:  # torch's multi-tensor functions do not tell autograd that a shard has changed
                for x, u in zip(reals, update, strict=True):
                    x.sub_(u)
            return
        for p, real, before, u in zip(params, reals, w, update, strict=True):
            if group["rounding"] == "kahan":
                lost = self.state[p]["lost"]
                whole = before - u + lost.to(u.dtype)
                real.copy_(whole)
                lost.copy_(whole - real.to(u.dtype))
            else:
                real.copy_(_at_random(before - u, real.dtype))

    # --- with a compiled kernel ---

    def _step_fused(self, group, params):
        """Whether the step was taken by a kernel over all tensors; where not, nothing was changed."""
        rule, on_cpu = self._rule(group), params[0].device.type == "cpu"
        rows = self._rows(group, params) if (rule.kernel_c if on_cpu else rule.kernel_triton) else None
        if rows is None:
            return False
        done = self._step_on_cpu(group, rows) if on_cpu else self._step_on_gpu(group, rows)
        if done and type(params[0]) not in _PLAIN:  # the kernel knows shards alone
            torch.autograd.graph.increment_version([*params, *(x for p in params for x in self.state[p].values())])
        return done

    def _rows(self, group, params):
        """Weights, gradients, states and counts as lists of tensors that lie alike in memory; None if they do not."""
        rule, plain = self._rule(group), all(type(p) in _PLAIN for p in params)
        if not plain and (rule.reduces or not all(hasattr(p, "to_local") for p in params)):
            return None  # a shard does not know the sum over all
        states = [self.state[p] for p in params]
        rows = [params, [_gradient(p).resolve_neg() for p in params]]  # a view may hold the negative of its memory
        names = [*rule.tensors, *(name for name, _ in rule.singles)]
        lost = _keeps_lost(group, params[0])
        names += ["lost"] if lost else []
        rows += [[s[name] for s in states] for name in names]
        if not plain:
            rows = [[x.to_local() if hasattr(x, "to_local") else x for x in row] for row in rows]
        if params[0].is_complex():
            rows = [[_real(x).resolve_neg() for x in row] for row in rows]
        if not all(x.is_contiguous() for row in rows for x in row):
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

    def _step_on_cpu(self, group, rows):
        rule, weight, grad = self._rule(group), rows[0][0], rows[1][0]
        state = rows[2][0].dtype if rule.tensors else weight.dtype
        if rule.tensors and any(x.dtype != state for row in rows[2 : 2 + len(rule.tensors)] for x in row):
            return False
        rounding = group["rounding"] if weight.dtype in _SHORT else "nearest"
        scale = -1.0 if group["maximize"] else 1.0
        if getattr(self, "grad_scale", None) is not None:
            scale /= self.grad_scale.item()
        dtypes = weight.dtype, grad.dtype, state
        library = _library(rule.kernel_c, type(self).__name__, *dtypes, rounding, scale != 1)
        if library is None:
            return False
        if not self._unscaled():
            return True
        seed = int(torch.randint(1 << 62, ())) if rounding == "stochastic" else 0
        step = rows[-1][0].item() + 1 if rule.counts else None
        values = array.array("d", [float(x) for x in self._values(group, step)])
        sizes = array.array("q", [p.numel() for p in rows[0]])
        table = array.array("q", [x.data_ptr() for row in rows for x in row])
        threads = torch.get_num_threads()
        done = library(len(rows[0]), _at(sizes), _at(table), _at(values), scale, seed, threads)
        if done == _UNLIKE:
            counts = [x.item() for x in rows[-1]]
            for count in set(counts):
                some = [[x for x, own in zip(row, counts, strict=True) if own == count] for row in rows]
                self._step_on_cpu(group, some)
            return True
        if done:
            raise MemoryError(f"{type(self).__name__} has no memory for its sums")
        torch.autograd.graph.increment_version([x for row in (rows[0], *rows[2:]) for x in row])
        return True

    def _step_on_gpu(self, group, rows):
        rule = self._rule(group)
        step = _gpu_step(rule.kernel_triton, type(self).__name__)
        if step is None or (group["rounding"] != "nearest" and rows[0][0].dtype in _SHORT):
            return False
        device, count = rows[0][0].device, None
        scale, found_inf = (self._on(device, name) for name in ("grad_scale", "found_inf"))
        steps = rows.pop() if rule.counts else []
        if steps and steps[0].device.type == "cpu":
            counts = [x.item() for x in steps]
            if len(set(counts)) > 1:
                for one in set(counts):
                    some = [[x for x, own in zip(row, counts, strict=True) if own == one] for row in (*rows, steps)]
                    self._step_on_gpu(group, some)
                return True
            if not self._unscaled():
                return True
            count = counts[0] + 1
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


_ROUNDINGS = ("nearest", "stochastic", "kahan")
_FLAGS = {"maximize": False, "foreach": None, "capturable": False, "differentiable": False, "fused": None,
          "state_dtype": None, "rounding": "nearest"}  # fmt: skip
_SHORT = (torch.bfloat16, torch.float16)
_PLAIN = (torch.nn.Parameter, torch.Tensor)
_UNLIKE = 1  # what a kernel answers where parameters were not stepped equally often
_C = {torch.float32: "float", torch.float64: "double", torch.bfloat16: "bf16", torch.float16: "half"}
_SHARDED = (
    "{} keeps {!r} in a codec of whole tensors, and a parameter is sharded; shard it otherwise than by DTensor, or "
    "take a rule without codecs"
)
_SPARSE = (
    "{} does not take sparse gradients; use torch.optim.SparseAdam for these parameters, or make the layer with "
    "sparse=False"
)


def _place_of_count(group, p):
    """The device on which a parameter's steps are counted."""
    on_device = group["capturable"] or (group["fused"] and p.device.type != "cpu")
    return p.device if on_device else torch.device("cpu")


def _keeps_lost(group, p):
    """Whether what rounding loses is kept beside a parameter."""
    return group["rounding"] == "kahan" and p.dtype in _SHORT


def _gradient(p):
    """The gradient; where a rule reads none the parameter, in its place."""
    return p if p.grad is None else p.grad


def _is_codec(form):
    """Whether a state is kept otherwise than as it is computed."""
    return not isinstance(form, (str, tuple))


def _stored(name, codec):
    """Under what names a state in a codec is kept."""
    return [name + end for end in codec.parts]


def _real(x):
    """A complex tensor as pairs of real numbers."""
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def _overwrite(old, new):
    """Writes tensors into others; gradients and shards go through one at a time."""
    if torch.is_grad_enabled() or type(old[0]) not in _PLAIN:
        for x, y in zip(old, new, strict=True):
            x.copy_(y)
    else:
        torch._foreach_copy_(old, new)


def _precision(x):
    """The dtype of the arithmetic: at least float32."""
    return torch.promote_types(_real(x).dtype, torch.float32)


def _is_dense(x):
    """Whether every place between a tensor's first and last element is one of its elements."""
    pairs = sorted((stride, size) for stride, size in zip(x.stride(), x.shape, strict=True) if size > 1)
    return all(stride == math.prod(size for _, size in pairs[:i]) for i, (stride, _) in enumerate(pairs))


def _laid_out(grad, like):
    """A gradient in the memory order of its parameter."""
    return grad if grad.stride() == like.stride() else torch.empty_like(like, dtype=grad.dtype).copy_(grad)


def _at_random(x, dtype):
    """X rounded up or down, to either neighbour as often as it is near: what is lost is 0 in the mean."""
    near = x.to(dtype)
    other = torch.nextafter(near, torch.where(near.to(x.dtype) < x, math.inf, -math.inf).to(dtype))
    gap = other.to(x.dtype) - near.to(x.dtype)
    share = torch.where(torch.isfinite(gap) & (gap != 0), (x - near.to(x.dtype)) / gap, 0.0)
    return torch.where(torch.rand_like(x) < share, other, near)


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
    """The step that a text of Triton kernels defines; None, with one notice, where Triton is not installed."""
    if importlib.util.find_spec("triton") is None:
        _notice("Triton is not installed")
        return None
    file = f"<{name} on GPUs {hashlib.blake2b(source.encode(), digest_size=6).hexdigest()}>"
    linecache.cache[file] = len(source), None, source.splitlines(keepends=True), file  # Triton reads functions there
    scope = {"__name__": file}
    exec(compile(source, file, "exec"), scope)
    return scope["step"]


@functools.cache
def _notice(reason):
    warnings.warn(f"steps are not fused, and several times slower: {reason}", stacklevel=2)
