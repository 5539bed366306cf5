"""An exported optax file does what the program means, and what optax, jit and scan expect of a transformation."""

import ast
import inspect
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from stepsmith.discovered import load, names
from stepsmith.discovered.export_optax import beyond_optax, export_optax
from stepsmith.dsl import OPS, Program
from stepsmith.dsl.interpret import Interpreter
from stepsmith.dsl.layout import WIDTH

sys.path.append(str(Path(__file__).parent))

from test_export import COUNTED, SWAPPED, children
from test_zoo_matrix import DECOMPOSED, ROLES, STEPS, gradients, program_of, schedule, shapes_of, weights, worst

jax = pytest.importorskip("jax", reason="needs jax: pip install 'stepsmith[jax]'")
optax = pytest.importorskip("optax", reason="needs optax: pip install 'stepsmith[jax]'")
import jax.numpy as jnp  # noqa: E402

SCHEDULED = [name for name in names() if load(name).schedule]
RULES = [name for name in names() if not beyond_optax(load(name))]
#: Own programs beside the catalogue's: states of every kind, states that change places, lr read twice, and rates,
#: a global norm and a state per parameter over matrices and embeddings.
OWN = {
    "counted": COUNTED,
    "swapped": SWAPPED,
    "twice": "def f(w, g, m, lr=0.01):\n m = interp(clip(g, lr), m, 0.9)\n return lr * m + 0.1 * lr * w, m",
    "parts": """def f(w, g, m, n: scalar, s: [fan_out, 1], lr=0.01, wd=0.1) for matrix, embedding else h:
      n = interp(global_norm(g), n, 0.9)
      s = s + 1 + norm(g, fan_in)
      m = interp(transpose(transpose(g)), m, 0.9)
      return lr * (m / (n * s) + wd * w), m, n, s
    def h(w, g, lr=0.1) for head else k:
      return lr * sign(g) + w * 0.001
    def k(w, g, m, lr=0.02, m0=2.0):
      return lr * (m + m0 * g), g""",
    "filled": """def filled(w, g, rows, ones, number, lr=0.01) for matrix, embedding, head else sgd:
      return lr * (mean(g, fan_in) * g + rows + ones * number), amax(abs(g), fan_in), 1.0, rms(g)
    def sgd(w, g, lr=0.1):
      return lr * g""",
}


def own_or_catalogued(name: str) -> Program:
    return Program.parse(OWN[name]) if name in OWN else program_of(name)


def executed(text: str) -> dict:
    scope: dict = {"__name__": "exported"}
    exec(compile(text, "<exported>", "exec"), scope)
    return scope


@cache
def factory_of(name: str):
    return executed(export_optax(own_or_catalogued(name), "rule"))["rule"]


def extra(make, **more) -> dict:
    """The arguments that a factory takes, of those that a test has."""
    known = inspect.signature(make).parameters
    return {key: value for key, value in {"total_steps": STEPS, **more}.items() if key in known}


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


def all_shapes(name: str) -> list[tuple[int, ...]]:
    """Those of the tests of matrix rules; elementwise rules get a single number too."""
    program = own_or_catalogued(name)
    return shapes_of(name) if program.fallback else [(6, 4), (5,), ()]


def by_numpy(program: Program, shapes, roles=None, disturb=None) -> list[list[np.ndarray]]:
    w, runner, updates = weights(shapes), Interpreter(program, shapes, disturb, roles), []
    for t, g in enumerate(gradients(shapes), 1):
        update = runner.step(w, g, schedule(t), t, t / STEPS)
        w = [x - u for x, u in zip(w, update, strict=True)]
        updates.append(update)
    return updates


def by_optax(optimizer, shapes, steps: int = STEPS, dtype=None) -> list[list[np.ndarray]]:
    """Minus the updates of every step, along the path that they make, in one scan."""
    given = [[jnp.asarray(x, dtype) for x in g] for g in gradients(shapes, steps)]
    params = [jnp.asarray(x, dtype) for x in weights(shapes)]

    def step(carry, g):
        w, state = carry
        update, state = optimizer.update(g, state, w)
        return (optax.apply_updates(w, update), state), update

    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *given)
    _, updates = jax.jit(lambda *start: jax.lax.scan(step, start, stacked))(params, optimizer.init(params))
    return [[-np.asarray(u[t]) for u in updates] for t in range(steps)]


def scheduled(peak: float):
    """The learning rate of the tests as optax counts it, from 0."""
    table = [peak * schedule(t) for t in range(1, STEPS + 1)]
    return lambda count: jnp.asarray(table)[count]


# --- its meaning --------------------------------------------------------------------------------------------


def test_every_rule_without_oracles_and_codecs_is_exported():
    left = {name: beyond_optax(load(name)) for name in names() if name not in RULES}
    assert {name for name in left if name not in SCHEDULED} == {"adahessian", "sophia", "mezo", "adam8bit"}
    assert len(RULES) >= 36


def test_every_row_has_a_spelling():
    assert [row.name for row in OPS.values() if bool(row.jax) == bool(row.expand)] == []


@pytest.mark.parametrize("name", [*RULES, *OWN])
def test_it_follows_the_interpreter(name, double):
    program, shapes = own_or_catalogued(name), all_shapes(name)
    make = factory_of(name)
    roles = ROLES if program.fallback else None
    optimizer = make(scheduled(program.peak if name != "adamw_plain" else 1e-3),
                     **extra(make, roles=ROLES, outputs_first=True))  # fmt: skip
    difference = worst(by_optax(optimizer, shapes), by_numpy(program, shapes, roles))
    assert difference < (1e-6 if name in DECOMPOSED else 1e-9), difference


@pytest.mark.parametrize("name", ["adamw_clip", "stable_spam", "muon", "apollo"])
def test_it_keeps_its_meaning_in_float32(name):
    program, shapes, make = program_of(name), all_shapes(name), factory_of(name)
    roles = ROLES if program.fallback else None
    optimizer = make(scheduled(program.peak), **extra(make, roles=ROLES, outputs_first=True))
    found = by_optax(optimizer, shapes, 12)
    assert {u.dtype for u in found[-1]} == {np.dtype("float32")}
    assert worst(found, by_numpy(program, shapes, roles)[:12]) < 1e-3


def test_random_programs_export_as_they_mean(double):
    random, compared, shapes = np.random.default_rng(0), 0, [(4, 3), (5,), ()]

    def disturb(value):
        if isinstance(value, list):
            return [x * (1 + 1e-14 * random.standard_normal(np.shape(x))) for x in value]
        return value * (1 + 1e-14 * random.standard_normal())

    for program in children(16):
        with np.errstate(all="ignore"):
            ours, moved = by_numpy(program, shapes), by_numpy(program, shapes, disturb=disturb)
        finite = all(np.isfinite(u).all() for steps in (ours, moved) for step in steps for u in step)
        if not finite or worst(moved, ours) > 1e-11:
            continue  # ill conditioned: rounding decides
        scope = executed(export_optax(program, "rule"))
        make = scope["rule"]
        peak = inspect.signature(make).parameters["learning_rate"].default
        compared += 1
        assert worst(by_optax(make(scheduled(peak), **extra(make)), shapes), ours) < 1e-9, str(program)
    assert compared > 6


def test_a_period_is_kept_to_the_step():
    """A product with 1 / 41 takes step 83 for one in between; XLA writes such for a division by 41."""
    rule = "def f(w, g, t, lr=1.0):\n return lr * every(41, g, 0)"
    optimizer = executed(export_optax(Program.parse(rule)))["f"]()

    def step(state, _):
        update, state = optimizer.update(jnp.ones(1), state)
        return state, update

    _, updates = jax.jit(lambda s: jax.lax.scan(step, s, None, 500))(optimizer.init(jnp.ones(1)))
    assert np.flatnonzero(updates).tolist() == list(range(0, 500, 41))


def test_a_costly_basis_is_made_at_its_steps_alone():
    text = str(jax.make_jaxpr(lambda u, s, p: factory_of("soap")().update(u, s, p))(*small_call("soap")))
    assert text.count("cond[") == 4  # two bases, each by eigh and by qr


def small_call(name: str):
    params = [jnp.ones((3, 2))]
    return params, factory_of(name)(**extra(factory_of(name))).init(params), params


# --- the same as optax's own --------------------------------------------------------------------------------

OURS_AND_THEIRS = {
    "lion": lambda: (factory_of("lion")(1e-3, weight_decay=0.1), optax.lion(1e-3, weight_decay=0.1)),
    "adamw": lambda: (factory_of("adamw")(1e-3), optax.adamw(1e-3, weight_decay=0.01)),
}


@pytest.mark.parametrize("name", OURS_AND_THEIRS)
def test_it_is_optaxs(name, double):
    shapes = [(6, 4), (5,), ()]
    ours, theirs = OURS_AND_THEIRS[name]()
    assert worst(by_optax(ours, shapes, 100), by_optax(theirs, shapes, 100)) < 1e-9


# --- the file -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder that holds an exported file for every rule, and nothing else."""
    folder = tmp_path_factory.mktemp("exported")
    for name in [*RULES, *OWN]:
        (folder / f"{name}.py").write_text(export_optax(own_or_catalogued(name), "rule"), encoding="utf-8")
    return folder


def test_files_import_jax_and_optax_alone(exported):
    """And numpy, which jax needs itself, where they draw."""
    for file in exported.iterdir():
        tree = ast.parse(file.read_text(encoding="utf-8"))
        found = {n.name for node in ast.walk(tree) if isinstance(node, ast.Import) for n in node.names}
        assert {"jax", "jax.numpy", "optax"} <= found <= {"jax", "jax.numpy", "optax", "math", "numpy"}
        assert ("numpy" in found) == file.stem.startswith("apollo")
        assert {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)} == {"typing"}


def test_files_pass_the_linter(exported):
    ruff = [sys.executable, "-m", "ruff"]
    if subprocess.run([*ruff, "--version"], capture_output=True).returncode:
        pytest.skip("ruff is not installed")
    for command in (["check", "--select", "E4,E7,E9,F,W,I,UP"], ["format", "--check"]):
        options = ["--isolated", "--no-cache", "--line-length", str(WIDTH), str(exported)]
        done = subprocess.run([*ruff, *command, *options], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_files_work_where_stepsmith_is_not(exported):
    script = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("stepsmith", "torch"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
sys.path.insert(0, {str(exported)!r})
import importlib, jax.numpy as jnp, optax
for name in ("adamw", "muon", "apollo", "adafactor"):
    params = {{"a": jnp.ones((3, 2)), "b": jnp.ones(3)}}
    optimizer = importlib.import_module(name).rule()
    updates, state = optimizer.update(params, optimizer.init(params), params)
    params = optax.apply_updates(params, updates)
    assert all((x != 1).any() for x in params.values()), name
assert not [m for m in sys.modules if m.partition(".")[0] in ("stepsmith", "torch")]
"""
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_file_says_what_it_is():
    text = export_optax(load("adamw_plain"))
    head = text[: text.index("import jax")]
    assert "# Source: Chen et al. 2023" in head and "#         sqrt_v = sqrt(v)" in head
    assert "# Exported by Stepsmith. SPDX-License-Identifier: Apache-2.0" in head
    assert "beta1 was 0.9" in head and "0.001, which the program spells out" in head
    assert export_optax(load("adamw")) == export_optax(Program.parse(str(load("adamw"))))


def test_the_learning_rate_stands_apart_where_it_is_a_factor():
    lion, bounded = executed(export_optax(load("lion"))), executed(export_optax(Program.parse(OWN["twice"])))
    assert list(inspect.signature(lion["scale_by_lion"]).parameters) == ["beta1", "beta2", "mu_dtype"]
    assert list(inspect.signature(lion["lion"]).parameters)[:1] == ["learning_rate"]
    update, _ = lion["scale_by_lion"]().update(g := jnp.array([2.0, -3.0]), lion["scale_by_lion"]().init(g))
    assert update.tolist() == [1.0, -1.0]
    assert not [name for name in bounded if name.startswith("scale_by")]


def test_arguments_of_later_parts_have_their_names_before_them():
    signature = inspect.signature(factory_of("muon"))
    assert list(signature.parameters) == [
        "learning_rate", "beta", "weight_decay", "adamw_rate", "adamw_beta1", "adamw_beta2", "adamw_eps",
        "adamw_weight_decay", "mask", "mu_dtype", "roles", "outputs_first",
    ]  # fmt: skip
    assert signature.parameters["adamw_rate"].default == 1e-3 / 0.02


@pytest.mark.parametrize("name", [name for name in names() if beyond_optax(load(name))])
def test_what_is_not_exported_says_why(name):
    with pytest.raises(ValueError, match=rf"{name} cannot be exported to optax: it \w+"):
        export_optax(load(name))


@pytest.mark.parametrize("name", ["", "2x", "class", "jax", "a b", "x\nimport os", "None"])
def test_an_optimizer_has_a_python_name(name):
    with pytest.raises(ValueError, match="an optimizer cannot be called"):
        export_optax(load("sgd"), name)


def test_names_that_mean_something_else_are_changed():
    text = "def len(w, g, updates, states, old_m, m, t, lr=0.1, new_m=0.5, params=0.5, lambda_=2.0, mask=3.0):\n"
    text += " updates = updates * params + g\n states = states + updates\n old_m = old_m + states * lambda_\n"
    text += " m = m + old_m * new_m\n return lr * (mask * m + mask * t * g), updates, states, old_m, m"
    program, shapes = Program.parse(text), [(4, 3), ()]
    with jax.enable_x64(True):
        made = executed(export_optax(program))["len_"](scheduled(0.1), params_=0.5)
        assert worst(by_optax(made, shapes), by_numpy(program, shapes)) < 1e-9


# --- the contract -------------------------------------------------------------------------------------------

CONTRACT = ["counted", "muon", "adafactor", "twice"]


def tree(dtype=jnp.float32) -> dict:
    random = np.random.default_rng(1)
    return {"a": {"w": jnp.asarray(random.standard_normal((4, 3)), dtype), "none": None},
            "b": [jnp.asarray(random.standard_normal(s), dtype) for s in ((3,), ())], "nothing": ()}  # fmt: skip


def grads_at(t: int, like):
    return jax.tree.map(lambda p: jnp.cos(p.astype(jnp.float32) * (t + 1)).astype(p.dtype), like)


def trained(optimizer, params, steps: int = 4):
    def step(w, state, t):
        updates, state = optimizer.update(grads_at(t, w), state, w)
        return optax.apply_updates(w, updates), state

    state, step = optimizer.init(params), jax.jit(step)
    for t in range(steps):
        params, state = step(params, state, t)
    return params


def near(a, b, rtol: float = 1e-5) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-7), a, b)


def new(name: str, **more):
    make = factory_of(name)
    return make(**extra(make), **more)


@pytest.mark.parametrize("name", CONTRACT)
def test_scan_gives_the_same_and_keeps_the_types(name):
    optimizer, params = new(name), tree()

    def body(carry, t):
        w, state = carry
        updates, state = optimizer.update(grads_at(t, w), state, w)
        return (optax.apply_updates(w, updates), state), None

    start = params, optimizer.init(params)
    (scanned, _), _ = jax.jit(lambda s: jax.lax.scan(body, s, jnp.arange(4)))(start)
    near(scanned, trained(optimizer, params))


@pytest.mark.parametrize("name", CONTRACT)
def test_a_branch_that_does_not_step_has_the_same_types(name):
    optimizer, params = new(name), tree()
    state = optimizer.init(params)

    @jax.jit
    def maybe(wanted, state):
        def step():
            return optimizer.update(params, state, params)

        return jax.lax.cond(wanted, step, lambda: (jax.tree.map(jnp.zeros_like, params), state))

    near(maybe(True, state), optimizer.update(params, state, params))
    near(maybe(False, state)[1], state)


@pytest.mark.parametrize("name", CONTRACT)
def test_the_second_call_does_not_trace_again(name):
    optimizer, params, traces = new(name), tree(), []

    @jax.jit
    def step(g, state, w):
        traces.append(1)
        return optimizer.update(g, state, w)

    state = optimizer.init(params)
    for _ in range(3):
        _, state = step(params, state, params)
    assert len(traces) == 1
    counts = [x for x in jax.tree.leaves(state) if x.dtype == jnp.int32]
    assert counts and all(int(x) == 3 for x in counts)


@pytest.mark.parametrize("name", CONTRACT)
def test_hyperparameters_may_be_injected(name):
    make, params = factory_of(name), tree()
    injected = optax.inject_hyperparams(make)(**{"learning_rate": 0.01, **extra(make)})
    near(trained(injected, params), trained(make(**{"learning_rate": 0.01, **extra(make)}), params), 1e-4)
    falling = optax.inject_hyperparams(make)(**{"learning_rate": lambda count: 0.01 / (count + 1), **extra(make)})
    plain = make(**{"learning_rate": lambda count: 0.01 / (count + 1), **extra(make)})
    near(trained(falling, params), trained(plain, params), 1e-4)


@pytest.mark.parametrize("name", CONTRACT)
def test_gradients_may_be_gathered_over_steps(name):
    gathered, optimizer, w = optax.MultiSteps(new(name), 2), new(name), tree()
    state, inner = gathered.init(w), optimizer.init(w)
    both, once = jax.jit(gathered.update), jax.jit(optimizer.update)
    for _ in range(2):
        none, state = both(w, state, w)
        assert not any(x.any() for x in jax.tree.leaves(none))
        updates, state = both(w, state, w)
        expected, inner = once(w, inner, w)
        near(updates, expected)


@pytest.mark.parametrize("name", CONTRACT)
def test_masked_parameters_pass_through_and_have_no_state(name):
    params = tree()
    mask = {"a": {"w": True, "none": None}, "b": [False, True], "nothing": ()}
    optimizer = optax.masked(new(name), mask)
    state = optimizer.init(params)
    updates, state = optimizer.update(params, state, params)
    assert (updates["b"][0] == params["b"][0]).all()
    alone = {"w": params["a"]["w"], "x": params["b"][1]}
    inner = new(name)
    expected, kept = inner.update(alone, inner.init(alone), alone)
    near([updates["a"]["w"], updates["b"][1]], [expected["w"], expected["x"]])
    assert len(jax.tree.leaves(state)) == len(jax.tree.leaves(kept))


def test_a_missing_gradient_leaves_parameter_and_state():
    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    optimizer = executed(export_optax(load("c_lion")))["scale_by_c_lion"]()
    state = optimizer.init(params)
    updates, after = optimizer.update({"a": jnp.ones(2), "b": None}, state, params)
    assert updates["b"] is None and (after.m["b"] == 0).all() and (after.m["a"] != 0).all()


@pytest.mark.parametrize("name", CONTRACT)
def test_unknown_keywords_are_ignored(name):
    optimizer, params = new(name), tree()
    near(optimizer.update(params, optimizer.init(params), params, value=jnp.ones(()), loss_fn=None),
         optimizer.update(params, optimizer.init(params), params))  # fmt: skip


@pytest.mark.parametrize("name", CONTRACT)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_updates_and_states_have_the_dtype_of_their_parameters(name, dtype):
    optimizer, params = new(name), tree(jnp.dtype(dtype))
    updates, state = optimizer.update(params, optimizer.init(params), params)
    assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
    arrays = [x for x in jax.tree.leaves(state) if x.ndim]
    assert {x.dtype for x in arrays} <= {jnp.dtype(dtype)}


def test_half_precision_is_computed_in_single():
    half = tree(jnp.bfloat16)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), half)
    direction = executed(export_optax(load("c_lion")))["scale_by_c_lion"]()
    ours, _ = direction.update(half, direction.init(half), half)
    theirs, _ = direction.update(wide, direction.init(wide), wide)
    near(ours, jax.tree.map(lambda x: x.astype(jnp.bfloat16), theirs), 0)


def test_mixed_precisions_keep_theirs():
    params = {"a": jnp.ones((2, 2), jnp.bfloat16), "b": jnp.ones(2, jnp.float32)}
    for name in CONTRACT:
        updates, _ = new(name).update(params, new(name).init(params), params)
        assert {k: u.dtype for k, u in updates.items()} == {k: p.dtype for k, p in params.items()}, name


def test_the_dtype_of_states_may_be_another():
    state = factory_of("adamw")(mu_dtype="bfloat16").init(jnp.ones(3))
    optimizer = factory_of("adamw")(mu_dtype="bfloat16")
    _, after = optimizer.update(jnp.ones(3), state, jnp.ones(3))
    assert [x.dtype for x in (state[0].m, after[0].m)] == [jnp.bfloat16] * 2


@pytest.mark.parametrize("name", [*RULES, *OWN])
def test_empty_trees_step(name):
    for empty in ({}, (), {"a": None}):
        updates, _ = new(name).update(empty, new(name).init(empty), empty)
        assert updates == empty


@pytest.mark.parametrize("name", [name for name in RULES if load(name).fallback is None])
def test_arrays_without_elements_step(name):
    params = [jnp.zeros(0), jnp.ones(3)]
    updates, _ = new(name).update(params, new(name).init(params), params)
    assert updates[0].shape == (0,) and jnp.isfinite(updates[1]).all()


def test_states_mirror_the_parameters():
    params = tree()
    state = executed(export_optax(own_or_catalogued("counted")))["scale_by_counted"](total_steps=9).init(params)
    assert state.count.dtype == jnp.int32 and state.peak.shape == ()
    assert jax.tree.structure(state.m) == jax.tree.structure(state.n) == jax.tree.structure(params)
    zeros = optax.tree_utils.tree_map_params(new("adamw"), lambda x: x + 1, new("adamw").init(params))
    assert all((x == 1).all() for x in jax.tree.leaves(zeros[0].m))


def test_a_state_stands_only_where_its_part_does():
    params = {"matrix": jnp.ones((3, 2)), "vector": jnp.ones(4)}
    state = new("adafactor").init(params)
    shapes = sorted(x.shape for x in jax.tree.leaves(state) if x.ndim)
    assert shapes == [(1, 3), (2, 1), (4,)]  # a matrix keeps its inputs in rows: fan_out is 2


def test_weights_that_a_rule_reads_must_be_given():
    from optax._src.base import NO_PARAMS_MSG

    g = jnp.ones((2, 2))
    for name in ("adafactor", "twice"):
        with pytest.raises(ValueError) as error:
            new(name).update(g, new(name).init(g))
        assert str(error.value) == NO_PARAMS_MSG
    scale_by = executed(export_optax(load("muon")))["scale_by_muon"]()
    scale_by.update(g, scale_by.init(g))


def test_the_mask_says_where_decay_acts():
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    zero = jax.tree.map(jnp.zeros_like, params)
    optimizer = factory_of("adamw")(1.0, weight_decay=0.5, mask={"a": True, "b": False})
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    assert updates["a"].tolist() == [-0.5, -0.5] and not updates["b"].any()


def test_roles_may_be_a_function_or_a_tree_and_must_be_known():
    params = {"table": jnp.ones((5, 2)), "w": jnp.ones((2, 3))}
    named = {"table": "embedding", "w": "matrix"}
    one, other = factory_of("parts")(roles=named), factory_of("parts")(roles=lambda tree: named)
    near(trained(one, params), trained(other, params))
    with pytest.raises(ValueError, match="a role must be one of matrix, vector, embedding, head, not 'table'"):
        factory_of("parts")(roles={"table": "table", "w": "matrix"}).init(params)
    with pytest.raises(ValueError, match=r"shape \(3,\) has no rows and columns: its role is vector, not matrix"):
        factory_of("muon")(roles=["matrix"]).update(
            [jnp.ones(3)], factory_of("muon")(roles=["matrix"]).init([jnp.ones(3)])
        )


@pytest.mark.parametrize("name", ["muon", "scale", "adafactor", "parts"])
def test_a_matrix_that_lies_the_other_way_gets_the_same_update_turned(name):
    g = [jnp.asarray(x, jnp.float32) for x in gradients([(5, 3), (4, 4)], 1)[0]]
    turned = [x.T for x in g]
    roles = ["matrix", "matrix"]
    flax, torch = (factory_of(name)(roles=roles, outputs_first=first) for first in (False, True))
    ours, state = flax.update(turned, flax.init(turned), turned)
    theirs, other = torch.update(g, torch.init(g), g)
    for _ in range(2):
        ours, state = flax.update(turned, state, turned)
        theirs, other = torch.update(g, other, g)
    near(ours, [x.T for x in theirs], 1e-3)


def test_random_projections_follow_the_seed():
    params, updates = [jnp.ones((6, 8))], []
    g = [jnp.asarray(x, jnp.float32) for x in gradients([(6, 8)], 1)[0]]
    for seed in (0, 0, 1):
        optimizer = factory_of("apollo")(seed=seed)
        updates.append(jax.jit(optimizer.update)(g, optimizer.init(params), params)[0][0])
    assert (updates[0] == updates[1]).all() and (updates[0] != updates[2]).any()


def test_the_share_of_the_run_needs_its_length():
    with pytest.raises(TypeError, match="total_steps"):
        factory_of("counted")()
