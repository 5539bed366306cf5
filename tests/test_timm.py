"""timm makes exported optimizers by name."""

import importlib.util
import sys
from dataclasses import dataclass
from types import ModuleType

import pytest
import torch

from stepsmith.discovered import load, register_timm, torch_class
from stepsmith.dsl import ProgramError
from stepsmith.search.programs import load_any


@pytest.fixture
def factory(monkeypatch):
    """timm's module of optimizers, alone where the rest of timm finds no torchvision that fits torch."""
    spec = importlib.util.find_spec("timm")
    if spec is None:
        pytest.skip("timm is not installed")
    try:
        import timm  # noqa: F401
    except (ImportError, RuntimeError):  # torchvision is absent, or built for another torch
        package, models = ModuleType("timm"), ModuleType("timm.models")
        package.__path__ = list(spec.submodule_search_locations)
        models.group_parameters = None  # for decay by layers alone
        monkeypatch.setitem(sys.modules, "timm", package)
        monkeypatch.setitem(sys.modules, "timm.models", models)
    from timm.optim import _optim_factory

    return _optim_factory


@dataclass(frozen=True)
class OptimInfo:
    """The fields of timm's own, which the other tests compare with it."""

    name: str
    opt_class: type
    description: str = ""
    has_eps: bool = True
    has_momentum: bool = False
    has_betas: bool = False
    num_betas: int = 2
    second_order: bool = False
    defaults: dict | None = None


def test_without_timm_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        ImportError, match="register_timm needs timm and a torchvision that fits torch: pip install timm"
    ):
        register_timm("lion")


@pytest.fixture
def registered(monkeypatch):
    """What is registered, where timm need not be installed."""
    seen = []
    module = ModuleType("timm.optim._optim_factory")
    module.OptimInfo = OptimInfo
    module.default_registry = type("Registry", (), {"register": staticmethod(seen.append)})
    monkeypatch.setitem(sys.modules, "timm", ModuleType("timm"))
    monkeypatch.setitem(sys.modules, "timm.optim", ModuleType("timm.optim"))
    monkeypatch.setitem(sys.modules, "timm.optim._optim_factory", module)
    return seen


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("c_lion", {"has_betas": True, "num_betas": 2, "has_eps": False, "has_momentum": False}),
        ("nadamw", {"has_betas": True, "num_betas": 2, "has_eps": True, "has_momentum": False}),
        ("sgd_sai", {"has_betas": False, "has_eps": True, "has_momentum": True}),
        ("decoupled_decay(sgd)", {"has_betas": False, "has_eps": False, "has_momentum": False}),
    ],
)
def test_what_a_class_takes_is_said(program, expected, registered):
    program = load_any(program)
    name = register_timm(program)
    (info,) = registered
    assert {field: getattr(info, field) for field in expected} == expected
    assert info.opt_class is torch_class(program)
    assert info.name == name == "stepsmith-" + program.name.replace("_", "-")
    assert info.description and info.description in program.doc
    assert not info.second_order and not info.defaults


def test_a_rule_without_weight_decay_is_refused_with_an_alternative(registered):
    with pytest.raises(ProgramError, match=r"register decoupled_decay\(momentum\)"):
        register_timm("momentum")
    assert register_timm(load_any("decoupled_decay(momentum)")) == "stepsmith-decoupled-decay-momentum"


def test_the_fields_are_timm_s(factory):
    assert factory.OptimInfo.__annotations__.keys() == OptimInfo.__annotations__.keys()


@pytest.mark.parametrize("program", ["c_lion", "nadamw", "sgd_sai", "decoupled_decay(sgd)"])
@pytest.mark.filterwarnings("ignore:steps are not fused")
def test_timm_makes_it_by_name(program, factory):
    program = load_any(program)
    before = factory.list_optimizers()
    name = register_timm(program)
    assert set(factory.list_optimizers()) == {*before, name}
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = factory.create_optimizer_v2(model, name, lr=0.01, weight_decay=0.1, betas=(0.8, 0.9), eps=1e-7)
    assert type(optimizer) is torch_class(program)
    decays = {p: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays == {model.weight: 0.1, model.bias: 0.0}
    assert all(group["lr"] == 0.01 for group in optimizer.param_groups)
    assert all(group.get("betas", (0.8, 0.9)) == (0.8, 0.9) for group in optimizer.param_groups)
    model(torch.ones(1, 3)).sum().backward()
    weight = model.weight.detach().clone()
    optimizer.step()
    assert (model.weight != weight).all()


def test_the_length_of_the_run_is_given_by_name(factory):
    name = register_timm(load("stable_spam"))
    optimizer = factory.create_optimizer_v2([torch.nn.Parameter(torch.ones(2))], name, total_steps=7)
    assert optimizer.param_groups[0]["total_steps"] == 7


def test_timm_s_own_are_left_alone(factory):
    """An underscore would lead to them: timm reads what follows the last."""
    register_timm("c_lion")
    own = factory.create_optimizer_v2([torch.nn.Parameter(torch.ones(2))], "c_lion")
    assert type(own).__module__ == "timm.optim.lion"
