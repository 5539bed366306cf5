"""Program to a function of torch tensors: routes, views, precision, oracles and codecs around the source lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from .draws import noise, projection, rounding
from .flow import flow, needs_matrices
from .kind import Kind
from .parameter import ParameterView, check_matrices, infer_role
from .program import FIRST, NOISE, ORACLES, RESERVED, TWO_POINT, Program

if TYPE_CHECKING:
    from torch import Tensor
from .torch_source import TorchSource


def compile_step(
    program: Program,
    roles: Sequence[str] | None = None,
    seed: int = 0,
    workers: int = 1,
    only: Collection[int] | None = None,
) -> Callable[..., tuple[list[Tensor], list[Any]]]:
    """The program as a function of torch tensors.

    Called with (params, grads, states, schedule, t, progress, oracles=None): lists of tensors, states as `zero_states`
    makes them, three numbers, and what a trainer gives to oracle inputs by name. `schedule` multiplies the peak
    learning rate. Returns the update and the new states. Nothing is written in place, and nothing returned shares
    memory with what was given but states: one that did not change, or that takes over another. Arithmetic is in float32
    at least.

    `roles` are those of the parameters (default: by their axes); `seed` is that of random draws. With `workers`
    simulated workers params, grads and states hold theirs one after another. Of a program with a route `only` may name
    the parts that step, by number; what the others claim has the update None.
    """
    parts = program.parts()
    steps = [_Step(part, seed, workers) for part in parts]
    roles = list(roles) * workers if roles is not None else None
    if len(parts) == 1:
        return lambda params, grads, states, schedule, t, progress, oracles=None: steps[0](
            range(len(params)), roles, params, grads, states, schedule, t, progress, oracles or {}
        )

    def step(
        params: Sequence[Tensor], grads: Sequence[Tensor], states: Sequence[Any], schedule: float, t: int,
        progress: float, oracles: Mapping[str, Any] | None = None,
    ) -> tuple[list[Tensor], list[Any]]:  # fmt: skip
        update: list[Any] = [None] * len(params)
        new: list[Any] = []
        for number, (mine, one, state) in enumerate(zip(claims(program, params, roles), steps, states, strict=True)):
            if only is not None and number not in only:
                new.append(state)
                continue

            def own(xs: Any, mine: Sequence[int] = mine) -> Any:
                return [xs[i] for i in mine] if isinstance(xs, (list, tuple)) else xs

            given = {name: own(value) for name, value in (oracles or {}).items()}
            found, state = one(mine, own(roles), own(params), own(grads), state, schedule, t, progress, given)
            new.append(state)
            for i, u in zip(mine, found, strict=True):
                update[i] = u
        return update, new

    return step


def _cast(tensors: str) -> str:
    """The tensors in the parameters' type, which a 0-d one loses to a number of more precision."""
    return f"[x.to(dtype) for x in {tensors}]"


def claims(program: Program, params: Sequence[Tensor], roles: Sequence[str] | None) -> list[list[int]]:
    """The parameters of each part, by index."""
    claimed = program.assign(roles or [infer_role(p.shape) for p in params])
    return [[i for i, owner in enumerate(claimed) if owner == part] for part in range(len(program.parts()))]


class _Step:
    """One program without a route, on the tensors that it claims."""

    def __init__(self, program: Program, seed: int, workers: int) -> None:
        self.program, self.seed, self.workers = program, seed, workers
        self.source = TorchSource(program)
        self.matrices = needs_matrices(program, self.source.flow)
        self.function = self._compiled()
        live = [i for i, _ in self.source.flow.states]
        self.codecs = {i: c for i in live if (c := program.states[i].codec) is not None}

    def _compiled(self) -> Callable[..., tuple[list[Tensor], list[Any]]]:
        import torch

        from . import torch_helpers

        source = self.source
        states = [source.names[FIRST + i] for i in range(len(self.program.states))]
        lines = ["dtype = params[0].dtype", f"[{', '.join(states)}] = states" if states else ""]
        number = "torch.tensor({}, dtype=torch.float64)"
        lines += [f"{name} = {number.format(name)}" for name in ("lr", "t", "progress")]
        lines += [f"{source.names[v]} = {number.format(repr(x))}" for v, x in source.flow.hypers.items()]
        lines += [f'{RESERVED[v]} = inputs["{RESERVED[v]}"]' for v in (NOISE, *ORACLES) if source.flow.reads(v)]
        lines += source.lines
        ends = [source.new_states.get(i, name) for i, name in enumerate(states)]
        plain = [state.kind in (Kind.GLOBAL, Kind.SCALAR) for state in self.program.states]
        ends = [end if one else _cast(end) for end, one in zip(ends, plain, strict=True)]
        lines.append(f"return {_cast(source.update)}, [{', '.join(ends)}]")
        body = "".join(f"    {line}\n" for line in lines if line)
        text = f"def step(params, grads, states, lr, t, progress, inputs, draw):\n{body}"
        scope: dict[str, Any] = {"torch": torch, "math": math, **vars(torch_helpers)}
        scope["_worker_mean"] = self._mean_over_workers
        exec(compile(text, f"<{self.program.name}>", "exec"), scope)  # our own text, made from the op table
        return scope["step"]

    def __call__(
        self, mine: Sequence[int], roles: Sequence[str] | None, params: Sequence[Tensor], grads: Sequence[Tensor],
        states: list[Any], schedule: float, t: int, progress: float, oracles: Mapping[str, Any],
    ) -> tuple[list[Tensor], list[Any]]:  # fmt: skip
        if not params:
            return [], states
        given, kept = params, states
        precision = _precision(params)
        params, grads, states, oracles = (_in(precision, x) for x in (params, grads, states, oracles))
        tensors = _tensors(mine, params, roles, self.workers)
        inputs = self._inputs(tensors, params, oracles, t)
        if self.matrices:
            check_matrices(tensors)
            params, grads = _viewed(tensors, params), _viewed(tensors, grads)
            inputs = {name: _viewed(tensors, x) if isinstance(x, list) else x for name, x in inputs.items()}

        def draw(i: int, shape: tuple[int, ...], step: int) -> Any:
            return projection(self.seed, step, tensors[i].index, shape)

        lr = self.program.peak * schedule
        update, new = self.function(params, grads, states, lr, t, progress, inputs, draw)
        for index, codec in self.codecs.items():
            draws = [partial(rounding, self.seed, t, x.index, index) for x in tensors]
            new[index] = [codec.kept_torch(x, u) for x, u in zip(new[index], draws, strict=True)]
        if self.matrices:
            update = [tensor.back(u) for tensor, u in zip(tensors, update, strict=True)]
        if all(p.dtype == precision for p in given):
            return update, new
        return [u.to(p.dtype) for u, p in zip(update, given, strict=True)], [
            [x.to(old.dtype) for x, old in zip(each, olds, strict=True)] if isinstance(each, list) else each
            for each, olds in zip(new, kept, strict=True)
        ]

    def _mean_over_workers(self, xs: list[Tensor]) -> list[Tensor]:
        """The mean over simulated workers, whose tensors follow one another worker by worker."""
        import torch

        own = len(xs) // self.workers
        return [torch.stack(xs[i::own]).mean(0) for i in range(own)] * self.workers if self.workers > 1 else xs

    def _inputs(
        self, tensors: Sequence[Any], params: Sequence[Tensor], oracles: Mapping[str, Any], t: int
    ) -> dict[str, Any]:
        """Noise, and what the trainer gives; 0 at the steps between."""
        import torch

        reads, inputs = self.source.flow.reads, {}
        for slot in ORACLES:
            if reads(slot):
                zero = torch.zeros((), dtype=torch.float64)
                usual = zero if slot == TWO_POINT else [torch.zeros_like(p) for p in params]
                inputs[RESERVED[slot]] = oracles.get(RESERVED[slot], usual)
        if reads(NOISE):
            draws = [noise(self.seed, t, x.index, x.shape) for x in tensors]
            inputs["noise"] = [torch.as_tensor(x).to(p) for x, p in zip(draws, params, strict=True)]
        return inputs


def _precision(params: Sequence[Tensor]) -> Any:
    """The dtype of the arithmetic: that of the parameters together, float32 at least."""
    import torch

    precision = torch.float32
    for p in params:
        precision = torch.promote_types(precision, p.dtype)
    return precision


def _in(precision: Any, x: Any) -> Any:
    """Lists of tensors in a precision; numbers as they are."""
    if isinstance(x, Mapping):
        return {name: _in(precision, value) if isinstance(value, list) else value for name, value in x.items()}
    if isinstance(x, (list, tuple)):
        return [_in(precision, one) for one in x]
    return x.to(precision) if x.ndim else x


def _tensors(
    mine: Sequence[int], params: Sequence[Tensor], roles: Sequence[str] | None, workers: int
) -> list[ParameterView]:
    own = len(mine) // workers
    return [
        ParameterView(mine[i % own], tuple(p.shape), roles[i] if roles else infer_role(p.shape))
        for i, p in enumerate(params)
    ]


def _viewed(tensors: Sequence[ParameterView], xs: Sequence[Any]) -> list[Any]:
    return [tensor.view(x) for tensor, x in zip(tensors, xs, strict=True)]


def zero_states(
    program: Program, params: Sequence[Tensor], roles: Sequence[str] | None = None, only: Collection[int] | None = None
) -> list[Any]:
    """The states before the first step, in the form that `compile_step` takes.

    One entry per state in header order: a list with a tensor per parameter, a list of 0-d tensors, or a 0-d
    tensor, by kind. Of a program with a route such a list per part; of parts that `only` does not name an empty one.
    """
    import torch

    roles = list(roles) * (len(params) // len(roles)) if roles else None  # of simulated workers
    if program.fallback is not None:
        pairs = zip(program.parts(), claims(program, params, roles), strict=True)
        return [
            zero_states(part, [params[i] for i in mine], [roles[i] for i in mine] if roles else None)
            if only is None or number in only
            else []
            for number, (part, mine) in enumerate(pairs)
        ]
    matrices = needs_matrices(program, flow(program))
    tensors = _tensors(range(len(params)), params, roles, 1)

    def zero(kind: Kind) -> Any:
        if kind is Kind.TENSOR and not matrices:
            return [torch.zeros_like(p) for p in params]
        if kind not in (Kind.GLOBAL, Kind.SCALAR):
            sides = (x.sides(kind.rows, kind.columns) for x in tensors)
            return [p.new_zeros(shape) for p, shape in zip(params, sides, strict=True)]
        one = params[0].new_zeros(()) if params else torch.zeros(())
        return [one.clone() for _ in params] if kind is Kind.SCALAR else one

    return [zero(state.kind) for state in program.states]
