# mypy: ignore-errors
"""What every exported optimizer class is made of beside its rule. Exported files carry this text."""

import functools
import math
from numbers import Real

import torch


class Rule:
    """What a rule computes, keeps and reads.

    Args:
        update: `update(params, grads, *states, *numbers, *inputs)` gives the update, then the new states, where there
            are any: a tensor per parameter, in float32 at least.
        states: (name, form) pairs: "tensor" like the parameter, "scalar" one number each, "global" one for all, (rows,
            columns) another matrix, or a codec of a tensor.
        numbers: Names of what it reads beside tensors: lr, t, progress, hyperparameters.
        betas: Those of them that stand in the group's "betas".
        nonnegative: Numbers that are refused below 0.
        rates: Numbers that are refused outside [0, 1).
        inputs: What else it reads: noise, random projections, estimates.
        periods: (name, steps) of the estimates.
        roles: Of the parameters on which it acts; () acts on all.
        arguments: Keys of its groups -> names in the constructor, where a file holds several rules.
        matrices: Whether it sees parameters as matrices.
        gradients: Whether it reads them.
        reduces: Whether it reduces over the elements of a tensor.
        gathers: Whether it reduces over all parameters.
        averages: Whether it averages over processes.
        asks: Whether `update` reads tensors on the host, as to choose by a number, which a CUDA graph cannot hold.
        kernel_c: The fused step for CPUs.
        kernel_triton: And for GPUs.
    """

    def __init__(self, update, states=(), numbers=(), betas=(), nonnegative=(), rates=(), inputs=(), periods=(),
                 roles=(), arguments=None, matrices=False, gradients=True, reduces=False, gathers=False, averages=False,
                 asks=False, kernel_c="", kernel_triton=""):  # fmt: skip
        self.update, self.states, self.numbers, self.betas = update, states, numbers, betas
        self.nonnegative, self.rates, self.inputs, self.periods, self.roles = nonnegative, rates, inputs, periods, roles
        self.arguments, self.matrices, self.gradients = arguments or {}, matrices, gradients
        self.reduces, self.gathers, self.averages, self.asks = reduces, gathers, averages, asks
        self.kernel_c, self.kernel_triton = kernel_c, kernel_triton
        self.tensors = tuple(name for name, form in states if form == "tensor")
        self.singles = tuple((name, form == "scalar") for name, form in states if form in ("scalar", "global"))
        #: Whether it needs to know how often a parameter was stepped.
        self.counts = bool({"t", "progress"} & {*numbers}) or bool(inputs)


class RuleOptimizer(torch.optim.Optimizer):
    """A `torch.optim.Optimizer` whose rule a subclass gives.

    A step runs in one of three ways, which agree up to rounding: one call of a compiled kernel over all tensors
    ("fused", see `Fused`), torch's multi-tensor functions ("foreach"), or the same functions a tensor at a time.
    """

    _rules = ()  # one, or one for each set of roles
    _step_supports_amp_scaling = True  # torch.amp.GradScaler leaves grad_scale and found_inf to step()

    def _rule(self, group):
        """The rule of a group."""
        return self._rules[0]

    def _start(self, params, numbers, **flags):
        """Checks what all rules share; `numbers` are the rules' own defaults."""
        if flags["foreach"] and flags["fused"]:
            raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
        if flags["differentiable"] and flags["fused"]:
            raise RuntimeError("`fused` does not support `differentiable`")
        self._check_flags(flags)
        for rule in self._rules:
            own = {key: numbers[name] for key, name in rule.arguments.items()}
            self._check(rule, {**numbers, **flags, **own}, rule.arguments)
        super().__init__(params, {**numbers, **flags})

    def add_param_group(self, param_group):
        """Adds a group; raises ValueError for numbers out of range and for what cannot be written to in place, and
        RuntimeError for a way to step that there is not.
        """
        super().add_param_group(param_group)
        try:
            self._check_flags(param_group)
            self._check(self._rule(param_group), param_group, {})
            if any(p.is_conj() or p.is_neg() for p in param_group["params"]):
                raise ValueError("a parameter that is a conjugate or negative view cannot be stepped; give it resolved")
        except (ValueError, RuntimeError):
            self.param_groups.pop()
            raise

    def _check_flags(self, flags):
        """Raises RuntimeError for a way to step that the rules do not have."""
        name = type(self).__name__
        if flags["fused"] and not any(rule.kernel_c for rule in self._rules):
            raise RuntimeError(f"{name} does not support `fused`: it has no kernels; leave `fused` out")
        fused = _wants_fused(flags, torch.device("cuda")) and flags["rounding"] == "nearest"  # others step torch's way
        if flags["capturable"] and any(rule.asks and not (fused and rule.kernel_triton) for rule in self._rules):
            raise RuntimeError(f"{name} does not support `capturable`: it reads numbers on the host to choose its step")

    def _check(self, rule, values, names):
        """Raises ValueError for numbers that a rule cannot read; `names` are what to call them, where they differ."""
        for key in {"lr", *rule.numbers} - {"t", "progress", *rule.betas}:
            name, value = names.get(key, key), values[key]
            if not isinstance(value, (Real, torch.Tensor)):
                raise ValueError(f"{name} must be a number, not {value!r}")
            if isinstance(value, torch.Tensor) and value.numel() != 1:
                raise ValueError(f"Tensor {name} must be 1-element, not of {value.numel()}")
            if key in rule.nonnegative and not value >= 0:
                raise ValueError(f"{name} must be at least 0, not {value}")
            if key in rule.rates and not 0 <= value < 1:
                raise ValueError(f"{name} must be in [0, 1), not {value}")
        name, lr = names.get("lr", "lr"), values["lr"]
        if isinstance(lr, torch.Tensor) and values["foreach"] and not values["capturable"]:
            raise ValueError(f"{name} as a Tensor is not supported for capturable=False and foreach=True")
        if rule.betas:
            betas, count, in_range = values["betas"], len(rule.betas), {*rule.betas} <= {*rule.rates}
            fits = isinstance(betas, (tuple, list)) and len(betas) == count
            if not fits or not all(isinstance(x, (Real, torch.Tensor)) and (0 <= x < 1 or not in_range) for x in betas):
                wanted = f"{count} number{'s' if count > 1 else ''}{' in [0, 1)' if in_range else ''}"
                raise ValueError(f"{names.get('betas', 'betas')} must be {wanted}, not {betas}")
        if "progress" in rule.numbers and not values["total_steps"] >= 1:
            raise ValueError(f"total_steps must be at least 1, not {values['total_steps']}")
        if values["rounding"] not in _ROUNDINGS:
            raise ValueError(f"rounding must be one of {', '.join(_ROUNDINGS)}, not {values['rounding']!r}")
        dtype = values["state_dtype"]
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise ValueError(f"state_dtype must be None or a floating dtype such as torch.float32, not {dtype!r}")

    def __setstate__(self, state):
        """Takes up what a pickle or a checkpoint holds; what it lacks is as in a new optimizer."""
        super().__setstate__(state)
        for group in self.param_groups:
            for name, value in {**_FLAGS, **self._usual(group)}.items():
                group.setdefault(name, value)

    def _usual(self, group):
        """What stands in a group for what it is not given."""
        return self.defaults

    def load_state_dict(self, state_dict):
        """Loads what `state_dict` gave; states keep `state_dtype`, where torch would cast them to the parameter's.

        Raises ValueError for the states of another rule.
        """
        given = []  # as other hooks before the load left it; other hooks after it see what stays
        before = self.register_load_state_dict_pre_hook(lambda _, loaded: given.append(self._fitting(loaded)))
        after = self.register_load_state_dict_post_hook(lambda _: self._restore(given[-1]), prepend=True)
        try:
            super().load_state_dict(state_dict)
        finally:
            before.remove()
            after.remove()

    def _fitting(self, given):
        """What is to be loaded, if its states have the names of the rule's."""
        saved = [i for group in given["param_groups"] for i in group["params"]]
        own = [group for group in self.param_groups for _ in group["params"]]
        for index, group in zip(saved, own, strict=False):  # torch says where numbers differ
            state = given["state"].get(index, {})
            for name, form in self._rule(group).states if state else ():
                if not state.keys() & {*_stored(name, form)}:
                    has = ", ".join(map(str, state))
                    raise ValueError(f"loaded state of parameter {index} has {has} and no {name}: it is not of "
                                     f"{type(self).__name__}")  # fmt: skip
        return given

    def _restore(self, given):
        """States as they were saved, in their own dtypes; counts of steps as the kernels read them."""
        saved = [i for group in given["param_groups"] for i in group["params"]]
        own = [(p, group) for group in self.param_groups for p in group["params"]]
        for index, (p, group) in zip(saved, own, strict=True):
            state = self.state[p] if index in given["state"] else {}
            for name, value in given["state"].get(index, {}).items():
                dtype = self._dtype_of(name, p, group, value)
                if name == "step":
                    place = _place_of_count(self._rule(group), group, p)
                    state[name] = torch.as_tensor(value, dtype=torch.float32, device=place)
                elif dtype is not None and state[name].dtype != dtype:
                    state[name] = value.to(device=state[name].device, dtype=dtype)

    def _dtype_of(self, name, p, group, saved):
        """The dtype of a state; None for what is not cast."""
        for own, form in self._rule(group).states:
            if name in _stored(own, form):
                if _is_codec(form):
                    return saved.dtype
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
        if (
            self._rule(group).averages
            and _several_processes()
            and len(params) < sum(p.requires_grad for p in group["params"])
        ):
            raise RuntimeError(f"{type(self).__name__} averages over processes: every parameter needs a gradient")
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
                grad = p.dtype if p.grad is None else p.grad.dtype
                buckets.setdefault((p.device, p.dtype, grad, type(p) in _PLAIN), []).append(p)
        return buckets.values()

    def _init_state(self, group, p):
        state, real, rule = self.state[p], _real(p), self._rule(group)
        dtype = group["state_dtype"]
        if rule.averages and hasattr(p, "to_local"):
            raise RuntimeError(_AVERAGED.format(type(self).__name__))
        if rule.counts:
            state["step"] = torch.zeros((), dtype=torch.float32, device=_place_of_count(rule, group, p))
        for name, form in rule.states:
            if form == "tensor":
                state[name] = torch.zeros_like(real, dtype=dtype, memory_format=torch.preserve_format)
            elif form in ("scalar", "global"):
                state[name] = torch.zeros((), dtype=_precision(p), device=p.device)
                others = self._sharing(group, p) if form == "global" else []
                if others:  # a parameter that joins late finds the number that the others have
                    state[name].copy_(self.state[others[0]][name])
            elif isinstance(form, tuple):
                state[name] = real.new_zeros(self._view(group, p).sides(*form), dtype=dtype)
            elif hasattr(p, "to_local"):
                raise RuntimeError(_SHARDED.format(type(self).__name__, name))
            else:
                [zero] = self._to_rule(group, [p], [torch.zeros_like(real, dtype=_precision(p))])
                state.update(zip(_stored(name, form), form.blank(zero), strict=False))

    def _sharing(self, group, p):
        """The parameters that have one number together with p."""
        names = [name for name, form in self._rule(group).states if form == "global"]
        return [q for q in group["params"] if q is not p and (q.device, q.dtype) == (p.device, p.dtype)
                and all(name in self.state.get(q, {}) for name in names)] if names else []  # fmt: skip

    def _to_rule(self, group, params, xs):
        """Tensors like the parameters as the rule sees them."""
        return xs

    def _from_rule(self, group, params, xs):
        """Back from that."""
        return xs

    def _step_together(self, group, params):
        fused = _wants_fused(group, params[0].device) and (group["fused"] or not torch.compiler.is_compiling())
        if not (fused and self._step_fused(group, params)):
            if not self._unscaled(self._rule(group)):
                return
            alone = group["foreach"] is False and not self._rule(group).gathers
            for bucket in [[p] for p in params] if alone else self._equally_old(group, params):
                self._step_with_torch(group, bucket)
        for q in self._sharing(group, params[0]):  # those that did not step keep the number of those that did
            if q.grad is None:
                for name in (name for name, form in self._rule(group).states if form == "global"):
                    self.state[q][name].copy_(self.state[params[0]][name])

    def _equally_old(self, group, params):
        """Lists of parameters that were stepped equally often; on a device the counts are taken to be equal."""
        rule = self._rule(group)
        if torch.compiler.is_compiling() and rule.counts and not rule.gathers:
            return [[p] for p in params]  # the compiled step must be right for all counts
        if not rule.counts or group["capturable"] or torch.compiler.is_compiling():
            return [params]
        return self._by_count(params)

    def _by_count(self, params):
        """Lists of parameters that were stepped equally often."""
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

    def _step_fused(self, group, params):
        """Whether the step was taken by a kernel over all tensors; where not, nothing was changed."""
        return False

    # --- with torch's own functions ---

    def _unscaled(self, rule):
        """Whether there is a step to take: a GradScaler may have found gradients that are not finite."""
        found_inf = getattr(self, "found_inf", None)
        if found_inf is not None and rule.averages and _several_processes():
            found_inf = found_inf.clone()  # all processes step, or none
            torch.distributed.all_reduce(found_inf, op=torch.distributed.ReduceOp.MAX)
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
        seen = self._to_rule(group, params, w)
        old = [self._read(group, params, seen, name, form) for name, form in rule.states]
        given = [*self._values(group, step), *self._inputs(group, params, step)]
        ends = rule.update(seen, self._to_rule(group, params, g), *old, *given)
        update, *new = ends if rule.states else (ends,)
        for (name, form), values in zip(rule.states, new, strict=True):
            self._keep(group, params, name, form, values)
        self._write(group, params, w, self._from_rule(group, params, update))

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
            return self._to_rule(group, params, values) if form == "tensor" else values
        stored = [[s[key] for key in _stored(name, form) if key in s] for s in states]
        return [form.read(parts, x) for parts, x in zip(stored, seen, strict=True)]

    def _keep(self, group, params, name, form, values):
        """Writes a state's new values."""
        states = [self.state[p] for p in params]
        if form in ("scalar", "global"):
            for place, state in enumerate(states):
                state[name].copy_(_whole(values[place] if form == "scalar" else values))
        elif form == "tensor" or isinstance(form, tuple):
            values = self._from_rule(group, params, values) if form == "tensor" else values
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


_ROUNDINGS = ("nearest", "stochastic", "kahan")
_FLAGS = {"maximize": False, "foreach": None, "capturable": False, "differentiable": False, "fused": None,
          "state_dtype": None, "rounding": "nearest"}  # fmt: skip
_SHORT = (torch.bfloat16, torch.float16)
_PLAIN = (torch.nn.Parameter, torch.Tensor)
_SHARDED = (
    "{} keeps {!r} in a codec of whole tensors, and a parameter is sharded; shard it otherwise than by DTensor, or "
    "take a rule without codecs"
)
_AVERAGED = (
    "{} averages over processes that hold whole parameters each, and a parameter is sharded; take a rule that does not "
    "average, or no DTensor"
)
_SPARSE = (
    "{} does not take sparse gradients; use torch.optim.SparseAdam for these parameters, or make the layer with "
    "sparse=False"
)


def _wants_fused(group, device):
    """Whether steps are to be taken by a kernel: asked for, or nothing else is on a device that has kernels."""
    if group["fused"] is not None:
        return group["fused"]
    return group["foreach"] is None and not group["differentiable"] and device.type in ("cpu", "cuda")


def _place_of_count(rule, group, p):
    """The device on which a parameter's steps are counted: its own only where nothing is to read them on the host."""
    on_device = group["capturable"] or (
        p.device.type != "cpu" and bool(rule.kernel_triton) and _wants_fused(group, p.device)
    )
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


def _stored(name, form):
    """Under what names a state is kept."""
    return [name + end for end in form.parts] if _is_codec(form) else [name]


def _real(x):
    """A complex tensor as pairs of real numbers."""
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def _whole(x):
    """A number that a shard of each process holds a part of."""
    return x.full_tensor() if hasattr(x, "full_tensor") else x


def _several_processes():
    """Whether torch.distributed's default group has more than one."""
    started = torch.distributed.is_available() and torch.distributed.is_initialized()
    return started and torch.distributed.get_world_size() > 1


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


def _at_random(x, dtype):
    """X rounded up or down, to either neighbour as often as it is near: what is lost is 0 in the mean."""
    near = x.to(dtype)
    other = torch.nextafter(near, torch.where(near.to(x.dtype) < x, math.inf, -math.inf).to(dtype))
    gap = other.to(x.dtype) - near.to(x.dtype)
    share = torch.where(torch.isfinite(gap) & (gap != 0), (x - near.to(x.dtype)) / gap, 0.0)
    return torch.where(torch.rand_like(x) < share, other, near)
