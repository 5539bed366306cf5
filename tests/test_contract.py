"""Exported classes keep the contract of torch.optim.Optimizer: what torch checks of its own, and what users rely on.

Every check runs on the exported classes of published and of found rules, and on torch's AdamW, which shows that the
check asks for no more than torch itself gives.
"""

import copy
import inspect
import io
import itertools
import json
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedules
from torch.testing._internal.common_optimizers import (
    ErrorOptimizerInput,
    OptimizerErrorEnum,
    OptimizerInfo,
    OptimizerInput,
    get_error_inputs_for_all_optims,
    optim_error_inputs_func_adamw,
)

from stepsmith.discovered import export_torch, load, torch_class
from stepsmith.discovered.optimizer import _place_of_count, _wants_fused
from stepsmith.dsl import Program
from stepsmith.dsl.flow import flow

FOUND = {file.stem: file.read_text("utf-8") for file in sorted((Path(__file__).parent / "found").glob("*.opt"))}
PROGRAMS = {name: load(name) for name in ("lion", "c_lion", "adamw", "c_adamw")}
PROGRAMS |= {name: Program.parse(text) for name, text in FOUND.items()}
CONTROL = "torch_adamw"
NAMES = [*PROGRAMS, CONTROL]
OURS = list(PROGRAMS)

LOOP, FOREACH = {"foreach": False, "fused": False}, {"foreach": True, "fused": False}
FUSED = {"fused": True}
WAYS = {"loop": LOOP, "foreach": FOREACH, "fused": FUSED, "default": {}}
SHAPES = [(4, 3), (5,), (), (2, 3, 2, 2)]

#: Checks that are left out: for which class, in which cases of theirs, and why.
LEFT_OUT: dict[str, list[tuple[set, str]]] = {
    "test_states_keep_their_own_dtype_through_a_load": [({CONTROL}, "torch's AdamW has no state_dtype")],
    "test_gradients_may_be_wider_than_their_parameter": [({CONTROL}, "torch's AdamW has no state_dtype")],
    "test_stochastic_rounding_keeps_the_mean": [({CONTROL}, "torch's AdamW always rounds to the nearest")],
    "test_kahan_rounding_loses_no_small_update": [({CONTROL}, "torch's AdamW always rounds to the nearest")],
    "test_kahan_checkpoints_load_into_float32": [({CONTROL}, "torch's AdamW always rounds to the nearest")],
    "test_a_step_without_a_compiler_is_not_fused_and_says_so": [({CONTROL}, "torch's AdamW needs no compiler")],
    "test_counts_of_steps_may_live_on_the_device": [({CONTROL}, "torch's AdamW has no capturable on CPUs")],
    "test_a_fused_step_is_the_step_of_the_loop_within_a_few_ulp": [
        ({CONTROL}, "the two ways of torch's AdamW differ by more")
    ],
    "test_a_scale_and_a_found_infinity_may_be_attributes": [
        ({CONTROL, way}, "torch's AdamW takes them with fused=True alone") for way in ("loop", "foreach", "default")
    ],
    "test_complex_parameters_are_pairs_of_numbers": [
        ({CONTROL, "fused"}, "torch's fused AdamW refuses complex parameters")
    ],
    "test_autograd_sees_that_weights_and_states_changed": [
        ({CONTROL, "fused"}, "torch's fused AdamW does not tell autograd of what it writes")
    ],
    "test_autograd_sees_that_sharded_weights_changed": [
        ({CONTROL, "fused"}, "torch's fused AdamW does not tell autograd of what it writes")
    ],
    "test_torch_compile_counts_the_steps_of_each_parameter": [
        ({name}, "a sum over parameters joins those of all counts, and torch.compile does not know the counts")
        for name in FOUND
    ],
    "test_gradients_flow_through_steps": [({CONTROL, "foreach"}, "torch's foreach AdamW is not differentiable")],
    "test_the_memory_order_of_parameters_and_gradients_does_not_matter": [
        ({CONTROL, "fused"}, "torch's fused AdamW reads transposed gradients as if they were contiguous")
    ],
    "test_parameters_that_share_memory_with_themselves_are_refused": [
        ({CONTROL, "fused"}, "torch's fused AdamW writes past the end of their memory")
    ],
    "test_gradients_may_be_views": [
        ({CONTROL, "conjugate view"}, "torch's AdamW refuses conjugate views"),
        ({CONTROL, "negated view", "fused"}, "torch's fused AdamW refuses negated views"),
        ({CONTROL, "expanded", "fused"}, "torch's fused AdamW reads expanded gradients as if they were contiguous"),
    ],
}


def inputs_of(cls: type, more: dict) -> Callable[..., list[OptimizerInput]]:
    """The settings under which a class is tried."""
    accepts = inspect.signature(cls).parameters
    settings: list[dict] = [{}, {"lr": 0.01}, {"maximize": True}, {"betas": (0.8, 0.95), "lr": 0.003}]
    if "weight_decay" in accepts:
        settings += [{"weight_decay": 0.1}, {"weight_decay": 0.1, "maximize": True}]
    return lambda device, dtype=None: [
        OptimizerInput(params=None, kwargs=more | kwargs, desc=str(kwargs)) for kwargs in settings
    ]


#: Rules that read a beta otherwise than as the rate of an average, so that any number will do.
FREE_BETAS = ("found_3382", "found_4299")


def errors_of(name: str, cls: type, more: dict) -> Callable[..., list[ErrorOptimizerInput]]:
    """Wrong arguments, and how they are refused."""
    wrong: list[tuple[dict, type[Exception], str]] = [
        ({"lr": -1.0}, ValueError, r"lr must be at least 0, not -1\.0"),
        ({"lr": float("nan")}, ValueError, "lr must be at least 0, not nan"),
        ({"betas": (0.9,)}, ValueError, "betas must be 2 numbers"),
        ({"lr": torch.tensor(0.1), "foreach": True}, ValueError,
         "lr as a Tensor is not supported for capturable=False and foreach=True"),
        ({"rounding": "up"}, ValueError, "rounding must be one of nearest, stochastic, kahan, not 'up'"),
        ({"state_dtype": "float32"}, ValueError, "state_dtype must be None or a floating dtype"),
        ({"state_dtype": torch.int8}, ValueError, "state_dtype must be None or a floating dtype"),
    ]  # fmt: skip
    if name not in FREE_BETAS:
        wrong.append(({"betas": (1.0, 0.0)}, ValueError, r"betas must be 2 numbers in \[0, 1\), not \(1\.0, 0\.0\)"))
    if "weight_decay" in inspect.signature(cls).parameters:
        wrong.append(({"weight_decay": -1}, ValueError, "weight_decay must be at least 0, not -1"))
    own = [ErrorOptimizerInput(OptimizerInput(None, kwargs), error_type=kind, error_regex=says)
           for kwargs, kind, says in wrong]  # fmt: skip

    def made(device, dtype):
        found = get_error_inputs_for_all_optims(device, dtype) + own
        for each in found:
            each.optimizer_error_input.kwargs = more | each.optimizer_error_input.kwargs
        return found

    return made


SCHEDULERS = {
    "StepLR": lambda optimizer: schedules.StepLR(optimizer, 10, 0.9),
    "ExponentialLR": lambda optimizer: schedules.ExponentialLR(optimizer, 0.9),
    "LinearLR, then cosine": lambda optimizer: schedules.SequentialLR(
        optimizer,
        [schedules.LinearLR(optimizer, 0.3, total_iters=4), schedules.CosineAnnealingLR(optimizer, 40)],
        [4],
    ),
    "ReduceLROnPlateau": lambda optimizer: schedules.ReduceLROnPlateau(optimizer),
    "OneCycleLR": lambda optimizer: schedules.OneCycleLR(optimizer, max_lr=0.003, total_steps=40),
    "CyclicLR": lambda optimizer: schedules.CyclicLR(optimizer, base_lr=1e-4, max_lr=3e-3, step_size_up=5),
}


def info_of(name: str) -> OptimizerInfo:
    """A class as torch's tests describe one."""
    if name == CONTROL:
        cls, more, errors = torch.optim.AdamW, {}, optim_error_inputs_func_adamw
    else:
        cls = torch_class(PROGRAMS[name])
        more = {"total_steps": 100} if "total_steps" in inspect.signature(cls).parameters else {}
        errors = errors_of(name, cls, more)
    return OptimizerInfo(
        cls,
        optim_inputs_func=inputs_of(cls, more),
        scheduler_inputs=[SCHEDULERS],
        optim_error_inputs_func=errors,
        supported_impls=("foreach", "differentiable", "fused"),
        supports_fused_on=("cpu", "cuda"),
        has_capturable_arg=True,
    )


INFOS = {name: info_of(name) for name in NAMES}
each = pytest.mark.parametrize("name", NAMES)
ways = pytest.mark.parametrize("way", WAYS)


@pytest.fixture(autouse=True)
def _left_out(request):
    if not hasattr(request.node, "callspec"):
        return
    given = {value for value in request.node.callspec.params.values() if isinstance(value, str)}
    for case, why in LEFT_OUT.get(request.node.originalname, ()):
        if case <= given:
            pytest.skip(why)


def new(name: str, params: Iterable, **more) -> torch.optim.Optimizer:
    """An optimizer with a class's first settings."""
    info = INFOS[name]
    return info.optim_cls(params, **info.optim_inputs_func("cpu")[0].kwargs | more)


def parameters(dtype: torch.dtype = torch.float32, shapes: Iterable = SHAPES, seed: int = 0) -> list[nn.Parameter]:
    random = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(s, generator=random, dtype=torch.float64).to(dtype)) for s in shapes]


def gradients(count: int, shapes: Iterable = SHAPES, seed: int = 1) -> list[list[torch.Tensor]]:
    random = torch.Generator().manual_seed(seed)
    return [[torch.randn(s, generator=random, dtype=torch.float64) for s in shapes] for _ in range(count)]


def of(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def run(optimizer: torch.optim.Optimizer, steps: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    """Open-loop steps; copies of the parameters afterwards."""
    for step in steps:
        for p, g in zip(of(optimizer), step, strict=True):
            p.grad = None if g is None else g.to(p.dtype)
        optimizer.step()
    return [p.detach().clone() for p in of(optimizer)]


def copied(lr: float | torch.Tensor) -> float | torch.Tensor:
    return lr.clone() if isinstance(lr, torch.Tensor) else lr


def same(xs: Iterable[torch.Tensor], ys: Iterable[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(xs, ys, strict=True))


def saved(optimizer: torch.optim.Optimizer) -> dict:
    """The state dict through a file that holds data alone."""
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def sums_over_parameters(name: str) -> bool:
    """Whether a rule reduces over all parameters that step together."""
    return any(rule.gathers for rule in getattr(INFOS[name].optim_cls, "_rules", ()))


@contextmanager
def fused_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Here a step that falls back to torch's functions is an error."""
    with monkeypatch.context() as patch:
        if name != CONTROL:
            patch.setattr(INFOS[name].optim_cls, "_step_with_torch", None)
        yield


# --- three ways to take a step ------------------------------------------------------------------------------


@each
@pytest.mark.parametrize("way", ["foreach", "fused", "default"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_all_ways_to_step_agree(name, way, dtype, monkeypatch):
    for given in INFOS[name].optim_inputs_func("cpu"):
        loop = run(new(name, parameters(dtype), **given.kwargs, **LOOP), gradients(6))
        if way == "fused":
            with fused_alone(name, monkeypatch):
                other = run(new(name, parameters(dtype), **given.kwargs, **WAYS[way]), gradients(6))
        else:
            other = run(new(name, parameters(dtype), **given.kwargs, **WAYS[way]), gradients(6))
        for x, y in zip(other, loop, strict=True):
            torch.testing.assert_close(x, y, msg=lambda text, given=given: f"{given.desc}: {text}")


@each
def test_all_ways_to_step_agree_in_bfloat16(name, monkeypatch):
    """As near as torch asks of its own fused AdamW."""
    for given in INFOS[name].optim_inputs_func("cpu"):
        loop = run(new(name, parameters(torch.bfloat16), **given.kwargs, **LOOP), gradients(6))
        foreach = run(new(name, parameters(torch.bfloat16), **given.kwargs, **FOREACH), gradients(6))
        with fused_alone(name, monkeypatch):
            fused = run(new(name, parameters(torch.bfloat16), **given.kwargs, **FUSED), gradients(6))
        for x, y, z in zip(foreach, fused, loop, strict=True):
            torch.testing.assert_close(x, z, rtol=5e-3, atol=5e-3)
            torch.testing.assert_close(y, z, rtol=5e-3, atol=5e-3)


def ulps(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """How many float32 numbers lie between two."""

    def place(z: torch.Tensor) -> torch.Tensor:
        bits = z.view(torch.int32).long()
        return torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits)

    return (place(x) - place(y)).abs()


@each
def test_a_fused_step_is_the_step_of_the_loop_within_a_few_ulp(name, monkeypatch):
    shapes = [(200, 300), (7000,), ()]
    ops = {node.op for node in flow(PROGRAMS[name]).nodes}
    allowed = 4 if ops & {"sin", "cos", "tan", "arcsin", "arccos", "arctan", "exp", "log", "tanh"} else 2
    first = new(name, parameters(shapes=shapes), **LOOP)
    run(first, gradients(3, shapes))
    start, at = saved(first), [p.detach().clone() for p in of(first)]
    made = []
    for way in (LOOP, FUSED):
        optimizer = new(name, [nn.Parameter(p.clone()) for p in at], **way)
        optimizer.load_state_dict(copy.deepcopy(start))
        for group in optimizer.param_groups:
            group.update(way)
        made.append(optimizer)
    loop = run(made[0], gradients(1, shapes, seed=5))
    with fused_alone(name, monkeypatch):
        fused = run(made[1], gradients(1, shapes, seed=5))
    lr, flips = made[0].param_groups[0]["lr"], 0
    for before, x, y in zip(at, loop, fused, strict=True):
        flipped = (x - y).abs() > 0.5 * lr if "sign" in ops else torch.zeros_like(x, dtype=torch.bool)
        flips += int(flipped.sum())
        # where weight and update nearly cancel, the spacing is that of what was subtracted
        coarse = (x - y).abs() <= allowed * torch.finfo(torch.float32).eps / 2 * (before.abs() + (before - x).abs())
        assert (coarse | flipped | (ulps(x, y) <= allowed)).all()
    assert flips <= 2
    for p, q in zip(of(made[0]), of(made[1]), strict=True):
        for key, value in made[0].state[p].items():
            torch.testing.assert_close(made[1].state[q][key], value, rtol=1e-6, atol=1e-9)


@each
def test_the_number_of_threads_changes_no_bit(name):
    shapes = [(300, 301), (3, 70000), (9,)]
    before, ends = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            ends.append(run(new(name, parameters(shapes=shapes), **FUSED), gradients(2, shapes)))
    finally:
        torch.set_num_threads(before)
    assert same(*ends)


@each
def test_counts_of_steps_may_live_on_the_device(name):
    """With capturable, nothing is read back from the device; here the device is the CPU."""
    for way in (LOOP, FOREACH):
        ours = run(new(name, parameters(), capturable=True, **way), gradients(5))
        for x, y in zip(ours, run(new(name, parameters(), **way), gradients(5)), strict=True):
            torch.testing.assert_close(x, y)


@each
@ways
def test_parameters_that_miss_steps_count_for_themselves(name, way):
    """Each parameter goes as it would alone, unless the rule itself joins them."""
    steps = gradients(8)
    for number, step in enumerate(steps):
        for place in range(len(step)):
            if (number + place) % 3 == 0:
                step[place] = None
    together = run(new(name, parameters(), **WAYS[way]), steps)
    if sums_over_parameters(name):
        loop = run(new(name, parameters(), **LOOP), steps)
        for x, y in zip(together, loop, strict=True):
            torch.testing.assert_close(x, y)
        return
    for place, x in enumerate(together):
        alone = run(new(name, [parameters()[place]], **WAYS[way]), [[step[place]] for step in steps])
        torch.testing.assert_close(x, alone[0])


# --- what it computes ---------------------------------------------------------------------------------------


def adamw_bf16(way: dict, ours: bool) -> list[torch.Tensor]:
    cls = INFOS["adamw"].optim_cls if ours else torch.optim.AdamW
    shapes = [(64, 32), (500,)]
    return run(cls(parameters(torch.bfloat16, shapes), lr=1e-2, **way), gradients(100, shapes))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_exported_adamw_is_torch_s(way, dtype):
    kwargs = {"lr": 3e-3, "betas": (0.85, 0.97), "eps": 1e-7, "weight_decay": 0.05}
    ours = run(INFOS["adamw"].optim_cls(parameters(dtype), **kwargs, **WAYS[way]), gradients(100))
    theirs = run(torch.optim.AdamW(parameters(dtype), **kwargs), gradients(100))
    tight = {"rtol": 1e-12, "atol": 1e-13} if dtype == torch.float64 else {"rtol": 3e-6, "atol": 3e-6}
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, y, **tight)


@pytest.mark.parametrize("way", WAYS)
def test_exported_adamw_in_bfloat16_is_as_near_as_torch_s_ways_are(way):
    def distance(xs: list[torch.Tensor], ys: list[torch.Tensor]) -> float:
        return sum(float((x.double() - y.double()).square().sum()) for x, y in zip(xs, ys, strict=True)) ** 0.5

    ours, fused, loop = adamw_bf16(WAYS[way], True), adamw_bf16(FUSED, False), adamw_bf16(LOOP, False)
    assert distance(fused, loop) > 0
    assert distance(ours, fused) <= distance(fused, loop)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_exported_lion_is_lion(way, dtype):
    lr, b1, b2, decay = 2e-3, 0.95, 0.98, 0.1
    ours = run(new("lion", parameters(dtype), lr=lr, betas=(b1, b2), weight_decay=decay, **WAYS[way]), gradients(100))
    theirs = [p.detach().clone() for p in parameters(dtype)]
    averages = [torch.zeros_like(p) for p in theirs]
    for step in gradients(100):
        for p, m, g in zip(theirs, averages, step, strict=True):
            g = g.to(dtype)
            p.mul_(1 - lr * decay).sub_(lr * torch.sign(b1 * m + (1 - b1) * g))
            m.mul_(b2).add_((1 - b2) * g)
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, y)


def problem(dtype: torch.dtype = torch.float32) -> tuple[list[nn.Parameter], Callable[[], torch.Tensor]]:
    """A linear layer whose output shall vanish: parameters, and the loss."""
    weight, bias = parameters(dtype, [(10, 5), (10,)])
    x = parameters(dtype, [(5,)], seed=3)[0].detach()
    return [weight, bias], lambda: (weight.mv(x) + bias).pow(2).sum()


def descend(optimizer: torch.optim.Optimizer, loss: Callable[[], torch.Tensor], scheduler=None) -> None:
    for _ in range(20):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        if isinstance(scheduler, schedules.ReduceLROnPlateau):
            scheduler.step(value.item())
        elif scheduler is not None:
            scheduler.step()


@each
@ways
def test_it_goes_in_the_right_direction(name, way):
    for given in INFOS[name].optim_inputs_func("cpu"):
        params, loss = problem()
        before, sign = loss().item(), -1 if given.kwargs.get("maximize") else 1
        descend(new(name, params, **given.kwargs, **WAYS[way]), lambda loss=loss, sign=sign: sign * loss())
        assert loss().item() < before, given.desc


@each
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("lr", [0.003, torch.tensor(0.003)], ids=["number", "tensor"])
def test_it_goes_in_the_right_direction_with_schedulers(name, scheduler, lr):
    params, loss = problem()
    before = loss().item()
    optimizer = new(name, params, lr=copied(lr))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The epoch parameter")  # SequentialLR's own
        descend(optimizer, loss, SCHEDULERS[scheduler](optimizer))
    assert loss().item() < before


@each
@ways
def test_maximize_climbs_and_leaves_gradients_alone(name, way):
    down = run(new(name, parameters(), **WAYS[way]), gradients(5))
    climber = new(name, parameters(), maximize=True, **WAYS[way])
    up = run(climber, [[-g for g in step] for step in gradients(5)])
    for x, y in zip(up, down, strict=True):
        torch.testing.assert_close(x, y)
    assert same([p.grad for p in of(climber)], [-g.float() for g in gradients(5)[-1]])


@each
@ways
def test_gradients_are_never_changed(name, way):
    ps = parameters()
    optimizer = new(name, ps, **WAYS[way])
    for step in gradients(3):
        given = [g.float() for g in step]
        for p, g in zip(ps, given, strict=True):
            p.grad = g
        optimizer.step()
        assert all(p.grad is g for p, g in zip(ps, given, strict=True))
        assert same(given, [g.float() for g in step])
        assert [g._version for g in given] == [0] * len(given)


# --- the learning rate --------------------------------------------------------------------------------------


@each
@pytest.mark.parametrize("way", ["loop", "fused", "default"])
@pytest.mark.parametrize("shape", [(), (1,)], ids=["0-dim", "1-dim"])
def test_the_learning_rate_may_be_a_tensor(name, way, shape):
    rate = torch.full(shape, 3e-3)
    ours = run(new(name, parameters(), lr=rate, **WAYS[way]), gradients(5))
    for x, y in zip(ours, run(new(name, parameters(), lr=3e-3, **WAYS[way]), gradients(5)), strict=True):
        torch.testing.assert_close(x, y)
    assert torch.equal(rate, torch.full(shape, 3e-3))


@each
@pytest.mark.parametrize("way", ["loop", "fused", "default"])
def test_a_learning_rate_that_a_scheduler_fills_is_read_anew(name, way):
    numbers, tensors = new(name, parameters(), **WAYS[way]), new(name, parameters(), lr=torch.tensor(0.1), **WAYS[way])
    for rate, step in zip((3e-3, 1e-3, 0.1, 0.0), gradients(4), strict=True):
        numbers.param_groups[0]["lr"] = rate
        tensors.param_groups[0]["lr"].fill_(rate)
        for x, y in zip(run(tensors, [step]), run(numbers, [step]), strict=True):
            torch.testing.assert_close(x, y)


# --- arguments ----------------------------------------------------------------------------------------------


@each
def test_wrong_arguments_are_refused(name):
    info = INFOS[name]
    for given in info.optim_error_inputs_func("cpu", torch.float32):
        params, kwargs = given.optimizer_error_input.params, given.optimizer_error_input.kwargs
        params = [nn.Parameter(torch.randn(1, 1))] if params is None else params
        assert given.error_on is OptimizerErrorEnum.CONSTRUCTION_ERROR
        wrong = pytest.warns if issubclass(given.error_type, Warning) else pytest.raises
        with wrong(given.error_type, match=given.error_regex):
            info.optim_cls(params, **kwargs)


@each
@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"fused": True, "foreach": True}, "`fused` and `foreach` cannot be `True` together"),
        ({"fused": True, "differentiable": True}, "`fused` does not support `differentiable`"),
    ],
)
def test_flags_that_exclude_each_other_are_refused(name, flags, says):
    with pytest.raises(RuntimeError, match=says):
        new(name, parameters(), **flags)


@each
@pytest.mark.parametrize("typo", ["wieght_decay", "beta1", "foreahc"])
def test_unknown_arguments_are_refused_by_name(name, typo):
    with pytest.raises(TypeError, match=typo):
        new(name, parameters(), **{typo: 0.5})


@each
@ways
def test_sparse_gradients_are_refused_with_an_alternative(name, way):
    layer = nn.Embedding(4, 2, sparse=True)
    before = layer.weight.detach().clone()
    layer(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="sparse" if name == CONTROL else r"sparse gradients; use torch\.optim\.Spa"):
        new(name, layer.parameters(), **WAYS[way]).step()
    assert torch.equal(layer.weight, before)


# --- parameters and gradients of all kinds ------------------------------------------------------------------


@each
@ways
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=["complex64", "complex128"])
def test_complex_parameters_are_pairs_of_numbers(name, way, dtype):
    random = torch.Generator().manual_seed(2)
    steps = [[torch.randn(s, generator=random, dtype=dtype) for s in ((3, 2), (4,), ())] for _ in range(5)]
    z = [nn.Parameter(x) for x in steps.pop()]
    pairs = [nn.Parameter(torch.view_as_real(x.detach()).clone()) for x in z]
    ours = run(new(name, z, **WAYS[way]), steps)
    theirs = run(new(name, pairs, **WAYS[way]), [[torch.view_as_real(g) for g in step] for step in steps])
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(torch.view_as_real(x), y)


@each
@ways
def test_single_numbers_and_empty_parameters_step(name, way):
    shapes = [(), (0,), (1, 0, 3)]
    optimizer = new(name, parameters(shapes=shapes), **WAYS[way])
    before = of(optimizer)[0].item()
    after = run(optimizer, gradients(3, shapes))
    assert after[0].isfinite() and after[0].item() != before
    alone = run(new(name, parameters(shapes=shapes[:1]), **WAYS[way]), [step[:1] for step in gradients(3, shapes)])
    torch.testing.assert_close(after[0], alone[0])
    run(new(name, parameters(shapes=shapes[1:]), **WAYS[way]), [step[1:] for step in gradients(3, shapes)])


@each
@ways
def test_parameters_without_gradient_stay_and_get_no_state(name, way):
    ps = parameters()
    optimizer = new(name, ps, **WAYS[way])
    optimizer.step()  # no parameter has one yet
    assert not optimizer.state and optimizer.state_dict()["state"] == {}
    ps[1].requires_grad_(False)
    before = [p.detach().clone() for p in ps]
    run(optimizer, [[g, None, None, None] for g, *_ in gradients(2)])
    assert not torch.equal(ps[0], before[0])
    assert same([p.detach() for p in ps[1:]], before[1:]) and list(optimizer.state) == [ps[0]]


@each
@ways
def test_a_step_of_nothing_makes_state_and_changes_no_bit(name, way):
    """Distributed checkpointing makes state by a step with zero gradients and lr = 0."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        optimizer = new(name, parameters(dtype), lr=0.0, **WAYS[way])
        after = run(optimizer, [[torch.zeros(s) for s in SHAPES]])
        assert same(after, [p.detach() for p in parameters(dtype)])
        assert set(optimizer.state) == set(of(optimizer)) and all(optimizer.state.values())


def shaped(x: torch.Tensor, how: str) -> torch.Tensor:
    """The same numbers, lying otherwise in memory."""
    if how == "channels last":
        return x.contiguous(memory_format=torch.channels_last)
    if how == "transposed":
        return x.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0)
    if how == "every other":
        wide = torch.zeros(*x.shape[:-1], 2 * x.shape[-1], dtype=x.dtype)[..., ::2]
        return wide.copy_(x)
    return x.contiguous()


@each
@ways
def test_the_memory_order_of_parameters_and_gradients_does_not_matter(name, way):
    shapes = [(2, 3, 4, 5), (3, 2, 2, 1)]
    plain = run(new(name, parameters(shapes=shapes), **WAYS[way]), gradients(3, shapes))
    orders = ("contiguous", "channels last", "transposed", "every other")
    for weight, grad in itertools.product(orders, orders[::2] + orders[1:2]):
        ps = [nn.Parameter(shaped(p.detach(), weight)) for p in parameters(shapes=shapes)]
        strides = [p.stride() for p in ps]
        steps = [[shaped(g, grad) for g in step] for step in gradients(3, shapes)]
        other = run(new(name, ps, **WAYS[way]), steps)
        assert [p.stride() for p in ps] == strides
        for x, y in zip(other, plain, strict=True):
            torch.testing.assert_close(x, y, msg=lambda text, case=(weight, grad): f"{case}: {text}")


@each
@ways
@pytest.mark.parametrize("kind", ["expanded", "negated view", "conjugate view"])
def test_gradients_may_be_views(name, way, kind):
    random = torch.Generator().manual_seed(2)
    for seed in range(2):
        if kind == "expanded":
            p = parameters(shapes=[(4, 3)], seed=seed)[0]
            g = torch.randn(3, generator=random).expand(4, 3)
        elif kind == "negated view":
            p = parameters(shapes=[(3,)], seed=seed)[0]
            g = torch._neg_view(torch.randn(3, generator=random))
        else:
            p = nn.Parameter(torch.randn(3, generator=random, dtype=torch.complex64))
            g = torch.randn(3, generator=random, dtype=torch.complex64).conj()
        plain = nn.Parameter(p.detach().clone())
        p.grad, plain.grad = g, g.clone().resolve_neg().resolve_conj().contiguous()
        new(name, [p], **WAYS[way]).step()
        new(name, [plain], **WAYS[way]).step()
        torch.testing.assert_close(p, plain)


@each
@ways
def test_parameters_that_share_memory_with_themselves_are_refused(name, way):
    row = torch.ones(3)
    p = nn.Parameter(row.expand(4, 3))
    p.grad = torch.ones(4, 3)
    with pytest.raises(RuntimeError, match="more than one element of the written-to tensor"):
        new(name, [p], **WAYS[way]).step()
    assert torch.equal(row, torch.ones(3))


@each
@ways
def test_gradients_may_have_gradients_themselves(name, way):
    ps = parameters()
    optimizer = new(name, ps, **WAYS[way])
    for p in ps:
        p.grad = p * p  # as backward(create_graph=True) leaves them
    optimizer.step()
    expected = run(new(name, parameters(), **WAYS[way]), [[p.detach().square() for p in parameters()]])
    assert same([p.detach() for p in ps], expected)
    assert not any(x.requires_grad for state in optimizer.state.values() for x in state.values())


@each
@ways
def test_gradients_may_be_wider_than_their_parameter(name, way):
    """As `grad_dtype` of a parameter allows; the gradient is not rounded before it is used."""
    p, wide = nn.Parameter(torch.ones(50, dtype=torch.bfloat16)), nn.Parameter(torch.ones(50))
    p.grad_dtype = torch.float32
    p.grad = wide.grad = gradients(1, [(50,)])[0][0].float()
    new(name, [p], state_dtype=torch.float32, lr=0.1, **WAYS[way]).step()
    new(name, [wide], lr=0.1, **WAYS[way]).step()
    torch.testing.assert_close(p, wide.bfloat16())


@each
@ways
def test_mixed_precisions_step_in_one_group(name, way):
    """As if each precision had a group of its own."""
    shapes = [(4, 3), (5,), (6,), (2, 2), (3,)]
    dtypes = [torch.float32, torch.bfloat16, torch.float64, torch.float32, torch.bfloat16]
    made = [nn.Parameter(p.detach().to(d)) for p, d in zip(parameters(shapes=shapes), dtypes, strict=True)]
    together = run(new(name, made, **WAYS[way]), gradients(4, shapes))
    for dtype in set(dtypes):
        own = [i for i, d in enumerate(dtypes) if d == dtype]
        ps = [nn.Parameter(parameters(shapes=shapes)[i].detach().to(dtype)) for i in own]
        alone = run(new(name, ps, **WAYS[way]), [[step[i] for i in own] for step in gradients(4, shapes)])
        assert same([together[i] for i in own], alone)


@each
def test_groups_have_their_own_settings_and_flags(name):
    """As if each group had an optimizer of its own."""
    settings: list[dict] = [{}, {"lr": 0.02, "foreach": True}, {"lr": 0.05, "maximize": True, "fused": True}]
    settings[1]["betas"] = (0.7, 0.9)
    if "weight_decay" in INFOS[name].optim_cls([nn.Parameter(torch.ones(1))], **extra(name)).defaults:
        settings[2]["weight_decay"] = 0.3
    shapes = [(4, 3), (5,), (3, 3), (2,), (6,), ()]
    pairs = [slice(2 * i, 2 * i + 2) for i in range(3)]
    groups = [{"params": parameters(shapes=shapes)[pair]} | own for pair, own in zip(pairs, settings, strict=True)]
    together = run(new(name, groups), gradients(5, shapes))
    for pair, own in zip(pairs, settings, strict=True):
        alone = run(new(name, parameters(shapes=shapes)[pair], **own), [step[pair] for step in gradients(5, shapes)])
        assert same(together[pair], alone)


def extra(name: str) -> dict:
    """What a class cannot be made without."""
    return INFOS[name].optim_inputs_func("cpu")[0].kwargs


# --- state --------------------------------------------------------------------------------------------------


@each
@ways
def test_a_state_dict_goes_on_exactly(name, way):
    """Through a file that `torch.load` reads with weights_only=True."""
    optimizer = new(name, parameters(), lr=torch.tensor(3e-3) if way == "loop" else 3e-3, **WAYS[way])
    middle = run(optimizer, gradients(3))
    other = new(name, [nn.Parameter(p) for p in middle])
    other.load_state_dict(saved(optimizer))
    assert same(run(other, gradients(5)[3:]), run(optimizer, gradients(5)[3:]))
    assert other.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]


@each
@ways
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=["float64", "bfloat16"])
def test_a_state_dict_loads_into_another_precision(name, way, dtype):
    optimizer = new(name, parameters(), **WAYS[way])
    middle = run(optimizer, gradients(3))
    other = new(name, [nn.Parameter(p.to(dtype)) for p in middle], **WAYS[way])
    other.load_state_dict(saved(optimizer))
    states = [(key, x) for state in other.state.values() for key, x in state.items() if x.dim()]
    assert states and all(x.dtype == dtype for _, x in states)
    near = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
    for x, y in zip(run(other, gradients(5)[3:]), run(optimizer, gradients(5)[3:]), strict=True):
        torch.testing.assert_close(x.double(), y.double(), **near)


@each
@ways
def test_states_keep_their_own_dtype_through_a_load(name, way):
    optimizer = new(name, parameters(torch.bfloat16), state_dtype=torch.float32, **WAYS[way])
    middle = run(optimizer, gradients(3))
    kept = saved(optimizer)
    other = new(name, [nn.Parameter(p) for p in middle], state_dtype=torch.float32)
    other.load_state_dict(kept)
    for p, index in zip(of(other), kept["state"], strict=True):
        for key, value in kept["state"][index].items():
            assert other.state[p][key].dtype == torch.float32 and torch.equal(other.state[p][key], value)
    assert same(run(other, gradients(5)[3:]), run(optimizer, gradients(5)[3:]))


@each
def test_counts_of_steps_load_from_plain_numbers(name):
    """Checkpoints that other tools rewrite hold them as numbers, or in another precision."""
    optimizer = new(name, parameters())
    middle = run(optimizer, gradients(3))
    kept = saved(optimizer)
    for place, state in enumerate(kept["state"].values()):
        if "step" in state:
            state["step"] = torch.tensor(3.0, dtype=torch.float64) if place % 2 or name == CONTROL else 3
    other = new(name, [nn.Parameter(p) for p in middle])
    other.load_state_dict(kept)
    for x, y in zip(run(other, gradients(5)[3:]), run(optimizer, gradients(5)[3:]), strict=True):
        torch.testing.assert_close(x, y)


@each
def test_named_parameters_keep_their_names(name):
    model = nn.Linear(3, 2)
    optimizer = new(name, model.named_parameters())
    kept = saved(optimizer)
    assert kept["param_groups"][0]["param_names"] == ["weight", "bias"]
    other = new(name, [(f"new.{key}", p) for key, p in nn.Linear(3, 2).named_parameters()])
    other.load_state_dict(kept)
    assert other.param_groups[0]["param_names"] == ["weight", "bias"]
    run(other, gradients(2, [(2, 3), (2,)]))
    with pytest.raises(ValueError, match="names"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda optimizer: pickle.loads(pickle.dumps(optimizer)),
    "torch.save": lambda optimizer: torch.load(_stored(optimizer), weights_only=False),
}


def _stored(optimizer: torch.optim.Optimizer) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(optimizer, file)
    file.seek(0)
    return file


@each
@ways
@pytest.mark.parametrize("how", COPIES)
def test_a_copy_goes_on_exactly(name, way, how):
    optimizer = new(name, parameters(), **WAYS[way])
    run(optimizer, gradients(3))
    copied = COPIES[how](optimizer)
    assert type(copied) is type(optimizer) and copied.defaults == optimizer.defaults
    middle = [p.detach().clone() for p in of(optimizer)]
    ahead = run(copied, gradients(5)[3:])
    assert same([p.detach() for p in of(optimizer)], middle)  # they share nothing
    assert same(ahead, run(optimizer, gradients(5)[3:]))


@each
def test_old_pickles_without_the_newer_flags_step(name):
    optimizer = new(name, parameters())
    run(optimizer, gradients(2))
    old = pickle.loads(pickle.dumps(optimizer.__getstate__()))
    flags = ["maximize", "foreach", "capturable", "differentiable", "fused", "state_dtype", "rounding"]
    for where in (old["defaults"], *old["param_groups"]):
        for flag in flags:
            where.pop(flag, None)
    revived = new(name, parameters())
    revived.__setstate__(old)
    assert same(run(revived, gradients(4)[2:]), run(optimizer, gradients(4)[2:]))


@each
@ways
def test_groups_can_be_added_between_steps(name, way):
    first, second = parameters()[:2], parameters()[2:]
    optimizer = new(name, first, **WAYS[way])
    run(optimizer, [step[:2] for step in gradients(3)])
    optimizer.add_param_group({"params": second, "lr": 0.02})
    together = run(optimizer, gradients(6)[3:])
    alone = new(name, parameters()[:2], **WAYS[way])
    later = new(name, parameters()[2:], lr=0.02, **WAYS[way])
    expected = run(alone, [step[:2] for step in gradients(6)]) + run(later, [step[2:] for step in gradients(6)[3:]])
    assert same(together, expected)
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": first[:1]})


@each
def test_gradients_are_cleared_on_request(name):
    ps = parameters()
    optimizer = new(name, ps)
    run(optimizer, gradients(1))
    optimizer.zero_grad(set_to_none=False)
    assert all(p.grad is not None and not p.grad.any() for p in ps)
    optimizer.zero_grad()
    assert all(p.grad is None for p in ps)


@each
@ways
def test_a_closure_runs_with_gradients_and_its_loss_comes_back(name, way):
    params, loss = problem()
    optimizer, seen = new(name, params, **WAYS[way]), []

    def closure():
        seen.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    before = loss().item()
    with torch.no_grad():
        assert optimizer.step(closure).item() == before
    assert seen == [True] and loss().item() < before
    assert optimizer.step() is None


# --- hooks --------------------------------------------------------------------------------------------------


@each
@ways
def test_hooks_of_a_step_run_around_it(name, way):
    ps = parameters()
    optimizer, seen = new(name, ps, **WAYS[way]), []
    before = ps[0].detach().clone()
    pre = optimizer.register_step_pre_hook(lambda opt, args, kwargs: seen.append(torch.equal(ps[0], before)))
    post = optimizer.register_step_post_hook(lambda opt, args, kwargs: seen.append(torch.equal(ps[0], before)))
    run(optimizer, gradients(1))
    assert seen == [True, False]
    pre.remove()
    post.remove()
    run(optimizer, gradients(1))
    assert len(seen) == 2


@each
def test_hooks_of_state_dicts_run_around_them(name):
    optimizer, seen = new(name, parameters()), []
    run(optimizer, gradients(2))
    optimizer.register_state_dict_pre_hook(lambda opt: seen.append("pre"))
    optimizer.register_state_dict_post_hook(lambda opt, state: seen.append("post") or {**state, "note": 1})
    assert optimizer.state_dict()["note"] == 1 and seen == ["pre", "post"]


@each
def test_hooks_of_a_load_run_around_it(name):
    """A hook before it may give other states; a hook after it has the last word."""
    dtype = {} if name == CONTROL else {"state_dtype": torch.float32}
    optimizer, other = (new(name, parameters(torch.bfloat16), **dtype) for _ in range(2))
    run(optimizer, gradients(2))
    kept, seen = saved(optimizer), []

    def before(opt, given):
        changed = copy.deepcopy(given)
        for state in changed["state"].values():
            state.update({key: x + 1 for key, x in state.items() if key != "step"})
        return changed

    def after(opt):
        for state in opt.state.values():
            seen.extend(x.clone() for key, x in state.items() if key != "step")
            state.update({key: x.double().fill_(7) for key, x in state.items() if key != "step"})

    other.register_load_state_dict_pre_hook(before)
    other.register_load_state_dict_post_hook(after)
    other.load_state_dict(kept)
    given = [x for state in kept["state"].values() for key, x in state.items() if key != "step"]
    for x, y in zip(seen, given, strict=True):
        assert x.dtype == y.dtype  # what the hook after it sees is what stays
        torch.testing.assert_close(x, y + 1)
    states = [x for state in other.state.values() for key, x in state.items() if key != "step"]
    assert all(x.dtype == torch.float64 and (x == 7).all() for x in states)


# --- autograd -----------------------------------------------------------------------------------------------


@each
@ways
def test_autograd_sees_that_weights_and_states_changed(name, way):
    ps = parameters()
    optimizer = new(name, ps, **WAYS[way])
    run(optimizer, gradients(1))
    states = [x for p in ps for key, x in optimizer.state[p].items() if key != "step"]
    versions = [x._version for x in [*ps, *states]]
    value = sum((p * p).sum() for p in ps)  # keeps the weights for its gradient
    run(optimizer, gradients(1))
    assert all(x._version > before for x, before in zip([*ps, *states], versions, strict=True))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


@each
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("way", ["loop", "foreach"])
def test_gradients_flow_through_steps(name, way):
    random = torch.Generator().manual_seed(6)
    w, first, second = (torch.randn(2, 2, generator=random, dtype=torch.float64) for _ in range(3))

    def stepped(w, first, second):
        p = w.clone()
        optimizer = new(name, [p], lr=0.05, differentiable=True, foreach=way == "foreach")
        for g in (first, second):
            p.grad = g
            optimizer.step()
        return p, *(x for key, x in optimizer.state[p].items() if key != "step")

    assert torch.autograd.gradcheck(stepped, [x.requires_grad_() for x in (w, first, second)])
    moved = torch.autograd.grad(stepped(w, first, second)[0].sum(), w)[0]
    assert moved.isfinite().all() and moved.any()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_gradients_flow_through_steps_that_use_weights_and_states_twice():
    rule = Program.parse(
        "def f(w, g, m, v, lr=0.1):\n"
        " m = interp(square(g) * v + g, m * m, 0.9)\n"
        " return lr * square(w) * m, m, v + w * g"
    )
    w, g = (torch.randn(3, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in (1, 2))

    def stepped(w, g, lr):
        p = w.clone()
        optimizer = torch_class(rule)([p], lr=lr, differentiable=True)
        for factor in (1, 2, 3):
            p.grad = factor * g
            optimizer.step()
        return p

    lr = torch.tensor(0.1, dtype=torch.float64)
    assert torch.autograd.gradcheck(stepped, [x.requires_grad_() for x in (w, g, lr)])


# --- mixed precision ----------------------------------------------------------------------------------------


def scaled_run(name: str, way: dict, *, scale: float, unscale: bool, bad: int) -> tuple[list[torch.Tensor], list]:
    """Steps through a GradScaler; those in which it finds an infinity are skipped."""
    ps, scales = parameters(), []
    optimizer = new(name, ps, **way)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=scale > 0)
    for number, step in enumerate(gradients(5)):
        optimizer.zero_grad()
        factors = [g.float() for g in step]
        if number == bad:
            if not scaler.is_enabled():
                continue
            factors[0] = factors[0] * float("inf")
        scaler.scale(sum((p * f).sum() for p, f in zip(ps, factors, strict=True))).backward()
        if unscale:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    return [p.detach().clone() for p in ps], scales


@each
@ways
@pytest.mark.parametrize("unscale", [False, True], ids=["scaled", "unscaled before"])
def test_a_grad_scaler_scales_and_skips(name, way, unscale):
    plain, _ = scaled_run(name, WAYS[way], scale=0, unscale=False, bad=2)
    ours, scales = scaled_run(name, WAYS[way], scale=1024.0, unscale=unscale, bad=2)
    assert scales == [1024, 1024, 512, 512, 512]
    for x, y in zip(ours, plain, strict=True):
        torch.testing.assert_close(x, y)


@each
@ways
def test_a_scale_and_a_found_infinity_may_be_attributes(name, way):
    plain, optimizer = new(name, parameters(), **WAYS[way]), new(name, parameters(), **WAYS[way])
    expected = run(plain, gradients(2))
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(8.0), torch.tensor(0.0)
    scaled = [[8 * g for g in step] for step in gradients(2)]
    run(optimizer, scaled[:1])
    optimizer.found_inf = torch.tensor(1.0)
    middle = [p.detach().clone() for p in of(optimizer)]
    states = copy.deepcopy(optimizer.state_dict()["state"])
    assert same(run(optimizer, [[g * float("inf") for g in scaled[0]]]), middle)
    for index, state in optimizer.state_dict()["state"].items():
        assert all(torch.equal(x, states[index][key]) for key, x in state.items())
    optimizer.found_inf = torch.tensor(0.0)
    for x, y in zip(run(optimizer, scaled[1:]), expected, strict=True):
        torch.testing.assert_close(x, y)


# --- bfloat16 weights ---------------------------------------------------------------------------------------


def ones(count: int, dtype: torch.dtype = torch.bfloat16) -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(count, dtype=dtype))]


@each
@pytest.mark.parametrize("way", ["loop", "fused"])
def test_stochastic_rounding_keeps_the_mean(name, way):
    count, step = 20000, [[torch.ones(20000)]]
    wide = run(new(name, ones(count, torch.float32), lr=1e-4), step)[0]

    def drawn(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        optimizer = new(name, ones(count), lr=1e-4, rounding="stochastic", state_dtype=torch.float32, **WAYS[way])
        return run(optimizer, step)[0]

    with torch.random.fork_rng():
        first, again, other = drawn(1), drawn(1), drawn(2)
    low = wide[0].bfloat16() if wide[0].bfloat16() < wide[0] else torch.tensor(1 - 2**-8, dtype=torch.bfloat16)
    gap = 2.0**-8  # of bfloat16 below 1
    share = (wide[0].item() - low.item()) / gap
    assert 0 < share < 1 and set(first.tolist()) == {low.item(), low.item() + gap}
    spread = gap * (share * (1 - share) / count) ** 0.5
    assert abs(first.double().mean().item() - wide[0].item()) < 5 * spread
    assert torch.equal(first, again) and not torch.equal(first, other)


@each
@pytest.mark.parametrize("way", ["loop", "fused"])
def test_kahan_rounding_loses_no_small_update(name, way):
    steps = [[torch.ones(20)]] * (1000 if way == "fused" else 300)
    wide = run(new(name, ones(20, torch.float32), lr=1e-4, **WAYS[way]), steps)[0]
    kept = new(name, ones(20), lr=1e-4, rounding="kahan", state_dtype=torch.float32, **WAYS[way])
    nearest = run(new(name, ones(20), lr=1e-4, state_dtype=torch.float32, **WAYS[way]), steps)[0]
    assert (1 - wide > 1e-5 * len(steps)).all() and (nearest == 1).all()
    torch.testing.assert_close(run(kept, steps)[0].float(), wide, rtol=0, atol=2.0**-7)


@each
@pytest.mark.parametrize("way", ["loop", "fused"])
def test_kahan_checkpoints_load_into_float32(name, way):
    optimizer = new(name, parameters(torch.bfloat16), rounding="kahan", **WAYS[way])
    middle = run(optimizer, gradients(3))
    wide = new(name, [nn.Parameter(p.float()) for p in middle], **WAYS[way])
    wide.load_state_dict(saved(optimizer))
    plain = new(name, [nn.Parameter(p.float()) for p in middle], **LOOP)
    plain.load_state_dict(saved(optimizer))
    plain.param_groups[0].update(LOOP)
    for x, y in zip(run(wide, gradients(5)[3:]), run(plain, gradients(5)[3:]), strict=True):
        torch.testing.assert_close(x, y)
    counts = [state["step"] for state in wide.state.values() if "step" in state]
    assert all(count == 5 for count in counts)


# --- compiled by torch --------------------------------------------------------------------------------------

FEW = [(4, 3), (5,)]  # because a compiled step is written out tensor by tensor


@pytest.fixture
def counter():
    """A compiler that runs what it is given as it is, and counts."""
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    yield CompileCounter()
    torch._dynamo.reset()


def compiled_run(optimizer: torch.optim.Optimizer, steps: list, backend, rates: list | None = None) -> list:
    @torch.compile(backend=backend)
    def step():
        optimizer.step()

    built = []
    for number, grads in enumerate(steps):
        for p, g in zip(of(optimizer), grads, strict=True):
            p.grad = None if g is None else g.to(p.dtype)
        rate = rates[number] if rates else None
        if isinstance(optimizer.param_groups[0]["lr"], torch.Tensor):
            optimizer.param_groups[0]["lr"].fill_(rate)
        elif rate is not None:
            optimizer.param_groups[0]["lr"] = rate
        step()
        built.append(getattr(backend, "frame_count", 0))
    return built


@each
@pytest.mark.parametrize("lr", [3e-3, torch.tensor(3e-3)], ids=["number", "tensor"])
def test_torch_compile_gives_the_same_and_builds_once(name, lr, counter):
    """New learning rates build nothing, but for the first change of a number, which torch meets with a variable."""
    rates = [3e-3, 2e-3, 1e-3, 5e-4, 1e-4]
    optimizer, plain = new(name, parameters(shapes=FEW), lr=copied(lr)), new(name, parameters(shapes=FEW), **LOOP)
    built = compiled_run(optimizer, gradients(5, FEW), counter, rates)
    for rate, step in zip(rates, gradients(5, FEW), strict=True):
        plain.param_groups[0]["lr"] = rate
        run(plain, [step])
    for x, y in zip(of(optimizer), of(plain), strict=True):
        torch.testing.assert_close(x, y)
    first = 1 if isinstance(lr, torch.Tensor) else 2
    assert built[0] >= 1 and built[first:] == [built[-1]] * (5 - first)


@each
def test_torch_compile_counts_the_steps_of_each_parameter(name, counter):
    steps = gradients(4, FEW)
    steps[1][0] = steps[2][1] = None
    optimizer = new(name, parameters(shapes=FEW))
    compiled_run(optimizer, steps, counter)
    for x, y in zip(of(optimizer), run(new(name, parameters(shapes=FEW), **LOOP), steps), strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.slow
@each
def test_inductor_gives_the_same(name, counter):
    optimizer = new(name, parameters(), lr=3e-3)
    compiled_run(optimizer, gradients(4), "inductor")
    for x, y in zip(of(optimizer), run(new(name, parameters(), lr=3e-3, **LOOP), gradients(4)), strict=True):
        torch.testing.assert_close(x, y)


# --- distributed --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mesh():
    """A group of this process alone."""
    if not torch.distributed.is_available():
        pytest.skip("torch was built without torch.distributed")
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield torch.distributed.init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def model() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def train(net: nn.Module, optimizer: torch.optim.Optimizer, seeds: Iterable[int]) -> None:
    for seed in seeds:
        x = torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        net(x).square().sum().backward()
        optimizer.step()


@each
@ways
def test_it_steps_sharded_parameters(name, way, mesh):
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    whole, sharded = model(), model()
    fully_shard(sharded[0], mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    plain, optimizer = new(name, whole.parameters(), **LOOP), new(name, sharded.parameters(), **WAYS[way])
    train(whole, plain, range(3))
    train(sharded, optimizer, range(3))
    for p, q in zip(sharded.parameters(), whole.parameters(), strict=True):
        assert isinstance(p, DTensor)
        torch.testing.assert_close(p.full_tensor(), q)
        assert all(isinstance(x, DTensor) for key, x in optimizer.state[p].items() if key != "step")


@each
@pytest.mark.parametrize("way", ["loop", "fused"])
def test_autograd_sees_that_sharded_weights_changed(name, way, mesh):
    from torch.distributed.tensor import Shard, distribute_tensor

    p = nn.Parameter(distribute_tensor(torch.ones(4, 3), mesh, [Shard(0)]))
    optimizer = new(name, [p], **WAYS[way])
    value = (p * p).sum()
    p.grad = distribute_tensor(torch.ones(4, 3), mesh, [Shard(0)])
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


@each
@pytest.mark.parametrize("flat", [False, True], ids=["nested", "flat"])
@pytest.mark.parametrize("shard", [False, True], ids=["whole", "sharded"])
def test_distributed_checkpoints_go_on_exactly(name, flat, shard, mesh):
    from torch.distributed.checkpoint import state_dict as checkpoints
    from torch.distributed.fsdp import fully_shard

    options = checkpoints.StateDictOptions(flatten_optimizer_state_dict=flat)
    nets = [model(), model()]
    for net in nets:
        if shard:
            fully_shard(net, mesh=mesh)
    optimizers = [new(name, net.parameters()) for net in nets]
    train(nets[0], optimizers[0], range(3))
    kept = copy.deepcopy(checkpoints.get_optimizer_state_dict(nets[0], optimizers[0], options=options))
    weights = copy.deepcopy(checkpoints.get_model_state_dict(nets[0]))
    checkpoints.set_model_state_dict(nets[1], weights)
    checkpoints.set_optimizer_state_dict(nets[1], optimizers[1], kept, options=options)
    for net, optimizer in zip(nets, optimizers, strict=True):
        train(net, optimizer, range(3, 6))
    for p, q in zip(*(net.parameters() for net in nets), strict=True):
        assert torch.equal(getattr(p, "full_tensor", lambda p=p: p)(), getattr(q, "full_tensor", lambda q=q: q)())


@each
def test_asking_for_a_distributed_checkpoint_changes_no_weight(name):
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    net = model()
    optimizer = new(name, net.parameters())
    kept = get_optimizer_state_dict(net, optimizer)
    assert set(kept["state"]) == {key for key, _ in net.named_parameters()}
    assert same(net.parameters(), model().parameters())


# --- without a C compiler -----------------------------------------------------------------------------------

_SCRIPT = """
import importlib, json, sys, warnings
import torch
sys.path.insert(0, sys.argv[1])
found = {}
for name, more in json.loads(sys.argv[2]).items():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ends = []
        for way in ({}, {"foreach": True}, {"fused": True}):
            p = torch.nn.Parameter(torch.linspace(-1, 1, 50))
            optimizer = importlib.import_module(name).Exported([p], **more, **way)
            for _ in range(3):
                p.grad = p.detach().cos()
                optimizer.step()
            ends.append(p.tolist())
    found[name] = {"ends": ends, "says": [str(w.message) for w in caught]}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def without_compiler(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("files")
    for name, program in PROGRAMS.items():
        (folder / f"{name}.py").write_text(export_torch(program, "Exported"), encoding="utf-8")
    command = [sys.executable, "-c", _SCRIPT, str(folder), json.dumps({name: extra(name) for name in OURS})]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, env=os.environ | {"CC": "/nonexistent"})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@each
def test_a_step_without_a_compiler_is_not_fused_and_says_so(name, request):
    found = request.getfixturevalue("without_compiler")[name]
    assert found["ends"][0] == found["ends"][1] == found["ends"][2]
    assert len(found["says"]) == 1
    assert "steps are not fused" in found["says"][0] and "/nonexistent" in found["says"][0]


# --- on GPUs ------------------------------------------------------------------------------------------------

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@cuda
@each
@ways
def test_a_gpu_gives_the_same_numbers(name, way):
    there = [nn.Parameter(p.detach().cuda()) for p in parameters()]
    ours = run(new(name, there, **WAYS[way]), [[g.cuda() for g in step] for step in gradients(5)])
    for x, y in zip(ours, run(new(name, parameters(), **LOOP), gradients(5)), strict=True):
        torch.testing.assert_close(x.cpu(), y)


@pytest.mark.gpu
@cuda
@each
@ways
def test_parameters_may_lie_on_several_devices(name, way):
    ps = parameters()
    mixed = [nn.Parameter(p.detach().to("cuda" if i % 2 else "cpu")) for i, p in enumerate(ps)]
    ours = run(new(name, mixed, **WAYS[way]), [[g.to(p.device) for g, p in zip(step, mixed, strict=True)]
                                               for step in gradients(5)])  # fmt: skip
    for place in (0, 1):
        alone = run(new(name, ps[place::2], **LOOP), [step[place::2] for step in gradients(5)])
        for x, y in zip(ours[place::2], alone, strict=True):
            torch.testing.assert_close(x.cpu(), y)


@pytest.mark.gpu
@cuda
@each
def test_a_cuda_graph_holds_a_step(name):
    there = [nn.Parameter(p.detach().cuda()) for p in parameters()]
    optimizer = new(name, there, lr=torch.tensor(3e-3, device="cuda"), capturable=True)
    for p, g in zip(there, gradients(1)[0], strict=True):
        p.grad = g.float().cuda()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        optimizer.step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    for _ in range(3):
        graph.replay()
    expected = run(new(name, parameters(), lr=3e-3, **LOOP), gradients(1) * 4)
    for x, y in zip(there, expected, strict=True):
        torch.testing.assert_close(x.detach().cpu(), y)


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_kernels_are_the_default_where_there_are_any_and_nothing_else_is_asked_for(device):
    """Without a GPU: what a step would take there, and where it would count."""
    usual = {"fused": None, "foreach": None, "differentiable": False, "capturable": False}
    place, p = torch.device(device), SimpleNamespace(device=torch.device(device))
    rule, bare = SimpleNamespace(kernel_triton="a kernel"), SimpleNamespace(kernel_triton="")
    assert _wants_fused(usual, place) == (device != "mps")
    assert _place_of_count(rule, usual, p).type == ("cuda" if device == "cuda" else "cpu")
    assert _place_of_count(bare, usual, p).type == "cpu"
    for asked in ({"foreach": True}, {"foreach": False}, {"differentiable": True}, {"fused": False}):
        assert not _wants_fused(usual | asked, place)
        assert _place_of_count(rule, usual | asked, p).type == "cpu"
    assert _wants_fused(usual | {"fused": True}, place)
