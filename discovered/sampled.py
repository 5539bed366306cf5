# mypy: ignore-errors
"""Rules that ask for more than the gradient: noise, projections, estimates. Exported files of such carry this text."""

import hashlib

import torch

from .optimizer import _precision, _real


class Sampled:
    """An optimizer whose rule reads draws, or estimates that are due at every so many steps.

    Draws depend on the group's "seed", the count of steps and the parameter's place alone: a run that is loaded goes
    on with the same. Estimates:

    - "hutchinson": z * (H z) for a draw z of signs; made here where gradients came of `backward(create_graph=True)`.
    - "gauss_newton": N * square(gradient) at labels that the model draws, N of them in the mean loss.
    - "two_point": (L(w + e z) - L(w - e z)) / (2 e) along this step's noise z; made here by calling the closure
      twice, without gradients. e is the group's "perturbation".
    """

    def step(self, closure=None, **estimates):
        """One step.

        Args:
            closure: Gives the loss; called twice where the rule reads two_point, which needs no backward pass.
            estimates: hutchinson or gauss_newton, each a dict from parameter to tensor; read where it is due.

        Returns the loss of the closure, if there is one; of two the mean.
        """
        known = {name for rule in self._rules for name, _ in rule.periods} - {"two_point"}
        for name in estimates:
            if name not in known:
                raise TypeError(f"{type(self).__name__}.step() got an unexpected keyword argument {name!r}")
        self._estimates, loss = dict(estimates), None
        self._places = {p: i for i, p in enumerate(p for group in self.param_groups for p in group["params"])}
        try:
            if any(name == "two_point" for rule in self._rules for name, _ in rule.periods):
                if closure is None:
                    raise RuntimeError(f"{type(self).__name__} reads differences of losses: call step(closure) with a "
                                       "closure that returns the loss and needs no backward()")  # fmt: skip
                loss, closure = self._two_point(closure), None
            elif closure is not None:
                with torch.enable_grad():
                    loss = closure()
            for name in self.due():
                if name not in self._estimates:
                    self._estimates[name] = self._made(name)
            super().step()
        finally:
            del self._estimates, self._places
        return loss

    def due(self):
        """Names of the estimates that the next step reads."""
        return sorted({name for _, name, _ in self._reading()})

    def _reading(self):
        """(group, name, parameters) of the estimates that the next step reads."""
        for group in self.param_groups:
            for name, period in self._rule(group).periods:
                params = [p for p in self._stepped(group) if self._count(p) % period == 0]
                if params:
                    yield group, name, params

    def _count(self, p):
        """How often a parameter was stepped."""
        return int(self.state[p]["step"]) if "step" in self.state.get(p, {}) else 0

    def _made(self, name):
        """An estimate that the caller did not give."""
        pairs = [(group, p) for group, own, params in self._reading() if own == name for p in params]
        if name != "hutchinson" or any(p.grad.grad_fn is None for _, p in pairs):
            how = "call backward(create_graph=True), or " if name == "hutchinson" else ""
            raise RuntimeError(f"{type(self).__name__} reads {name} at this step: {how}give "
                               f"step({name}={{parameter: tensor, ...}}); due() tells when")  # fmt: skip
        params = [p for _, p in pairs]
        z = [
            torch.where(self._drawn(group, "probe", self._count(p), p, p.shape) < 0, -1.0, 1.0).to(p)
            for group, p in pairs
        ]
        with torch.enable_grad():
            products = torch.autograd.grad([p.grad for p in params], params, z, allow_unused=True)
        scale = getattr(self, "grad_scale", None)
        scale = 1.0 if scale is None else scale.to(params[0].device)
        found = [
            torch.zeros_like(p) if h is None else d * h / scale for p, d, h in zip(params, z, products, strict=True)
        ]
        return dict(zip(params, found, strict=True))

    @torch.no_grad()
    def _two_point(self, closure):
        """The mean of two losses; their difference becomes an estimate."""
        pairs = [(group, p) for group, name, params in self._reading() if name == "two_point" for p in params]
        if not pairs:
            return closure()
        before = [p.detach().clone() for _, p in pairs]
        step, losses = pairs[0][0]["perturbation"], []
        try:
            for side in (1, -1):
                for (group, p), w in zip(pairs, before, strict=True):
                    z = self._drawn(group, "noise", self._count(p), p, _real(p).shape)
                    _real(p).copy_(_real(w) + side * step * z)
                losses.append(closure())
        finally:
            for (_, p), w in zip(pairs, before, strict=True):
                p.copy_(w)
        self._estimates["two_point"] = (float(losses[0]) - float(losses[1])) / (2 * step)
        return (losses[0] + losses[1]) / 2

    def _inputs(self, group, params, step):
        return [self._input(group, params, name) for name in self._rule(group).inputs]

    def _input(self, group, params, name):
        before = self._count(params[0]) - 1  # the count includes this step
        sign = -1.0 if group["maximize"] else 1.0
        if name == "draw":
            return lambda i, shape, redraw: self._drawn(group, "projection", redraw, params[i], shape)
        if name == "noise":
            draws = [self._drawn(group, "noise", before, p, _real(p).shape) for p in params]
            return self._seen(group, params, draws)
        due = before % dict(self._rule(group).periods)[name] == 0
        if name == "two_point":
            return sign * self._estimates["two_point"] if due else 0.0
        given = [self._estimates[name].get(p) if due else None for p in params]
        zeros = [torch.zeros_like(_real(p), dtype=_precision(p)) for p in params]
        sign = sign if name == "hutchinson" else 1.0
        values = [z if x is None else sign * _real(x).to(z) for x, z in zip(given, zeros, strict=True)]
        return self._seen(group, params, values)

    def _drawn(self, group, what, step, p, shape):
        """Standard normal draws for one parameter."""
        key = repr((group["seed"], what, step, self._places[p])).encode()
        seed = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1
        generator = torch.Generator(p.device).manual_seed(seed)
        return torch.randn(shape, generator=generator, device=p.device, dtype=_precision(p))
