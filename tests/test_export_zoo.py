"""Every catalogued rule exports to torch and follows its meaning: roles, matrices, codecs, draws, estimates."""

from __future__ import annotations

import copy
import inspect
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from stepsmith.discovered import entries, export_torch, load, torch_class
from stepsmith.dsl import Program
from stepsmith.dsl.draws import noise, projection
from stepsmith.dsl.interpret import Interpreter
from stepsmith.dsl.program import RESERVED
from stepsmith.dsl.roles import role_groups
from stepsmith.dsl.schedules import multipliers

sys.path.append(str(Path(__file__).parent))

from test_zoo_adaptive import oracles
from test_zoo_matrix import program_of as shortened

SHAPES = [(6, 4), (3, 7), (5,), (8, 3), (4, 2, 3), (), (7, 5), (6, 4)]
#: Bases of nearly square matrices are unique, see test_zoo_matrix.
NEARLY_SQUARE = [(6, 5), (6, 7), (5,), (8, 7), (5, 2, 3), (), (5, 6), (6, 5)]
ROLES = ["matrix", "matrix", "vector", "embedding", "matrix", "vector", "head", "matrix"]
STEPS, SEED = 50, 3
RULES = [e.name for e in entries() if not e.program.schedule]
BY_ROLE = [name for name in RULES if load(name).fallback is not None]
TINY = "def tiny(w, g, m: int8(8), v: uint8(8), lr=0.1):\n m = interp(g, m, 0.9)\n v = interp(g * g, v, 0.99)\n" \
       " return lr * m / (sqrt(v) + 1e-3), m, v"  # fmt: skip
OWN = {
    "tiny": TINY,
    "low_rank": "def low(w, g, m: low_rank(2), lr=0.1) for matrix else tail:\n m = interp(g, m, 0.9)\n"
    " return lr * m, m\ndef tail(w, g, lr=0.2):\n return lr * sign(g)",
    "seen_as_matrices": "def seen(w, g, m, n: scalar, r: [fan_out, 1], lr=0.1) for matrix, embedding, head else tail:\n"
    " m = interp(g, m, 0.5)\n n = n + rms(m)\n r = interp(mean(square(g), fan_in), r, 0.9)\n"
    " return lr * (m / sqrt(r) + n * w), m, n, r\ndef tail(w, g, lr=0.2):\n return lr * sign(g)",
    "noisy": "def noisy(w, g, m, noise, lr=0.1):\n m = interp(g + 0.1 * noise, m, 0.9)\n return lr * m, m",
    "numbers_first": "def first(w, g, n: scalar, b: global, m, lr=0.1):\n"
    " return lr * (m + n + b), n + rms(g), b + 1, interp(g, m, 0.9)",
}


def program_of(name: str) -> Program:
    return Program.parse(OWN[name]) if name in OWN else shortened(name)


def weights(dtype: torch.dtype = torch.float64, shapes: list[tuple[int, ...]] = SHAPES) -> list[nn.Parameter]:
    random = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(s, generator=random, dtype=torch.float64).to(dtype)) for s in shapes]


def gradients(step: int, params: list) -> list[np.ndarray]:
    random = np.random.default_rng(step)
    return [np.asarray(random.standard_normal(p.shape)) for p in params]


def groups(params: list[nn.Parameter]) -> list[dict]:
    return [{"params": [p], "role": role} for p, role in zip(params, ROLES, strict=True)]


def made(program: Program, params: list[nn.Parameter], given: list | None = None, **more) -> torch.optim.Optimizer:
    """The exported class on these, with numpy's draws in place of torch's."""
    cls = torch_class(program, "Exported")
    more |= {"total_steps": STEPS} if "total_steps" in inspect.signature(cls).parameters else {}
    by_role = program.fallback is not None
    optimizer = cls(given or (groups(params) if by_role else params), **more)
    place = {p: i for i, p in enumerate(params)}

    def drawn(group, what, step, p, shape):
        index = place[p]
        return torch.as_tensor(
            {
                "noise": lambda: noise(SEED, step + 1, index, tuple(shape)),
                "projection": lambda: projection(SEED, step, index, tuple(shape)),
            }[what]()
        ).to(p)

    if hasattr(cls, "_drawn"):
        optimizer._drawn = drawn
    return optimizer


def follow(optimizer: torch.optim.Optimizer, program: Program, params: list[nn.Parameter], steps: range) -> None:
    """Steps on the gradients, and the estimates, of these counts."""
    wanted = {name for part in program.parts() for name in names_of_estimates(part)}
    for t in steps:
        for p, g in zip(params, gradients(t, params), strict=True):
            p.grad = torch.as_tensor(g).to(p)
        given = oracles(t, [p.detach().numpy() for p in params])
        more = {n: dict(zip(params, map(torch.as_tensor, given[n]), strict=True))
                for n in wanted - {"two_point"} if n in given}  # fmt: skip
        losses = iter((2e-3 * given["two_point"], 0.0))
        args = [lambda losses=losses: torch.tensor(next(losses), dtype=torch.float64)] if "two_point" in wanted else []
        optimizer.step(*args, **more)


def names_of_estimates(part: Program) -> list[str]:
    return [RESERVED[slot] for slot, _ in part.periods]


def meaning(
    program: Program, w: list[np.ndarray], steps: int, which: list[int] | None = None
) -> list[list[np.ndarray]]:
    """The weights after each step, by numpy; of some parameters, as if there were no others."""
    found = []
    which = list(range(len(w))) if which is None else which
    roles = [ROLES[i] for i in which]
    runner = Interpreter(program, [w[i].shape for i in which], roles=roles, seed=SEED)
    whole = w
    w = [w[i] for i in which]
    for t in range(1, steps + 1):
        g = gradients(t, whole)
        update = runner.step(w, [g[i] for i in which], 1.0, t, t / STEPS, oracles(t, w))
        w = [x - u for x, u in zip(w, update, strict=True)]
        found.append(w)
    return found


def by_group(optimizer: torch.optim.Optimizer, program: Program, w: list[np.ndarray]) -> list[list[np.ndarray]]:
    """What a class does to parameters that are each a group where the rule is routed: what is summed over all
    parameters is, in a class, over those of a group.
    """
    found = meaning(program, w, STEPS)
    for i, owner in enumerate(program.assign(ROLES)):
        if program.fallback is not None and optimizer._rules[owner].gathers:
            for step, [alone] in zip(found, meaning(program, w, STEPS, [i]), strict=True):
                step[i] = alone
    return found


@pytest.mark.parametrize("name", [*RULES, *OWN])
def test_every_rule_follows_its_meaning(name):
    program, params = program_of(name), weights(shapes=NEARLY_SQUARE if name == "soap" else SHAPES)
    optimizer = made(program, params)
    for t, expected in enumerate(by_group(optimizer, program, [p.detach().numpy().copy() for p in params]), 1):
        follow(optimizer, program, params, range(t, t + 1))
        for p, x in zip(params, expected, strict=True):
            assert np.abs(p.detach().numpy() - x).max() <= 1e-7 * max(1.0, np.abs(x).max()), (t, p.shape)


@pytest.mark.parametrize("how", ["copy", "pickle", "state"])
@pytest.mark.parametrize("name", [*BY_ROLE, *OWN, "adam8bit", "adahessian", "onebit_adam"])
def test_a_copy_goes_on_exactly(name, how):
    program, params = program_of(name), weights(torch.float32)
    optimizer = made(program, params)
    follow(optimizer, program, params, range(1, 4))
    clones = [nn.Parameter(p.detach().clone()) for p in params]
    if how == "state":
        other = made(program, clones)
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    else:
        given = vars(optimizer).pop("_drawn", None)
        other = copy.deepcopy(optimizer) if how == "copy" else pickle.loads(pickle.dumps(optimizer))
        if given is not None:
            optimizer._drawn = given
        clones = [p for group in other.param_groups for p in group["params"]]
        if hasattr(type(other), "_drawn"):
            other._drawn = lambda group, what, step, p, shape: given(group, what, step, params[place[p]], shape)
            place = {p: i for i, p in enumerate(clones)}
    follow(optimizer, program, params, range(4, 8))
    follow(other, program, clones, range(4, 8))
    assert all(torch.equal(p, q) for p, q in zip(params, clones, strict=True))


@pytest.mark.parametrize("name", [*RULES, *OWN])
def test_ways_of_a_step_agree(name):
    program, found = program_of(name), []
    for way in ({}, {"foreach": True}, {"foreach": False}):
        params = weights()
        optimizer = made(program, params, **way)
        follow(optimizer, program, params, range(1, 4))
        found.append(params)
    for one in found[1:]:
        assert all(torch.allclose(p, q, rtol=1e-9, atol=1e-12) for p, q in zip(found[0], one, strict=True))


@pytest.mark.parametrize("name", ["lion", "c_adamw", "muon"])
def test_a_file_without_kernels_compiles_nothing_and_steps_alike(name):
    program, scope = load(name), {"__name__": "plain"}
    text = export_torch(program, "Exported", kernels=False)
    assert len(text) < 0.6 * len(export_torch(program, "Exported"))
    assert not any(word in text for word in ("subprocess", "ctypes", "triton.jit", "exec("))
    exec(compile(text, "plain", "exec"), scope)
    params, others = weights(), weights()
    follow(scope["Exported"](params), program, params, range(1, 4))
    follow(torch_class(program)(others), program, others, range(1, 4))
    assert all(torch.allclose(p, q, rtol=1e-9, atol=1e-12) for p, q in zip(params, others, strict=True))


@pytest.mark.parametrize("name", [e.name for e in entries() if e.program.schedule])
def test_a_schedule_steers_any_optimizer(name):
    program = load(name)
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.5)
    scheduler, rates = program.torch()(optimizer, STEPS), []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx(list(0.5 * multipliers(program, np.arange(1, STEPS + 1) / STEPS)))
    with pytest.raises(ValueError, match="total_steps must be at least 1, not 0"):
        program.torch()(optimizer, 0)


@pytest.mark.parametrize("name", ["step", "min", "float", "dtype", "_divide", "x"])
def test_hyperparameters_of_a_schedule_may_have_the_names_of_what_its_file_uses(name):
    text = f"def line(progress, {name}=0.25):\n return where(progress < {name}, 1, 1 - progress * {name})"
    program = Program.parse(text)
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=1.0)
    scheduler = program.torch()(optimizer, 4)
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == multipliers(program, np.array([0.5]))[0] == 0.875


# --- roles --------------------------------------------------------------------------------------------------


def test_groups_are_split_by_role_and_keep_their_own_numbers():
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9))
    muon = torch_class(load("muon"))
    by_shape = muon(model.parameters(), lr=0.04)
    assert [(g["role"], len(g["params"]), g["lr"]) for g in by_shape.param_groups] == [
        ("matrix", 3, 0.04), ("vector", 2, 0.002)]  # fmt: skip
    assert {"beta"} == {*by_shape.param_groups[0]} - {*by_shape.param_groups[1]}
    assert {"betas", "eps"} == {*by_shape.param_groups[1]} - {*by_shape.param_groups[0]}
    known = muon(role_groups(model), adamw_lr=1e-4, adamw_betas=(0.8, 0.9))
    assert [(g["role"], g["lr"], g["param_names"]) for g in known.param_groups] == [
        ("embedding", 1e-4, ["0.weight"]), ("matrix", 0.02, ["1.weight"]),
        ("vector", 1e-4, ["1.bias", "2.bias"]), ("head", 1e-4, ["2.weight"])]  # fmt: skip
    assert known.param_groups[0]["betas"] == (0.8, 0.9)


def test_what_a_group_says_holds_for_all_its_parameters():
    params = weights()
    group = {"params": params, "weight_decay": 0.0, "lr": 0.5, "adamw_eps": 1e-3}
    optimizer = torch_class(load("muon"))([group])
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.5, 0.0), (0.025, 0.0)]
    assert optimizer.param_groups[1]["eps"] == 1e-3
    resumed = torch_class(load("muon"))([{"params": params, "lr": 0.01, "initial_lr": 0.02}])
    assert [(g["lr"], g["initial_lr"]) for g in resumed.param_groups] == [(0.01, 0.02), (0.0005, 0.001)]
    optimizer = torch_class(load("muon"))(params[:1])
    optimizer.add_param_group({"params": params[2:]})
    assert [g["role"] for g in optimizer.param_groups] == ["matrix", "vector", "matrix"]


def test_schedulers_keep_the_ratio_of_the_rates():
    optimizer = torch_class(load("muon"))(weights())
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    optimizer.step()
    scheduler.step()
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.01, 0.0005])


def test_matrices_step_as_torch_s_muon():
    params, others = ([nn.Parameter(torch.randn(s, generator=torch.Generator().manual_seed(1)))
                       for s in ((8, 4), (4, 8), (8, 4))] for _ in range(2))  # fmt: skip
    ours = torch_class(load("muon"))(params, lr=0.02, weight_decay=0.1)
    theirs = torch.optim.Muon(others, lr=0.02, weight_decay=0.1, momentum=0.95)
    for t in range(5):
        for p, q in zip(params, others, strict=True):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(t))
            q.grad = p.grad.clone()
        ours.step()
        theirs.step()
    for p, q in zip(params, others, strict=True):  # torch iterates in bfloat16
        assert (p - q).abs().max() < 0.05 * 5 * 0.02 * 2**0.5


@pytest.mark.parametrize(
    ("wrong", "says"),
    [({"role": "matirx"}, "role must be one of matrix, vector, embedding, head, not 'matirx'"),
     ({"role": "matrix"}, r"parameter 2 has shape \(5,\): no rows and columns, so its role is vector, not matrix"),
     ({"params": {1}}, "optimizer parameters need to be organized in ordered collections"),
     ({"params": [1]}, "only optimize Tensors")],
)  # fmt: skip
def test_wrong_groups_are_refused(wrong, says):
    with pytest.raises((ValueError, TypeError), match=says):
        torch_class(load("muon"))([{"params": weights(), **wrong}])


def test_arguments_of_the_fallback_are_checked():
    for wrong, says in (({"adamw_lr": -1.0}, "adamw_lr must be at least 0"), ({"adamw_betas": (1.0, 0.9)}, "adamw_bet"),
                        ({"lr": -1.0}, "lr must be at least 0"), ({"adamw_eta": 1}, "adamw_eta")):  # fmt: skip
        with pytest.raises((ValueError, TypeError), match=says):
            torch_class(load("muon"))(weights(), **wrong)


# --- codecs -------------------------------------------------------------------------------------------------


def test_states_are_kept_in_8_bits():
    p = nn.Parameter(torch.randn(100, 100))
    optimizer = torch_class(load("adam8bit"))([p])
    p.grad = torch.randn_like(p)
    optimizer.step()
    state = optimizer.state[p]
    assert (state["m"].dtype, state["m"].shape) == (torch.uint8, p.shape)
    assert state["m_scale"].shape == (40,)
    kept = sum(x.numel() * x.element_size() for x in state.values())
    assert kept < 2.1 * p.numel()
    other = torch_class(load("adam8bit"))([nn.Parameter(p.detach().clone())])
    other.load_state_dict(optimizer.state_dict())
    loaded = next(iter(other.state.values()))
    assert all(loaded[key].dtype == value.dtype and torch.equal(loaded[key], value) for key, value in state.items())


def test_a_bfloat16_state_is_right_on_average():
    p = nn.Parameter(torch.zeros(20000))
    optimizer = torch_class(Program.parse("def f(w, g, m: bf16, lr=1.0):\n m = m + g\n return lr * 0 * m, m"))([p])
    p.grad = torch.full_like(p, 1 + 2**-9)  # a quarter of the way between two bfloat16 numbers
    optimizer.step()
    m = optimizer.state[p]["m"]
    assert m.dtype == torch.bfloat16
    assert set(m.float().unique().tolist()) == {1.0, 1 + 2**-7}
    assert abs(m.double().mean().item() - (1 + 2**-9)) < 4 * 2**-7 * (3 / 16 / 20000) ** 0.5


# --- draws and estimates ------------------------------------------------------------------------------------


def curved(*params: torch.Tensor) -> torch.Tensor:
    """A loss whose second derivative along each element of the i-th parameter is i + 1 and nothing else."""
    return sum(0.5 * (i + 1) * (p * p.conj()).real.sum() for i, p in enumerate(params))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128, torch.bfloat16])
def test_a_curvature_is_worked_out_where_the_graph_is_there(dtype):
    params = [nn.Parameter(torch.ones(2, 2, dtype=dtype)) for _ in range(3)]
    linear = nn.Parameter(torch.ones(3, dtype=torch.float64))  # its gradient is constant
    optimizer = torch_class(load("adahessian"))([*params, linear], lr=0.1)
    (curved(*params) + linear.sum()).backward(create_graph=True)
    optimizer.step()
    for i, p in enumerate(params):
        v = optimizer.state[p]["v"] / (1 - 0.999)
        assert torch.allclose(v.double(), torch.tensor((i + 1.0) ** 2, dtype=torch.float64), rtol=1e-2)
        assert torch.allclose(torch.view_as_real(p)[..., 0] if p.is_complex() else p, torch.full(
            (2, 2), 0.9, dtype=torch.float64 if p.is_complex() else dtype), rtol=1e-2)  # fmt: skip
    assert not optimizer.state[linear]["v"].any()


def test_a_curvature_is_unscaled_with_the_gradients_or_refused():
    w = nn.Parameter(torch.ones(3))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch_class(load("adahessian"))([w])
    scaler.scale(curved(w)).backward(create_graph=True)
    scaler.step(optimizer)
    scaler.update()
    assert torch.allclose(optimizer.state[w]["v"] / (1 - 0.999), torch.ones(3), rtol=1e-3)
    optimizer.zero_grad()
    scaler.scale(curved(w)).backward(create_graph=True)
    scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="leaves the graph behind the gradients scaled"):
        scaler.step(optimizer)


def test_an_estimate_that_is_due_must_be_there():
    p = nn.Parameter(torch.ones(3, 3))
    sophia = torch_class(load("sophia"))([p])
    assert sophia.due() == ["gauss_newton"]  # before there are gradients, so that one knows what to work out
    for name, says in (("adahessian", "Adahessian reads hutchinson at this step: call backward"),
                       ("sophia", r"Sophia reads gauss_newton at this step: give step\(gauss_newton=")):  # fmt: skip
        p.grad = torch.ones(3, 3)
        optimizer = torch_class(load(name))([p])
        with pytest.raises(RuntimeError, match=says):
            optimizer.step()
        assert (p == 1).all()
    with pytest.raises(TypeError, match="gauss_newton must be a dict from parameter to tensor, not a list"):
        sophia.step(gauss_newton=[torch.ones(3, 3)])
    for wrong, says in (({}, r"gauss_newton has nothing for parameter 0, of shape \(3, 3\)"),
                        ({p: torch.ones(3)}, r"gauss_newton has shape \(3,\) for a parameter of")):  # fmt: skip
        with pytest.raises(ValueError, match=says):
            sophia.step(gauss_newton=wrong)
    sophia.step(gauss_newton={p: torch.ones(3, 3)})
    assert sophia.due() == []
    sophia.step()
    with pytest.raises(TypeError, match="unexpected keyword argument 'guass_newton'"):
        sophia.step(guass_newton={})


def test_losses_at_two_points_come_from_the_closure():
    torch.manual_seed(0)
    w, target = nn.Parameter(torch.zeros(4, 4)), torch.randn(4, 4)
    optimizer = torch_class(load("mezo"))([w], lr=0.02)

    def closure() -> torch.Tensor:
        assert not torch.is_grad_enabled()
        return ((w - target) ** 2).sum()

    first = optimizer.step(closure)
    for _ in range(300):
        last = optimizer.step(closure)
    assert last < 0.1 * first
    w.grad = torch.ones(4, 4)
    with pytest.raises(RuntimeError, match=r"reads differences of losses: call step\(closure\)"):
        optimizer.step()
    with pytest.raises(RuntimeError, match="the closure must return the loss, not None"):
        optimizer.step(lambda: None)


def test_how_far_apart_losses_are_read_stands_in_the_group_and_in_checkpoints():
    def read_at(optimizer: torch.optim.Optimizer) -> float:
        [w], seen = optimizer.param_groups[0]["params"], []
        before = w.detach().clone()
        optimizer.step(lambda: seen.append(w.detach().clone()) or (w**3).sum())
        return float((seen[0] - before).norm())

    def made(**given) -> torch.optim.Optimizer:
        return torch_class(load("mezo"))([nn.Parameter(torch.ones(3, dtype=torch.float64))], **given)

    kept = made(perturbation=0.5)
    loaded = made()
    loaded.load_state_dict(kept.state_dict())
    assert read_at(kept) == read_at(loaded) == pytest.approx(500 * read_at(made()))
    for wrong, says in (({"perturbation": 0.0}, "perturbation must be above 0, not 0.0"),
                        ({"seed": "x"}, "seed must be a whole number, not 'x'")):  # fmt: skip
        with pytest.raises(ValueError, match=says):
            kept.add_param_group({"params": [nn.Parameter(torch.ones(2))], **wrong})
    kept.add_param_group({"params": [nn.Parameter(torch.ones(2))], "perturbation": 0.1})
    with pytest.raises(ValueError, match=r"groups have perturbations 0\.1 and 0\.5, and two losses are read for all"):
        kept.step(lambda: torch.zeros(()))


def test_a_closure_that_fails_leaves_the_weights():
    w = nn.Parameter(torch.ones(3))
    optimizer = torch_class(load("mezo"))([w])
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: 1 / 0)
    assert (w == 1).all()


def test_draws_depend_on_seed_and_step_alone():
    program = Program.parse(OWN["noisy"])

    def trained(seed: int, again: bool = False) -> torch.Tensor:
        p = nn.Parameter(torch.zeros(5))
        optimizer = torch_class(program)([p], seed=seed)
        for _ in range(4):
            p.grad = torch.ones(5)
            optimizer.step()
            if again:
                state = copy.deepcopy(optimizer.state_dict())
                optimizer = torch_class(program)([p], seed=seed)
                optimizer.load_state_dict(state)
        return p.detach()

    assert torch.equal(trained(1), trained(1, again=True))
    assert not torch.equal(trained(1), trained(2))


def test_parameters_alike_draw_differently_and_compiled_steps_the_same():
    program = Program.parse(OWN["noisy"])

    def trained(compiled: bool) -> list[torch.Tensor]:
        params = [nn.Parameter(torch.zeros(6, 4)) for _ in range(2)]
        optimizer = torch_class(program)(params)
        step = torch.compile(optimizer.step, backend="eager") if compiled else optimizer.step
        for _ in range(2):
            for p in params:
                p.grad = torch.ones(6, 4)
            step()
        return [p.detach() for p in params]

    one, other = trained(False), trained(True)
    assert not torch.equal(one[0], one[1])
    assert all(torch.equal(x, y) for x, y in zip(one, other, strict=True))


@pytest.mark.parametrize("name", ["mezo", "soap", "conda", "galore", "fira", "root", "onebit_adam"])
def test_steps_that_the_host_decides_cannot_be_captured(name):
    made = torch_class(load(name))
    with pytest.raises(RuntimeError, match=f"{made.__name__} does not support `capturable`: "):
        made(weights(), capturable=True)
    with pytest.raises(RuntimeError, match="does not support `capturable`"):
        made(weights()).add_param_group({"params": [nn.Parameter(torch.ones(2, 2))], "capturable": True})


def test_a_kernel_captures_what_torch_s_functions_do_not():
    made = torch_class(load("sgd_sai"))
    made(weights(), capturable=True)
    with pytest.raises(RuntimeError, match="SGDSai does not support `capturable`"):
        made(weights(), capturable=True, foreach=True)


def test_a_class_without_kernels_does_not_pass_for_fused():
    plain: dict = {"__name__": "plain"}
    exec(export_torch(load("adamw"), kernels=False), plain)
    for made in (torch_class(load("onebit_adam")), plain["AdamW"]):
        with pytest.raises(RuntimeError, match=f"{made.__name__} does not support `fused`: it has no kernels"):
            made(weights(), fused=True)
    torch_class(load("muon"))(weights(), fused=True)  # the kernels are those of its vectors


# --- the contract, where rules do more ------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*RULES, *OWN])
def test_a_step_of_nothing_changes_nothing(name):
    """Distributed checkpointing makes states by one, without estimates or a closure."""
    program, params = program_of(name), weights()
    optimizer = made(program, params)
    before = [p.detach().clone() for p in params]
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(0.0)
    for p in params:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True))
    assert len(optimizer.state) == len(params)


@pytest.mark.parametrize("name", ["muon", "adam8bit", "apollo", "adafactor", "soap", "onebit_adam"])
def test_a_grad_scaler_skips_what_is_not_finite(name):
    program, params = load(name), weights(torch.float32)
    optimizer = made(program, params)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    other = made(program, twins)
    for t in range(1, 5):
        for p, q, g in zip(params, twins, gradients(t, params), strict=True):
            scaler.scale(torch.ones(()))
            p.grad = torch.as_tensor(g, dtype=torch.float32) * scaler.get_scale()
            q.grad = torch.as_tensor(g, dtype=torch.float32)
        if t == 2:
            params[0].grad[0, 0] = torch.inf
        else:
            other.step()
        scaler.step(optimizer)
        scaler.update()
    assert all(torch.equal(p, q) for p, q in zip(params, twins, strict=True))


def test_a_number_for_all_outlives_steps_that_some_miss():
    program = Program.parse("def f(w, g, b: global, lr=1.0):\n return lr * g * b, b + 1")
    for way in ({}, {"foreach": True}, {"foreach": False}):
        params = [nn.Parameter(torch.ones(2)) for _ in range(2)]
        optimizer = torch_class(program)(params, **way)
        for stepped in ((1,), (1,), (0, 1), (0,), (0, 1)):
            for i, p in enumerate(params):
                p.grad = torch.ones(2) if i in stepped else None
            optimizer.step()
        assert [optimizer.state[p]["b"].item() for p in params] == [5, 5], way


def test_groups_that_do_not_fit_are_refused_whole():
    muon, params = torch_class(load("muon")), weights()
    optimizer = muon(params[:3])
    with pytest.raises(ValueError, match="some parameters appear in more than one"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2, 2)), params[2]]})
    assert [g["role"] for g in optimizer.param_groups] == ["matrix", "vector"]
    optimizer.add_param_group({"params": []})
    assert optimizer.param_groups[-1]["role"] == "matrix"
    both = muon([{"params": params, "lr": 0.02, "adamw_lr": 3e-4}])
    assert [g["lr"] for g in both.param_groups] == [0.02, 3e-4]
    rate = torch.tensor(0.5)
    first, second = muon([{"params": params, "lr": rate}]).param_groups
    second["lr"].fill_(0.1)
    assert (first["lr"].item(), rate.item()) == (0.5, 0.5)
    with pytest.raises(ValueError, match=r"betas must be 2 numbers in \[0, 1\), not \(2, 3\)"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "betas": (2, 3)})
    for wrong, says in (({"lr": -1.0}, "lr must be at least 0"), ({"rounding": "kahn"}, "rounding must be one of"),
                        ({"lr": "x"}, "lr must be a number, not 'x'"), ({"betas": 0.9}, "betas must be 2 numbers"),
                        ({"betas": (0.9,)}, "betas must be 2 numbers")):  # fmt: skip
        lion = torch_class(load("lion"))(params[:1])
        with pytest.raises(ValueError, match=says):
            lion.add_param_group({"params": params[1:], **wrong})
        assert len(lion.param_groups) == 1
    with pytest.raises(ValueError, match=r"beta must be in \[0, 1\), not 1.5"):
        muon(params, beta=1.5)
    with pytest.raises(TypeError, match="role_groups takes a module, not a generator"):
        role_groups(nn.Linear(2, 2).parameters())
    conjugate = nn.Parameter(torch.ones(2, dtype=torch.complex64).conj())
    with pytest.raises(ValueError, match="conjugate or negative view"):
        torch_class(load("lion"))([conjugate])


def test_checkpoints_of_other_roles_and_of_older_files():
    params = weights()[:3]
    saved = torch_class(load("muon"))(params).state_dict()
    other = torch_class(load("muon"))([{"params": params[2]}, {"params": params[:2]}])
    with pytest.raises(ValueError, match="loaded state dict has role 'matrix' for group 0, which is of role 'vector'"):
        other.load_state_dict(saved)
    foreign, lion = torch.optim.AdamW(params), torch_class(load("lion"))(params)
    for p in params:
        p.grad = torch.ones_like(p)
    foreign.step()
    with pytest.raises(ValueError, match="loaded state of parameter 0 has step, exp_avg, exp_avg_sq and no m: it is"):
        lion.load_state_dict(foreign.state_dict())
    assert lion.param_groups[0]["lr"] == load("lion").peak
    for name, lacks in (("muon", "role"), ("apollo", "seed"), ("muon", "eps"), ("lion", "rounding")):
        optimizer = torch_class(load(name))(params)
        wanted = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
        saved = optimizer.state_dict()
        for group in saved["param_groups"]:
            group.pop(lacks, None)
        optimizer.load_state_dict(saved)
        assert [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups] == wanted, lacks


def test_names_that_the_class_uses_otherwise(recwarn):
    lost = Program.parse("def f(w, g, lost, lr=0.1):\n lost = interp(g, lost, 0.9)\n return lr * lost, lost")
    p = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    optimizer = torch_class(lost)([p], rounding="kahan")
    p.grad = torch.ones_like(p)
    optimizer.step()
    assert {*optimizer.state[p]} == {"lost", "lost_"}
    assert not [w for w in recwarn if "not fused" in str(w.message)]
    scales = Program.parse("def f(w, g, m: int8(1), m_scale, lr=0.1):\n return lr * (m + m_scale), g, m_scale + g")
    q = nn.Parameter(torch.ones(4))
    optimizer = torch_class(scales)([q])
    q.grad = torch.ones(4)
    optimizer.step()
    assert optimizer.state[q]["m_scale_"].shape == (4,)
    flags = Program.parse("def f(w, g, lr=0.1, fused=2.0, rounding=3.0):\n return lr * (g * fused + rounding * w)")
    torch_class(flags)([q], fused_=1.0, rounding_=0.0)
    for name in ("os", "Path", "Rule", "RuleOptimizer"):
        with pytest.raises(ValueError, match=f"a class cannot be called '{name}'"):
            torch_class(load("muon"), name)
