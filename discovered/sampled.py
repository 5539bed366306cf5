# mypy: ignore-errors
"""Rules that ask for more than the gradient: noise, projections, estimates. Exported files of such carry this text."""

import hashlib

import torch

from .optimizer import _precision, _real, _several_processes


class Sampled:
    """An optimizer whose rule reads draws, or estimates that are due at every so many steps.

    Draws depend on the group's "seed", the device's kind, the count of steps and the parameter's place alone: a run
    that is loaded goes on with the same, and the processes of a data-parallel run have the same. Estimates:

    - "hutchinson": z * (H z) for a draw z of signs; made here where gradients came of `backward(create_graph=True)`.
    - "gauss_newton": N * square(gradient) at labels that the model draws, N of them in the mean loss.
    - "two_point": (L(w + e z) - L(w - e z)) / (2 e) along this step's noise z; made here by calling the closure
      twice, without gradients. e is `perturbation`. The weights are kept and put back, which costs their memory once.

    What is made here is averaged over the processes of torch.distributed's default group.
    """

    def _check_flags(self, flags):
        if flags["capturable"]:
            raise RuntimeError(f"{type(self).__name__} does not support `capturable`: its draws need counts of steps")
        super()._check_flags(flags)

    def _check(self, rule, values, names):
        super()._check(rule, values, names)
        if not values.get("perturbation", 1.0) > 0:
            raise ValueError(f"perturbation must be above 0, not {values['perturbation']}")
        if not isinstance(values["seed"], int):
            raise ValueError(f"seed must be a whole number, not {values['seed']!r}")

    @torch.compiler.disable  # a compiler would take one parameter's draw for another's
    def step(self, closure=None, **estimates):
        """One step.

        Args:
            closure: Gives the loss; called twice where the rule reads two_point, which needs no backward pass.
            estimates: hutchinson or gauss_newton, each a dict from parameter to tensor; read where it is due.

        Returns the loss of the closure, if there is one; of two the mean.
        """
        known = {name for rule in self._rules for name, _ in rule.periods}
        for name in estimates:
            if name not in known - {"two_point"}:
                raise TypeError(f"{type(self).__name__}.step() got an unexpected keyword argument {name!r}")
        self._estimates, loss = dict(estimates), None
        self._places = {p: i for i, p in enumerate(p for group in self.param_groups for p in group["params"])}
        try:
            if "two_point" in known:
                loss, closure = self._two_point(closure), None
            elif closure is not None:
                with torch.enable_grad():
                    loss = closure()
            for name, pairs in self._asked().items():
                if name != "two_point":
                    self._estimates[name] = self._estimate(name, self._estimates.get(name), pairs)
            super().step()
        finally:
            del self._estimates, self._places
        return loss

    def due(self):
        """Names of the estimates that the next step reads."""
        groups = ((group, [p for p in group["params"] if p.requires_grad]) for group in self.param_groups)
        return sorted({name for group, params in groups for name, _ in self._due(group, params)})

    def _due(self, group, params):
        """(name, those of the parameters at whose next step it is read)."""
        for name, period in self._rule(group).periods:
            some = [p for p in params if self._count(p) % period == 0]
            if some:
                yield name, some

    def _asked(self):
        """The estimates that this step reads, in order of name: (group, parameter) of all that read it."""
        found = {}
        for group in self.param_groups:
            for name, params in self._due(group, self._stepped(group)):
                found.setdefault(name, []).extend((group, p) for p in params)
        return dict(sorted(found.items()))

    def _count(self, p):
        """How often a parameter was stepped."""
        return int(self.state[p]["step"]) if "step" in self.state.get(p, {}) else 0

    def _estimate(self, name, given, pairs):
        """An estimate for each parameter that reads it, as the caller gave it or made here."""
        if given is None and name == "hutchinson" and any(p.grad.grad_fn is not None for _, p in pairs):
            return self._hutchinson(pairs)
        if given is None and self._is_dry():
            return {p: torch.zeros_like(_real(p)) for _, p in pairs}
        if given is None:
            how = "call backward(create_graph=True), or " if name == "hutchinson" else ""
            raise RuntimeError(f"{type(self).__name__} reads {name} at this step: {how}give "
                               f"step({name}={{parameter: tensor, ...}}); due() tells when")  # fmt: skip
        if not isinstance(given, dict):
            raise TypeError(f"{name} must be a dict from parameter to tensor, not a {type(given).__name__}")
        for _, p in pairs:
            if p not in given:
                raise ValueError(f"{name} has nothing for parameter {self._places[p]}, of shape {tuple(p.shape)}: its "
                                 "keys are the parameters themselves")  # fmt: skip
            if given[p].shape != p.shape:
                raise ValueError(f"{name} has shape {tuple(given[p].shape)} for a parameter of {tuple(p.shape)}")
        return {p: _real(given[p]) for _, p in pairs}

    def _is_dry(self):
        """Whether the step is to change nothing, as where distributed checkpointing makes states by one."""
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        return all(float(group["lr"]) == 0 for group in self.param_groups) and not any(bool(g.any()) for g in grads)

    def _hutchinson(self, pairs):
        """Signs z times the derivative of the gradient along them."""
        if hasattr(self, "found_inf") and getattr(self, "grad_scale", None) is None:
            raise RuntimeError("GradScaler.unscale_() leaves the graph behind the gradients scaled: give "
                               "step(hutchinson={parameter: tensor, ...})")  # fmt: skip
        params = [p for _, p in pairs]
        draws = [self._drawn(group, "probe", self._count(p), p, _real(p).shape) for group, p in pairs]
        z = [torch.where(x < 0, -1.0, 1.0).to(_real(p)) for x, p in zip(draws, params, strict=True)]
        known = [i for i, p in enumerate(params) if p.grad.grad_fn is not None]  # the others' gradients are constant
        with torch.enable_grad():
            products = torch.autograd.grad([_real(params[i].grad) for i in known], params, [z[i] for i in known],
                                           allow_unused=True)  # fmt: skip
        scale = getattr(self, "grad_scale", None)
        scale = 1.0 if scale is None else scale.to(params[0].device)
        found = [torch.zeros_like(d) if h is None else d * _real(h) / scale for d, h in zip(z, products, strict=True)]
        return dict(zip(params, map(_averaged, found), strict=True))

    @torch.no_grad()
    def _two_point(self, closure):
        """The mean of two losses; their difference becomes an estimate."""
        self._estimates["two_point"], losses = 0.0, []
        pairs = self._asked().get("two_point", [])
        if closure is None and self._is_dry():
            return None
        if closure is None:
            raise RuntimeError(f"{type(self).__name__} reads differences of losses: call step(closure) with a closure "
                               "that returns the loss and needs no backward()")  # fmt: skip
        if not pairs:
            return closure()
        step, *others = sorted({group["perturbation"] for group, _ in pairs})
        if others:
            raise ValueError(f"groups have perturbations {step} and {others[0]}, and two losses are read for all: give "
                             "them one")  # fmt: skip
        before = [p.detach().clone() for _, p in pairs]
        try:
            for side in (1, -1):
                for (group, p), w in zip(pairs, before, strict=True):
                    z = self._drawn(group, "noise", self._count(p), p, _real(p).shape)
                    _real(p).copy_(_real(w) + side * step * z)
                losses.append(closure())
                if losses[-1] is None:
                    raise RuntimeError("the closure must return the loss, not None")
        finally:
            for (_, p), w in zip(pairs, before, strict=True):
                p.copy_(w)
        difference = torch.as_tensor(float(losses[0]) - float(losses[1]), dtype=torch.float64)
        self._estimates["two_point"] = float(_averaged(difference)) / (2 * step)
        return (losses[0] + losses[1]) / 2

    def _init_state(self, group, p):
        if hasattr(p, "to_local"):
            raise RuntimeError(f"{type(self).__name__} draws for whole tensors, and a parameter is sharded")
        super()._init_state(group, p)

    def _inputs(self, group, params, step):
        return [self._input(group, params, name) for name in self._rule(group).inputs]

    def _input(self, group, params, name):
        before = [self._count(p) - 1 for p in params]  # the counts include this step
        sign = -1.0 if group["maximize"] and name in ("two_point", "hutchinson") else 1.0
        if name == "draw":
            return lambda i, shape, redraw: self._drawn(group, "projection", redraw, params[i], shape)
        if name == "noise":
            draws = [self._drawn(group, "noise", t, p, _real(p).shape) for t, p in zip(before, params, strict=True)]
            return self._to_rule(group, params, draws)
        due = before[0] % dict(self._rule(group).periods)[name] == 0
        if name == "two_point":
            return sign * self._estimates["two_point"] if due else 0.0
        zeros = [torch.zeros_like(_real(p), dtype=_precision(p)) for p in params]
        given = self._estimates[name] if due else {}
        values = [sign * given[p].to(zero) if p in given else zero for p, zero in zip(params, zeros, strict=True)]
        return self._to_rule(group, params, values)

    def _drawn(self, group, what, step, p, shape):
        """Standard normal draws for one parameter."""
        key = repr((group["seed"], what, step, self._places[p])).encode()
        seed = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1
        generator = torch.Generator(p.device).manual_seed(seed)
        return torch.randn(shape, generator=generator, device=p.device, dtype=_precision(p))


def _averaged(x):
    """The mean over the processes of torch.distributed's default group."""
    if _several_processes():
        torch.distributed.all_reduce(x)
        x = x / torch.distributed.get_world_size()
    return x
