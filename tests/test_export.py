"""An exported file is a whole torch optimizer: it needs torch alone and does what the program means."""

import ast
import copy
import importlib.util
import io
import itertools
import math
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from stepsmith.discovered import export_torch, load, names, torch_class
from stepsmith.discovered.arguments import name_constants, with_named_numbers
from stepsmith.dsl import Const, Program
from stepsmith.dsl.flow import flow, reject_reason
from stepsmith.dsl.interpret import Interpreter
from stepsmith.dsl.keys import key
from stepsmith.dsl.layout import WIDTH
from stepsmith.dsl.ops import ROWS
from stepsmith.dsl.passes import fusable
from stepsmith.dsl.program import PROGRESS
from stepsmith.search.mutate import Mutator
from stepsmith.search.statements import hypers_of

STEPS = 30
COUNTED = """# A state of every kind, and the share of the run.
def counted(w, g, m, n: scalar, peak: global, a: global, b: global, lr=0.01, progress):
  n = interp(rms(g), n, 0.9)
  peak = max(peak, global_norm(g))
  m = interp(clip(g, peak), m, 0.9)
  return lr * (1 - progress) * m / (n + 1e-3) + 1e-3 * lr * b, m, n, peak, b + 1, a
"""
SWAPPED = """def swapped(w, g, a, b, c, lr=0.01):
  u = lr * (a + 0.5 * b - 0.25 * c + g)
  return u, b, g, w
"""
#: Rules that act on all parameters alike, by the gradient alone; the others are in test_export_zoo.
EXPORTED = [name for name in names() if not load(name).schedule and fusable(load(name))]
OWN = {"counted": COUNTED, "swapped": SWAPPED, "state_back": "def f(w, g, m, lr=0.1):\n return m, lr * g"}


def program_of(name: str) -> Program:
    return Program.parse(OWN[name]) if name in OWN else load(name)


def extra(program: Program) -> dict[str, int]:
    return {"total_steps": STEPS} if flow(program).reads(PROGRESS) else {}


def parameters(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    random = torch.Generator().manual_seed(0)
    shapes = [(4, 3), (5,), (), (2, 2)]
    return [nn.Parameter(torch.randn(s, generator=random, dtype=torch.float64).to(dtype)) for s in shapes]


def gradients(count: int = STEPS) -> list[list[torch.Tensor]]:
    random = torch.Generator().manual_seed(1)
    like = parameters()
    steps = [[torch.randn(p.shape, generator=random, dtype=p.dtype) for p in like] for _ in range(count)]
    for step in steps:
        step[1][0] = 0.0
    return steps


def run(optimizer: torch.optim.Optimizer, steps: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    """Open-loop steps; the parameters afterwards."""
    ps = [p for group in optimizer.param_groups for p in group["params"]]
    for step in steps:
        for p, g in zip(ps, step, strict=True):
            p.grad = g.to(p.dtype)
        optimizer.step()
    return [p.detach().clone() for p in ps]


def same(xs: list[torch.Tensor], ys: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(xs, ys, strict=True))


# --- the file -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """A folder that holds an exported file for every catalogued rule, and nothing else."""
    folder = tmp_path_factory.mktemp("exported")
    for name in [*names(), *OWN]:
        (folder / f"{name}.py").write_text(export_torch(program_of(name), "Exported"), encoding="utf-8")
    return folder


def from_file(file: Path) -> type[torch.optim.Optimizer]:
    spec = importlib.util.spec_from_file_location(f"exported_{file.stem}", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Exported


def test_files_import_torch_alone(exported):
    for file in exported.iterdir():
        tree = ast.parse(file.read_text(encoding="utf-8"))
        found = {n.name for node in ast.walk(tree) if isinstance(node, ast.Import) for n in node.names}
        found |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert {name.partition(".")[0] for name in found} - sys.stdlib_module_names == {"torch"}


def test_files_work_where_stepsmith_is_not(exported):
    script = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "stepsmith":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
sys.path.insert(0, {str(exported)!r})
import importlib, inspect, torch
for name in {names()!r}:
    importlib.import_module(name).Exported
for name in {EXPORTED!r}:
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    rule = importlib.import_module(name).Exported
    rule([p], **({{"total_steps": 9}} if "total_steps" in inspect.signature(rule).parameters else {{}})).step()
    assert (p != 1).all(), name
assert not [m for m in sys.modules if m.partition(".")[0] == "stepsmith"]
"""
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_files_pass_the_linter(exported):
    ruff = [sys.executable, "-m", "ruff"]
    if subprocess.run([*ruff, "--version"], capture_output=True).returncode:
        pytest.skip("ruff is not installed")
    for command in (["check", "--select", "E4,E7,E9,F,W,I,UP"], ["format", "--check"]):
        options = ["--isolated", "--no-cache", "--line-length", str(WIDTH), str(exported)]
        done = subprocess.run([*ruff, *command, *options], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_a_file_says_what_it_is():
    text = export_torch(load("adamw_plain"))
    head = text[: text.index("from __future__")]
    assert all(line.startswith("#") for line in head.strip().splitlines())
    assert "# Source: Chen et al. 2023" in head
    assert "#         sqrt_v = sqrt(v)" in head
    assert "SPDX-License-Identifier: Apache-2.0" in head
    assert "# Arguments: lr=0.001, betas=(0.9, 0.999), weight_decay=0.01." in head
    assert "beta1 was 0.9" in head and "0.001, which the program spells out" in head


def test_no_comment_can_become_code():
    doc = 'A """ rule\rimport os\x0cimport sys\u2028import this \\'
    program = Program.parse("def f(w, g, lr):\n return lr * g")
    texts = [export_torch(Program(program.statements, program.returns, lr=0.1, doc=d, name="f")) for d in ("", doc)]
    plain, commented = ([ast.dump(node) for node in ast.parse(text).body] for text in texts)
    assert plain == commented


# --- its meaning --------------------------------------------------------------------------------------------


def loss_of(ws: list[torch.Tensor]) -> torch.Tensor:
    """A two-layer network on fixed data."""
    random = torch.Generator().manual_seed(3)
    x = torch.randn(16, 4, generator=random, dtype=torch.float64)
    y = torch.randn(16, generator=random, dtype=torch.float64)
    first, bias, scale, second = ws
    return ((torch.tanh(x @ first + bias) @ second * scale - y) ** 2).mean()


def small_model() -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(4)
    return [torch.randn(s, generator=random, dtype=torch.float64) for s in ((4, 3), (3,), (), (3,))]


@pytest.mark.filterwarnings("error:steps are not fused.*the C compiler .* failed")
@pytest.mark.parametrize("name", [*EXPORTED, *OWN])
def test_a_file_trains_as_the_program_means(name, exported):
    program = program_of(name)
    ps = [nn.Parameter(w) for w in small_model()]
    optimizer = from_file(exported / f"{name}.py")(ps, **extra(program))
    peak = optimizer.param_groups[0]["lr"]
    w = [p.detach().numpy().copy() for p in ps]
    runner = Interpreter(program, [x.shape for x in w])
    for t in range(1, STEPS + 1):
        schedule = 1 - t / 40
        inputs = [torch.from_numpy(np.array(x)).requires_grad_() for x in w]
        g = [x.numpy() for x in torch.autograd.grad(loss_of(inputs), inputs)]
        w = [x - u for x, u in zip(w, runner.step(w, g, schedule, t, t / STEPS), strict=True)]
        optimizer.param_groups[0]["lr"] = peak * schedule
        optimizer.zero_grad(set_to_none=t % 2 == 0)
        loss_of(ps).backward()
        optimizer.step()
    for x, p in zip(w, ps, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), x, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", [*EXPORTED, *OWN])
def test_the_live_class_is_the_file(name, exported):
    program = program_of(name)
    ours = run(torch_class(program, "Exported")(parameters(), **extra(program)), gradients())
    assert same(ours, run(from_file(exported / f"{name}.py")(parameters(), **extra(program)), gradients()))


def children(count: int) -> list[Program]:
    """Ends of chains of edits from AdamW and Lion, live ones alone."""
    mutators = [Mutator("lion45"), Mutator("elementwise")]
    found: list[Program] = []
    for index in itertools.count():
        random = np.random.default_rng(index)
        program = load(("adamw", "lion", "adamw_plain", "c_lion")[index % 4])
        for _ in range(int(random.integers(1, 16))):
            program, _ = mutators[index // 4 % 2].mutate(program, random)
        if reject_reason(flow(program)) is None:
            found.append(program)
            if len(found) == count:
                return found
    raise AssertionError


def trajectory(program: Program, disturb: Callable | None = None) -> list[np.ndarray]:
    w = [p.detach().numpy().copy() for p in parameters()]
    runner = Interpreter(program, [x.shape for x in w], disturb)
    with np.errstate(all="ignore"):
        for t, g in enumerate(gradients(), 1):
            update = runner.step(w, [y.numpy() for y in g], 1.0, t, t / STEPS)
            w = [x - u for x, u in zip(w, update, strict=True)]
    return w


def test_random_programs_export_as_they_mean():
    random, compared = np.random.default_rng(0), 0

    def disturb(value):
        if isinstance(value, list):
            return [x * (1 + 1e-14 * random.standard_normal(np.shape(x))) for x in value]
        return value * (1 + 1e-14 * random.standard_normal())

    for program in children(100):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = torch_class(program)(parameters(), **extra(program))
            theirs = run(made, gradients())
        ours, moved = trajectory(program), trajectory(program, disturb)
        if not all(np.isfinite(x).all() for x in ours):
            continue
        size = max(1e-3, *(np.abs(x).max() for x in ours))
        if max(np.abs(x - y).max() for x, y in zip(ours, moved, strict=True)) > 1e-11 * size:
            continue  # ill conditioned: rounding decides
        compared += 1
        for x, y in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(y.numpy(), x, rtol=0, atol=1e-10 * size, err_msg=str(program))
    assert compared > 60


# --- the compiled step --------------------------------------------------------------------------------------


def odd_numbers(dtype: torch.dtype) -> torch.Tensor:
    """An odd count of numbers of all sizes, with zeros of both signs, Inf and NaN between them."""
    random = torch.Generator().manual_seed(0)
    sizes = torch.rand(4000, generator=random, dtype=torch.float64) * 82 - 44
    x = torch.randn(4000, generator=random, dtype=torch.float64) * 10**sizes
    x[1::2] = torch.randn(2000, generator=random, dtype=torch.float64)
    special = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, -math.nan, 1.0, -1.0, 0.5], dtype=torch.float64)
    return torch.cat([x, special.repeat(11)]).to(dtype)


def stepped(program: str, g: torch.Tensor, w: torch.Tensor | None = None, **more: object) -> dict[str, torch.Tensor]:
    """The states after one step of a program with a gradient, from weights or from 0."""
    p = nn.Parameter(torch.zeros_like(g) if w is None else w.clone())
    p.grad = g
    optimizer = torch_class(Program.parse(program))([p], **more)
    optimizer.step()
    return optimizer.state[p]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_compiled_step_knows_inf_and_nan(dtype):
    names = [op.name for op in ROWS if op.arity == 1 and op.c and op.elementwise and op.name != "identity"]
    states = [f"s{i}" for i in range(len(names))]
    ends = ", ".join(f"{name}(g)" for name in names)
    program = f"def f(w, g, {', '.join(states)}, lr=0.1):\n  return lr * ({' + '.join(states)}), {ends}"
    g = odd_numbers(dtype)
    fused, loop = (stepped(program, g, fused=fused, foreach=False) for fused in (True, False))
    for state, name in zip(states, names, strict=True):
        near = 1e-2 if name == "cbrt" or dtype is torch.bfloat16 else 2e-5  # torch's cbrt is a power of a rounded third
        torch.testing.assert_close(fused[state], loop[state], rtol=near, atol=1e-40, equal_nan=True,
                                   msg=lambda text, name=name: f"{name}: {text}")  # fmt: skip


@pytest.mark.parametrize("c", [3.0, -0.1, 1.0, 1e-29, 1e30, 1e-35, 1e38, 0.0, math.inf, math.nan])
def test_a_quotient_by_what_elements_share_is_one(c):
    g = odd_numbers(torch.float32)
    made = stepped("def f(w, g, a, b, lr=0.1, c=2.0):\n  return lr * (a + b), g / c, (g > 0) / c", g, c=c, fused=True)
    zero, y = c == 0, torch.tensor(c)
    torch.testing.assert_close(made["b"], torch.zeros_like(g) if zero else (g > 0) / y, rtol=0, atol=0, equal_nan=True)
    expected = torch.zeros_like(g) if zero else g / y
    torch.testing.assert_close(made["a"], expected, rtol=1.2e-7, atol=1.5e-45, equal_nan=True)
    same = (made["a"] == expected) | expected.isnan()
    assert same.float().mean() > 0.995


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_signs_that_agree_are_counted_as_products_are(dtype):
    program = "def f(w, g, n: scalar, lr=0.1):\n  return lr * n * g, sum({} > 0)"
    g = odd_numbers(dtype)
    w = g[torch.randperm(len(g), generator=torch.Generator().manual_seed(1))]
    counts = {float(stepped(program.format(product), g, w, fused=fused, foreach=False)["n"])
              for product in ("sign(w) * g", "g * sign(w)") for fused in (True, False)}  # fmt: skip
    assert len(counts) == 1


# --- the contract -------------------------------------------------------------------------------------------

CONTRACT = ["adamw_clip", "c_lion", "counted", "swapped"]


def new(name: str, ps: list | None = None, **more) -> torch.optim.Optimizer:
    program = program_of(name)
    return torch_class(program)(parameters() if ps is None else ps, **extra(program), **more)


def reloaded(optimizer: torch.optim.Optimizer, name: str) -> torch.optim.Optimizer:
    """A new optimizer over copies of the parameters, its state through a file."""
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    ps = [nn.Parameter(p.detach().clone()) for group in optimizer.param_groups for p in group["params"]]
    made = new(name, ps)
    made.load_state_dict(torch.load(file))
    return made


COPIES = {
    "state_dict": reloaded,
    "deepcopy": lambda optimizer, name: copy.deepcopy(optimizer),
    "pickle": lambda optimizer, name: pickle.loads(pickle.dumps(optimizer)),
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("name", CONTRACT)
def test_a_copy_goes_on_exactly(name, how):
    optimizer = new(name)
    run(optimizer, gradients()[:7])
    copied = COPIES[how](optimizer, name)
    assert type(copied) is type(optimizer)
    assert not same(run(copied, gradients()[7:9]), [p.detach() for p in optimizer.param_groups[0]["params"]])
    assert same(run(copied, gradients()[9:]), run(optimizer, gradients()[7:]))


class Louder(torch_class(load("lion"))):
    """A subclass as users write them."""

    louder = True


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_copy_of_a_subclass_is_of_the_subclass(how):
    optimizer = Louder(parameters())
    run(optimizer, gradients()[:3])
    copied = COPIES[how](optimizer, "lion")
    assert type(copied) is Louder
    assert same(run(copied, gradients()[3:6]), run(optimizer, gradients()[3:6]))


def test_a_pickle_is_read_by_another_process(tmp_path):
    optimizer = new("c_lion")
    run(optimizer, gradients()[:3])
    (tmp_path / "optimizer.pickle").write_bytes(pickle.dumps(optimizer))
    script = "import pickle, sys; o = pickle.load(open(sys.argv[1], 'rb')); o.step(); print(type(o).__name__)"
    command = [sys.executable, "-c", script, str(tmp_path / "optimizer.pickle")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout == "CLion\n", done.stderr


def test_groups_have_their_own_settings():
    ps = parameters()
    groups = [{"params": ps[:2]}, {"params": ps[2:], "lr": 3e-3, "betas": (0.5, 0.6), "weight_decay": 0.5}]
    both = run(new("adamw", groups), gradients())
    first = run(new("adamw", parameters()[:2]), [g[:2] for g in gradients()])
    own = {"lr": 3e-3, "betas": (0.5, 0.6), "weight_decay": 0.5}
    second = run(new("adamw", parameters()[2:], **own), [g[2:] for g in gradients()])
    assert same(both, first + second)


def test_named_parameters_keep_their_names():
    optimizer = new("lion", list(nn.Linear(2, 2).named_parameters()))
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]


def test_a_closure_runs_with_gradients_and_its_loss_comes_back():
    p = nn.Parameter(torch.ones(2))
    optimizer = new("lion", [p])

    def closure():
        optimizer.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 2.0
    assert (p < 1).all()
    assert optimizer.step() is None


def test_parameters_without_gradient_stay_and_get_no_state():
    ps = parameters()
    optimizer = new("adamw", ps)
    before = [p.detach().clone() for p in ps]
    optimizer.step()
    ps[0].grad = torch.ones_like(ps[0])
    optimizer.step()
    assert same([p.detach() for p in ps[1:]], before[1:])
    assert list(optimizer.state) == [ps[0]]


def test_steps_without_gradient_do_not_count_as_in_torch():
    ours, theirs = parameters(), parameters()
    a, b = new("adamw", ours), torch.optim.AdamW(theirs, lr=1e-3, weight_decay=0.01)
    for t, step in enumerate(gradients()):
        for i, (p, q, g) in enumerate(zip(ours, theirs, step, strict=True)):
            p.grad, q.grad = (None, None) if (t + i) % 3 == 0 else (g.clone(), g.clone())
        a.step()
        b.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def test_gradients_are_left_alone():
    for name, maximize in itertools.product(CONTRACT, (False, True)):
        ps = parameters()
        for p, g in zip(ps, gradients()[0], strict=True):
            p.grad = g.clone()
        new(name, ps, maximize=maximize).step()
        assert same([p.grad for p in ps], gradients()[0])


def test_states_do_not_share_memory_with_gradients_or_parameters():
    optimizer = new("swapped")
    run(optimizer, gradients()[:3])
    kept = {p.data_ptr() for p in optimizer.state} | {p.grad.data_ptr() for p in optimizer.state}
    states = [s.data_ptr() for state in optimizer.state.values() for s in state.values()]
    assert len(set(states)) == len(states) and not kept & set(states)


@pytest.mark.parametrize("wrong", ["narrower checkpoint", "grown weight", "state elsewhere", "narrower gradient",
                                   "state that was narrowed"])  # fmt: skip
def test_states_that_do_not_fit_their_weight_are_refused(wrong):
    """A kernel takes addresses: it would write past the end of them."""
    p, narrow = nn.Parameter(torch.zeros(3000)), nn.Parameter(torch.zeros(10))
    optimizer, other = new("lion", [p]), new("lion", [narrow])
    run(optimizer, [[torch.ones(3000)]] * 2)
    run(other, [[torch.ones(10)]])
    if wrong == "narrower checkpoint":
        optimizer.load_state_dict(other.state_dict())
    elif wrong == "grown weight":
        p.grad = None
        p.data = torch.zeros(6000)
    elif wrong == "state that was narrowed":
        optimizer.state[p]["m"].resize_(10)
    else:
        optimizer.state[p]["m"] = torch.zeros(3000, device="meta")
    p.grad = torch.ones(len(p))
    if wrong == "narrower gradient":
        p.grad.data = torch.ones(10)
    with pytest.raises(RuntimeError, match=r"size of tensor|broadcast|device"):
        optimizer.step()


@pytest.mark.parametrize("start, then, flags", [
    (torch.float32, torch.float64, {}),
    (torch.bfloat16, torch.half, {"rounding": "kahan", "state_dtype": torch.float32}),
], ids=["number", "lost"])  # fmt: skip
def test_a_model_may_change_its_precision_between_steps(start, then, flags):
    program = Program.parse("def f(w, g, m, s: scalar, lr=0.1):\n s = interp(rms(g), s, 0.9)\n return lr * g / s, g, s")
    ends = []
    for way in ({}, {"foreach": True}):
        p = nn.Parameter(torch.ones(5, dtype=start))
        optimizer = torch_class(program)([p], **flags, **way)
        for dtype in (start, then):
            p.grad = None
            p.data = p.data.to(dtype)
            p.grad = torch.linspace(-1, 1, 5).to(dtype)
            optimizer.step()
        ends.append(p.detach().clone())
    assert torch.equal(*ends)


@pytest.mark.parametrize("update", ["first(step, m)", "every(2, step, m)", "worker_mean(m)", "unwide(wide(m))"])
def test_an_update_that_is_an_old_state_is_not_what_is_written_there(update):
    text = f"def f(w, g, m, lr=0.1) for matrix else sgd:\n step = lr * g\n return {update}, step"
    program = Program.parse(text, resolve=load)
    p = nn.Parameter(torch.zeros(3, 3, dtype=torch.float64))
    optimizer, w = torch_class(program)([p], foreach=True), p.detach().numpy().copy()
    runner = Interpreter(program, [w.shape])
    for t in range(1, 5):
        p.grad = torch.arange(9.0).reshape(3, 3).double() ** t
        w = w - runner.step([w], [p.grad.numpy()], 1.0, t)[0]
        optimizer.step()
    np.testing.assert_allclose(p.detach().numpy(), w, rtol=1e-12)


def test_maximize_climbs():
    down = run(new("adamw"), gradients())
    up = run(new("adamw", maximize=True), [[-g for g in step] for step in gradients()])
    assert same(down, up)


def test_sparse_gradients_are_refused_with_an_alternative():
    layer = nn.Embedding(4, 2, sparse=True)
    layer(torch.tensor([1])).sum().backward()
    optimizer = new("lion", layer.parameters())
    with pytest.raises(RuntimeError, match=r"Lion does not take sparse .* use torch\.optim\.SparseAdam"):
        optimizer.step()


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        ({"lr": -1.0}, ValueError, "lr must be at least 0, not -1.0"),
        ({"lr": float("nan")}, ValueError, "lr must be at least 0"),
        ({"lr": torch.ones(2)}, ValueError, "Tensor lr must be 1-element"),
        ({"betas": (0.9,)}, ValueError, "betas must be 2 numbers"),
        ({"betas": (0.9, 1.0)}, ValueError, r"betas must be 2 numbers in \[0, 1\)"),
        ({"eps": -1e-8}, ValueError, "eps must be at least 0"),
        ({"weight_decay": -0.1}, ValueError, "weight_decay must be at least 0"),
        ({"wieght_decay": 0.1}, TypeError, "wieght_decay"),
        ({"momentum": 0.9}, TypeError, "momentum"),
    ],
)
def test_wrong_arguments_are_refused(wrong, error, says):
    with pytest.raises(error, match=says):
        new("adamw", **wrong)


def test_odd_defaults_of_a_find_are_its_own():
    rule = "def f(w, g, m, lr=0.1, beta1=1.109, weight_decay=-0.1, eps=-1.0):\n"
    rule += " m = interp(g, m, beta1)\n return lr * m / eps + lr * weight_decay * w, m"
    optimizer = torch_class(Program.parse(rule))(parameters())
    assert optimizer.defaults["betas"] == (1.109,)
    with pytest.raises(ValueError, match="betas must be 1 number, not"):
        torch_class(Program.parse(rule))(parameters(), betas=(0.9, 0.9))


def test_the_learning_rate_may_be_a_tensor():
    rate = torch.tensor(1e-3, dtype=torch.float64)
    for name in ("adamw", "c_lion", "adamw_clip"):
        assert same(run(new(name, lr=rate), gradients()), run(new(name, lr=1e-3), gradients()))


def test_schedulers_steer_the_step():
    p = nn.Parameter(torch.zeros(1))
    optimizer = new("signsgd", [p], lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    moved = []
    for _ in range(3):
        before = p.item()
        p.grad = -torch.ones(1)
        optimizer.step()
        scheduler.step()
        moved.append(p.item() - before)
    assert moved == [1.0, 0.5, 0.25]
    torch.optim.lr_scheduler.OneCycleLR(new("lion"), max_lr=0.1, total_steps=9)  # cycles betas
    torch.optim.lr_scheduler.OneCycleLR(new("momentum"), max_lr=0.1, total_steps=9)


def test_the_share_of_the_run_needs_its_length():
    program = Program.parse("def f(w, g, lr=1.0, progress):\n return lr * (1 - progress) * g")
    with pytest.raises(TypeError, match="total_steps"):
        torch_class(program)(parameters())
    with pytest.raises(ValueError, match="total_steps must be at least 1, not 0"):
        torch_class(program)(parameters(), total_steps=0)
    with pytest.raises(ValueError, match="total_steps must be at least 1, not 0"):
        torch_class(program)([{"params": parameters(), "total_steps": 0}], total_steps=4)
    p = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    run(torch_class(program)([p], total_steps=4), [[-torch.ones(1)]] * 2)
    assert p.item() == 0.75 + 0.5


def test_half_precision_is_computed_in_single():
    ps, wide = parameters(torch.bfloat16), parameters(torch.bfloat16)
    wide = [nn.Parameter(p.detach().float()) for p in wide]
    step = [[g.bfloat16().float() for g in gradients()[0]]]
    ours = run(new("adamw_clip", ps), step)
    theirs = run(new("adamw_clip", wide), step)
    assert same(ours, [x.bfloat16() for x in theirs])


def test_mixed_precisions_step_in_one_group():
    ps = parameters()
    dtypes = (torch.float32, torch.bfloat16, torch.float64, torch.half)
    mixed = [nn.Parameter(p.detach().to(d)) for p, d in zip(ps, dtypes, strict=True)]
    before = [p.detach().clone() for p in mixed]
    after = run(new("c_adamw", mixed), gradients()[:1])
    assert all(x.dtype == y.dtype and not torch.equal(x, y) for x, y in zip(before, after, strict=True))


def test_complex_parameters_are_pairs_of_numbers():
    z = nn.Parameter(torch.tensor([1 + 2j, -3j], dtype=torch.complex128))
    pairs = nn.Parameter(torch.view_as_real(z.detach().clone()))
    a, b = new("c_lion", [z]), new("c_lion", [pairs])
    for _ in range(3):
        z.grad, pairs.grad = z.detach().clone(), pairs.detach().clone()
        a.step()
        b.step()
    assert torch.equal(torch.view_as_real(z.detach()), pairs.detach())


@pytest.mark.parametrize("name", [*EXPORTED, *OWN])
def test_empty_and_single_numbers_step(name):
    ps = [nn.Parameter(torch.zeros(0)), nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.ones(1, 0, 3))]
    for p in ps:
        p.grad = torch.ones_like(p)
    new(name, ps).step()
    assert ps[1].isfinite() and ps[1].dtype == torch.float32 and ps[0].numel() == 0


@pytest.mark.parametrize("name", [n for n in EXPORTED if n != "adamw_plain"])
def test_a_step_of_nothing_changes_nothing(name):
    """Distributed checkpointing makes state by a step with zero gradients and lr = 0."""
    zero = [[torch.zeros_like(p) for p in parameters()]]
    assert same(run(new(name, lr=0.0), zero), [p.detach() for p in parameters()])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", [*EXPORTED, *OWN])
def test_a_gpu_gives_the_same_numbers(name):
    there = [nn.Parameter(p.detach().cuda()) for p in parameters()]
    ours = run(new(name, there), [[g.cuda() for g in step] for step in gradients()])
    for x, y in zip(ours, run(new(name), gradients()), strict=True):
        torch.testing.assert_close(x.cpu(), y, rtol=1e-10, atol=1e-12)


# --- which constants become arguments -----------------------------------------------------------------------


def arguments(text: str) -> dict:
    defaults = dict(torch_class(Program.parse(text))(parameters()).defaults)
    return {k: v for k, v in defaults.items() if k in ("lr", "betas", "weight_decay", "eps")}


def test_averages_and_decay_become_arguments():
    adam = """def train(w, g, m, v, lr, t):
      m = interp(g, m, 0.9)
      v = interp(g * g, v, 0.99)
      u = m / (1 - power(0.9, t)) / (sqrt(v / (1 - 0.99 ** t)) + 1e-8)
      return (u + 0.1 * w) * (lr * 0.002), m, v"""
    assert arguments(adam) == {"lr": 0.002, "betas": (0.9, 0.99), "weight_decay": 0.1}
    other = name_constants(Program.parse(adam)).program
    assert "power(beta1, t)" in str(other) and "power(beta2, t)" in str(other)
    assert key(other) == key(Program.parse(adam))


def test_averages_that_share_a_correction_share_a_rate():
    adam = """def train(w, g, m, v, lr=0.1, t):
      m = interp(g, m, {})
      v = interp(g * g, v, {})
      return lr * (m / (1 - {} ** t)) / sqrt(v / (1 - {} ** t)), m, v"""
    named = name_constants(Program.parse(adam.format(*[0.95] * 4))).program
    assert named.hypers == (0.95,)
    assert key(replace(named, hypers=(0.5,))) == key(Program.parse(adam.format(*[0.5] * 4)))
    uncorrected = (
        "def f(w, g, m, v, lr=0.1):\n m = interp(g, m, 0.95)\n v = interp(g * g, v, 0.95)\n return lr * m / v, m, v"
    )
    assert name_constants(Program.parse(uncorrected)).program.hypers == (0.95, 0.95)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def f(w, g, lr=0.1):\n return lr * g", {"lr": 0.1}),
        ("def f(w, g, lr):\n return lr * 0.5 * g", {"lr": 0.5}),
        # lr is read twice, so that no factor is lr's own
        ("def f(w, g, lr):\n return clip(g, lr) * (lr * 0.5)", {"lr": 1.0}),
        # climbing away from zero is no decay, nor is one that g scales
        ("def f(w, g, lr=0.1):\n return lr * (g - 0.1 * w)", {"lr": 0.1}),
        ("def f(w, g, lr=0.1):\n return lr * g * (0.1 * w)", {"lr": 0.1}),
        ("def f(w, g, lr=0.1):\n return lr * (0.2 * (0.1 * w) + g)", {"lr": 0.1, "weight_decay": 0.1}),
        # an average of something that is no state of its own
        ("def f(w, g, m, lr=0.1):\n u = interp(g, m, 0.9)\n return lr * u, g", {"lr": 0.1}),
        # the name is taken
        ("def f(w, g, m, lr=0.1, beta1=0.5):\n m = interp(g, m, 0.9)\n return lr * m * beta1, m",
         {"lr": 0.1, "betas": (0.5,)}),
        ("def f(w, g, lr=0.1, weight_decay=0.5):\n return lr * (g * weight_decay + 0.1 * w)",
         {"lr": 0.1, "weight_decay": 0.5}),
    ],
)  # fmt: skip
def test_other_numbers_stay(text, expected):
    assert arguments(text) == expected


def test_all_numbers_of_a_find_can_be_set():
    """0, 1, what is negative and counts stay."""
    text = """def f(w, g, m, c2, lr=0.1, gamma=3.0):
      c2 = interp(square(g), c2, 0.7)
      u = gamma * sign(g + 0.3 * m) + 2.5 * sign(1 - 0.3 * m) / c2 + max(0, -2 * g) + every(5, m, g)
      repeat 3:
        u = u / 1.25
      end
      return lr * u, interp(g, m, 0.9), c2"""
    program = Program.parse(text)
    named = with_named_numbers(program)
    assert hypers_of(named) == {"gamma": 3.0, "c1": 0.7, "c3": 0.3, "c4": 0.3, "c5": 2.5, "c6": 1.25, "c7": 0.9}
    written = {arg.value for s in named.statements for arg in s.args if isinstance(arg, Const)}
    assert written == {-2.0, 0.0, 1.0, 3.0, 5.0}
    assert "repeat 3:" in str(named) and "every(5.0, m, g)" in str(named)
    assert key(named) == key(program)


@pytest.mark.parametrize("name", names())
def test_numbers_of_any_rule_can_be_set(name):
    named = with_named_numbers(load(name))
    assert Program.parse(str(named)) == named
    if not named.schedule:
        assert key(named) == key(load(name))


def test_the_paper_s_found_program_is_exported(starts):
    named = name_constants(starts["program4"])
    assert named.found == ("weight_decay",)
    assert 0.899 in named.literals and 1.109 in named.literals
    assert [s.op for s in named.program.statements].count("cosh") == 0


def test_dead_arguments_are_left_out():
    program = Program.parse("def f(w, g, m, lr=0.1, gamma=3.0):\n m = gamma * g\n return lr * g, m")
    text = export_torch(program)
    assert "gamma" not in text[text.index("def _update") :]
    assert "# Left out, because they change nothing: gamma." in text


def test_names_that_mean_something_else_are_changed():
    text = "def f(w, g, self, states, len, step, t, lr=0.1, params=0.5, lambda_=2.0, betas=3.0, maximize=4.0):\n"
    text += " self = self * params + g\n states = states + self\n len = len + states * lambda_\n"
    text += " step = step + len\n return lr * (betas * step + maximize * t * g), self, states, len, step"
    program = Program.parse(text)
    theirs = run(torch_class(program)(parameters(), params_=0.5), gradients())
    for x, y in zip(trajectory(program), theirs, strict=True):
        np.testing.assert_allclose(y.numpy(), x, rtol=1e-10)


@pytest.mark.filterwarnings("error:steps are not fused")
def test_names_of_c_and_of_the_kernel_s_text_may_be_a_program_s(monkeypatch):
    states = ("new_m", "log", "sqrt", "complex", "INFINITY", "STATE", "BLOCK", "linux", "w_", "m_most", "double")
    text = f"def f(w, g, m, usual: scalar, {', '.join(states)}, lr=0.1, REAL=0.9, m_rest=2.0):\n"
    text += " usual = interp(rms(g), usual, REAL)\n m = interp(g / usual, m, REAL)\n m_ = m_rest * m\n"
    text += "".join(f" {name} = {name} + m_ - (-0.5)\n" for name in states)
    text += f" return lr * -(-0.5) * ({' + '.join(states)}), m, usual, {', '.join(states)}"
    program = Program.parse(text)
    optimizer = torch_class(program)(parameters(), fused=True)
    monkeypatch.setattr(type(optimizer), "_step_with_torch", None)
    theirs = run(optimizer, gradients())
    for x, y in zip(trajectory(program), theirs, strict=True):
        np.testing.assert_allclose(y.numpy(), x, rtol=1e-10)


def test_unnamed_values_get_names():
    adam = load("adamw")
    bare = Program(adam.statements, adam.returns, adam.states, adam.hypers, adam.lr)
    theirs = run(torch_class(bare)(parameters()), gradients())
    for x, y in zip(trajectory(bare), theirs, strict=True):
        np.testing.assert_allclose(y.numpy(), x, rtol=1e-10)


@pytest.mark.parametrize("name", ["", "2x", "class", "torch", "a b", "x\nimport os", "None"])
def test_a_class_has_a_python_name(name):
    with pytest.raises(ValueError, match="a class cannot be called"):
        export_torch(load("sgd"), name)


def test_classes_are_named_after_programs():
    assert torch_class(load("c_adamw")).__name__ == "CAdamW"
    assert torch_class(load("rmsprop")).__name__ == "RMSprop"
    assert torch_class(load("lion")) is torch_class(load("lion"))
    assert torch_class(load("lion"), "Cat").__name__ == "Cat"


def test_export_is_deterministic():
    assert export_torch(load("adamw")) == export_torch(Program.parse(str(load("adamw"))))


def test_many_numbers_make_a_line_that_still_compiles():
    names = [f"constant{i}" for i in range(6)]
    powers = " + ".join(f"power({n}, t)" for n in names)
    program = Program.parse(
        f"def f(w, g, m, t, lr, {', '.join(f'{n}=0.5' for n in names)}):\n m = g * ({powers}) + m\n return lr * m, m"
    )
    compile(export_torch(program), "exported", "exec")
