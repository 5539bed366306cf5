"""Catalogued rules that clip, reset, reduce, sample or quantise: each agrees with an oracle from its formula."""

import math
import re
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stepsmith.discovered import entry, load
from stepsmith.dsl import Program
from stepsmith.dsl.draws import Stream, normal, philox
from stepsmith.dsl.interpret import Interpreter
from stepsmith.dsl.to_torch import compile_step, zero_states

SHAPES = [(6, 4), (3, 7), (5,), (8, 3)]
ROLES = ["matrix", "matrix", "vector", "embedding"]
SIZES = (1.0, 0.1, 3.0, 0.5)
STEPS = 50
SEED = 3
UPDATES = {
    "exadam", "spam", "stable_spam", "sgd_sai", "adamp", "sophia", "adahessian", "mezo", "adam8bit", "onebit_adam",
    "nadam",
}  # fmt: skip
SCHEDULES = {"rex", "cosine", "linear", "wsd"}
COVERED = UPDATES | SCHEDULES


def weights(shapes=SHAPES) -> list[np.ndarray]:
    random = np.random.default_rng(7)
    return [random.standard_normal(s) for s in shapes]


def gradient(t: int, w: list[np.ndarray], worker: int = 0) -> list[np.ndarray]:
    """Of ordinary size; the first element of the vector has none for 10 steps; spikes at steps 24, 33 and 47."""
    random = np.random.default_rng((t, worker))
    g = [random.standard_normal(x.shape) * SIZES[i % len(SIZES)] for i, x in enumerate(w)]
    for x in g:
        if x.ndim == 1 and t <= 10:
            x[0] = 0.0
        if t in (24, 33, 47):
            x.flat[t % x.size] *= 1e4
    return g


def oracles(t: int, w: list[np.ndarray]) -> dict:
    """What a trainer gives: a curvature of either sign, one above 0 when it is due, a difference of losses."""
    random = np.random.default_rng((t, 99))
    given = {"hutchinson": [random.standard_normal(x.shape) for x in w], "two_point": float(random.standard_normal())}
    if t % 10 == 1:
        given["gauss_newton"] = [100 * random.standard_normal(x.shape) ** 2 for x in w]
    return given


def schedule(t: int) -> float:
    return min(1.0, t / 5) * (1 - t / (2 * STEPS))


def variant(name: str, **hypers: float) -> Program:
    """A catalogued program with other defaults, in its text and that of its fallbacks."""
    text = "\n".join(line for line in str(load(name)).split("\n") if not line.startswith("#"))
    for key, value in hypers.items():
        text, count = re.subn(rf"\b{key}=[^,)]+", f"{key}={value!r}", text)
        assert count, f"{name} has no {key}"
    return Program.parse(text)


# --- three roads: the interpreter, torch, an oracle; each gives the updates of every step --------------------


def by_interpreter(program, steps=STEPS, shapes=SHAPES, roles=ROLES, gradient=gradient, workers=1):
    w, updates = weights(shapes), []
    runner = Interpreter(program, shapes, roles=roles, seed=SEED, workers=workers)
    for t in range(1, steps + 1):
        g = [x for worker in range(workers) for x in gradient(t, w, worker)]
        updates += runner.step(w, g, schedule(t), t, t / STEPS, oracles(t, w))
        w = [x - u for x, u in zip(w, updates[-len(w) :], strict=True)]
    return updates


def by_torch(program, steps=10, shapes=SHAPES, roles=ROLES, gradient=gradient, workers=1):
    w, updates = weights(shapes), []
    step = compile_step(program, roles, seed=SEED, workers=workers)
    states = zero_states(program, tensors(w * workers), roles)
    for t in range(1, steps + 1):
        g = [x for worker in range(workers) for x in gradient(t, w, worker)]
        given = {n: tensors(v) if isinstance(v, list) else v for n, v in oracles(t, w).items()}
        update, states = step(tensors(w * workers), tensors(g), states, schedule(t), t, t / STEPS, given)
        updates += [u.numpy() for u in update[: len(w)]]
        w = [x - u for x, u in zip(w, updates[-len(w) :], strict=True)]
    return updates


def by_oracle(rule, peak, shapes=SHAPES, gradient=gradient, roles=ROLES, **hypers):
    """`rule(w, g, s, at)` is the update of one tensor; `at` holds what the step knows, `s` the tensor's states."""
    w, states, updates = weights(shapes), [{} for _ in shapes], []
    for t in range(1, STEPS + 1):
        g, given = gradient(t, w), oracles(t, w)
        for i, x in enumerate(w):
            own = {n: v[i] if isinstance(v, list) else v for n, v in given.items()}
            at = SimpleNamespace(t=t, lr=peak * schedule(t), progress=t / STEPS, role=roles[i], index=i, **own)
            updates.append(rule(x, g[i], states[i], at, **hypers))
        w = [x - u for x, u in zip(w, updates[-len(w) :], strict=True)]
    return updates


def tensors(xs):
    return [torch.tensor(x) for x in xs]


def close(ours, theirs) -> None:
    for x, y in zip(ours, theirs, strict=True):
        assert np.isfinite(y).all()
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-12 * np.abs(y).max())


def differ(ours, theirs) -> bool:
    return any(not np.allclose(x, y, rtol=1e-6) for x, y in zip(ours, theirs, strict=True))


# --- oracles: one tensor, from the formula ------------------------------------------------------------------


def ema(s, key, rate, value):
    s[key] = rate * s.get(key, 0.0) + (1 - rate) * value
    return s[key]


def adam(g, s, t, eps=1e-8):
    m, v = ema(s, "m", 0.9, g), ema(s, "v", 0.999, g**2)
    return m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + eps)


def exadam(w, g, s, at, decay=0.0):
    m, v = ema(s, "m", 0.9, g), ema(s, "v", 0.999, g**2)
    d1 = 1 + v / (v + 1e-8) * 0.999**at.t
    d2 = 1 + m**2 / (m**2 + 1e-8) * 0.9**at.t
    top = m * d1 / (1 - 0.9**at.t) + g * d1 / (1 - 0.9**at.t)
    return at.lr * (top / (np.sqrt(v * d2 / (1 - 0.999**at.t)) + 1e-8) + decay * w)


def spam(w, g, s, at, period=500, warmup=150, theta=5000, delay=20, decay=0.0, seen=None):
    seen = Counter() if seen is None else seen
    since = at.t % period
    if since == 0:
        s.clear()
        seen["reset"] += 1
    g = g.copy()
    before = np.broadcast_to(s.get("v", 0.0), g.shape)
    for place in np.ndindex(g.shape):
        if since >= delay and g[place] ** 2 > theta * before[place]:
            g[place] = math.copysign(math.sqrt(theta * before[place]), g[place])
            seen["clip"] += 1
    scale = 1.0
    if at.t >= period and since < warmup:
        scale = 1 - 0.99 * (1 + math.cos(math.pi * since / (warmup + 1))) / 2
        seen["rise"] += 1
    return at.lr * (scale * adam(g, s, at.t, eps=1e-6) + decay * w)


def stable_spam(w, g, s, at, period=1000, floor=0.5, decay=0.0, seen=None):
    seen = Counter() if seen is None else seen
    largest = np.abs(g).max()
    limit = ema(s, "top", 0.999, largest) / (1 - 0.999**at.t)
    seen["clip"] += int((np.abs(g) > limit * (1 + 1e-12)).sum())
    g = np.where(np.abs(g) > limit, g * limit / largest, g)
    norm = math.sqrt((g**2).sum())
    mu = ema(s, "n", 0.7, norm) / (1 - 0.7**at.t)
    nu = ema(s, "n2", 0.9, norm**2) / (1 - 0.9**at.t)
    g = g / norm * mu / (math.sqrt(nu) + 1e-8)
    if at.t % period == 0:
        seen["reset"] += 1
        s["start"] = at.t
        s.pop("m"), s.pop("v")
    count = at.t - s.get("start", 1) + 1
    beta = 0.9 * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * at.progress)))
    m, v = ema(s, "m", beta, g), ema(s, "v", 0.999, g**2)
    return at.lr * (m / (1 - beta**count) / (np.sqrt(v / (1 - 0.999**count)) + 1e-8) + decay * w)


def sgd_sai(w, g, s, at):
    if at.t == 1:
        s["s"] = math.sqrt((g**2).sum()) / (np.std(g, ddof=1) + 1e-8)
        s["m"] = g
    else:
        ema(s, "m", 0.9, g)
    return at.lr * (s["s"] * s["m"] + 0.01 * w)


def cosines(a, b):
    """Of each row of two matrices."""
    return [abs(x @ y) / (math.sqrt(x @ x) * math.sqrt(y @ y)) for x, y in zip(a, b, strict=True)]


def without(u, w):
    """The rows of u without their part along those of w."""
    return np.stack([x - (y @ x) / (math.sqrt(y @ y) + 1e-8) ** 2 * y for x, y in zip(u, w, strict=True)])


def adamp(w, g, s, at, decay=0.0, seen=None):
    seen, u = Counter() if seen is None else seen, adam(g, s, at.t)
    if w.ndim > 1:
        for view, shape in (("rows", (len(w), w.size // len(w))), ("whole", (1, w.size))):
            if max(cosines(g.reshape(shape), w.reshape(shape))) < 0.1 / math.sqrt(shape[1]):
                u, decay = without(u.reshape(shape), w.reshape(shape)).reshape(w.shape), decay * 0.1
                seen[at.role, view] += 1
                break
        else:
            seen[at.role, "none"] += 1
    return at.lr * (u + decay * w)


def sophia(w, g, s, at, seen=None):
    m = ema(s, "m", 0.965, g)
    if at.t % 10 == 1:
        ema(s, "h", 0.99, at.gauss_newton)
    ratio = np.abs(m) / (0.05 * s["h"] + 1e-15)
    if seen is not None:
        seen["clipped"] += int((ratio > 1).sum())
        seen["free"] += int((ratio < 1).sum())
    return at.lr * (np.sign(m) * np.minimum(1, ratio) + 0.1 * w)


def adahessian(w, g, s, at, power=1.0, decay=0.0):
    m, v = ema(s, "m", 0.9, g), ema(s, "v", 0.999, np.abs(at.hutchinson) ** 2)
    bottom = np.sqrt(v) ** power / math.sqrt(1 - 0.999**at.t) ** power + 1e-4
    return at.lr * (m / (1 - 0.9**at.t) / bottom + decay * w)


def mezo(w, g, s, at, decay=0.0):
    z = normal(philox(SEED, at.t, Stream.NOISE, at.index), w.shape).astype(np.float64)
    return at.lr * (at.two_point * z + (decay * w if w.ndim > 1 else 0.0))


ORACLES = {"exadam": exadam, "spam": spam, "stable_spam": stable_spam, "sgd_sai": sgd_sai, "adamp": adamp,
           "sophia": sophia, "adahessian": adahessian, "mezo": mezo}  # fmt: skip
PEAKS = {"exadam": 1e-3, "spam": 1e-3, "stable_spam": 1e-3, "sgd_sai": 1e-2, "adamp": 1e-3, "sophia": 1e-4,
         "adahessian": 0.15, "mezo": 1e-6}  # fmt: skip


@pytest.mark.parametrize("name", ORACLES)
def test_it_follows_its_formula(name):
    close(by_interpreter(load(name)), by_oracle(ORACLES[name], PEAKS[name]))


VARIANTS = {
    "exadam": ({"weight_decay": 0.1}, {"decay": 0.1}),
    "adahessian": ({"hessian_power": 0.5, "weight_decay": 0.1}, {"power": 0.5, "decay": 0.1}),
    "mezo": ({"lr": 0.01, "weight_decay": 0.1}, {"decay": 0.1}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_it_follows_its_formula_with_other_constants(name):
    ours, theirs = VARIANTS[name]
    peak = ours.get("lr", PEAKS[name])
    expected = by_oracle(ORACLES[name], peak, **theirs)
    close(by_interpreter(variant(name, **ours)), expected)
    assert differ(expected, by_oracle(ORACLES[name], PEAKS[name]))
    close(by_torch(variant(name, **ours)), expected[: 10 * len(SHAPES)])


def test_spam_clips_spikes_resets_and_rises_again():
    seen = Counter()
    program = variant("spam", period=15, warmup=6, delay=4, threshold=500.0, weight_decay=0.1)
    hypers = {"period": 15, "warmup": 6, "delay": 4, "theta": 500, "decay": 0.1}
    expected = by_oracle(spam, 1e-3, seen=seen, **hypers)
    close(by_interpreter(program), expected)
    close(by_torch(program, STEPS), expected)
    assert seen["reset"] == 3 * len(SHAPES)
    assert seen["rise"] == 3 * 6 * len(SHAPES)
    assert seen["clip"] > 3 * len(SHAPES)


def test_spam_clips_as_published():
    seen = Counter()
    by_oracle(spam, 1e-3, seen=seen)
    assert seen["clip"] >= 3 * (len(SHAPES) - 1)
    assert not seen["reset"]


def test_spam_lets_a_weight_without_an_early_gradient_wait_for_the_reset():
    runner, moved = Interpreter(variant("spam", period=8, delay=2), [(2,)]), []
    for t in range(1, 11):
        (update,) = runner.step([np.ones(2)], [np.array([1.0, float(t > 3)])], t=t)
        moved.append((update != 0).tolist())
    assert moved == [[True, False]] * 7 + [[True, True]] * 3


def test_stable_spam_clips_and_resets():
    seen = Counter()
    program = variant("stable_spam", period=15, weight_decay=0.1)
    expected = by_oracle(stable_spam, 1e-3, period=15, decay=0.1, seen=seen)
    close(by_interpreter(program), expected)
    close(by_torch(program, STEPS), expected)
    assert seen["reset"] == 3 * len(SHAPES)
    assert seen["clip"] > 3 * len(SHAPES)


def test_stable_spam_takes_a_tensor_without_gradient():
    still = Interpreter(load("stable_spam"), [(2,)])
    (update,) = still.step([np.ones(2)], [np.zeros(2)])
    np.testing.assert_array_equal(update, 0.0)


def test_sgd_sai_keeps_the_rate_of_the_first_step():
    runner, rates = Interpreter(load("sgd_sai"), SHAPES, roles=ROLES), []
    for t in (1, 2, 3):
        runner.step(weights(), gradient(t, weights()), t=t)
        rates.append([float(s) for s in runner.states[1]])
    assert rates[0] == rates[1] == rates[2]
    assert min(rates[0]) > 1


def towards(t: int, w: list[np.ndarray], worker: int = 0) -> list[np.ndarray]:
    """By turns orthogonal to the weights row by row, as a whole alone, and not."""
    g = gradient(t, w)
    for i, x in enumerate(w):
        rows = x.reshape((x.shape[0], -1) if t % 3 == 0 and x.ndim > 1 else (1, -1))
        flat = g[i].reshape(rows.shape)
        if t % 3 < 2:
            flat = flat - (flat * rows).sum(1, keepdims=True) / (rows * rows).sum(1, keepdims=True) * rows
        g[i] = flat.reshape(x.shape)
    return g


def test_adamp_projects_by_row_and_as_a_whole():
    seen = Counter()
    program = variant("adamp", weight_decay=0.1)
    expected = by_oracle(adamp, 1e-3, gradient=towards, decay=0.1, seen=seen)
    close(by_interpreter(program, gradient=towards), expected)
    assert all(seen[role, view] > 10 for role in ("matrix", "embedding") for view in ("rows", "whole", "none"))
    close(by_torch(program, gradient=towards), by_interpreter(program, 10, gradient=towards))


def test_adamp_sees_rows_of_a_tensor_of_four_axes():
    shapes, roles = [(4, 2, 3, 3), (3, 7)], ["matrix", "head"]
    expected = by_oracle(adamp, 1e-3, shapes, towards, roles, decay=0.0)
    close(by_interpreter(load("adamp"), STEPS, shapes, roles, towards), expected)


def test_sophia_clips_some_steps_and_not_others():
    seen = Counter()
    by_oracle(sophia, 1e-4, seen=seen)
    assert min(seen["clipped"], seen["free"]) > 100


# --- rules with a test of their own -------------------------------------------------------------------------


def test_nadam_is_torchs(monkeypatch):
    monkeypatch.setattr(torch, "get_default_dtype", lambda: torch.float64)  # torch's product of momenta has this
    parameters, updates = [torch.nn.Parameter(x) for x in tensors(weights())], []
    optimizer = torch.optim.NAdam(parameters, lr=2e-3)
    for t in range(1, STEPS + 1):
        optimizer.param_groups[0]["lr"] = 2e-3 * schedule(t)
        for p, x in zip(parameters, gradient(t, weights()), strict=True):
            p.grad = torch.tensor(x)
        before = [p.detach().clone() for p in parameters]
        optimizer.step()
        updates += [(x - p).detach().numpy() for x, p in zip(before, parameters, strict=True)]
    assert optimizer.state[parameters[0]]["mu_product"].dtype is torch.float64
    close(by_interpreter(load("nadam")), updates)


def nadam(w, g, s, at):
    mu, ahead = (0.9 * (1 - 0.5 * 0.96 ** (0.004 * t)) for t in (at.t, at.t + 1))
    s["product"] = s.get("product", 1.0) * mu
    m, v = ema(s, "m", 0.9, g), ema(s, "v", 0.999, g**2)
    top = ahead * m / (1 - s["product"] * ahead) + (1 - mu) * g / (1 - s["product"])
    return at.lr * top / (np.sqrt(v / (1 - 0.999**at.t)) + 1e-8)


def test_nadam_follows_its_formula():
    close(by_interpreter(load("nadam")), by_oracle(nadam, 2e-3))


LARGE = [(70, 64), (5,), (64, 65), (63, 65)]  # the last has 4095 elements, one fewer than are kept in 8 bits


def codes(signed: bool) -> np.ndarray:
    """The 256 values: 0, 1, and in decade i of seven the middles of 2 ** i parts (twice that without a sign)."""
    values = [0.0, 1.0]
    for decade in range(7):
        parts = 2**decade * (1 if signed else 2)
        for part in range(parts):
            value = (0.1 + 0.9 * (part + 0.5) / parts) / 10 ** (6 - decade)
            values += [value, -value] if signed else [value]
    assert len(set(values)) == 256
    return np.array(values)


def eight_bits(x: np.ndarray, signed: bool) -> np.ndarray:
    """The nearest code to each element, by search over all of them, times the block's largest size."""
    if x.size < 4096:
        return x
    table, flat = codes(signed), x.ravel().copy()
    for start in range(0, flat.size, 256):
        block = flat[start : start + 256]
        scale = np.abs(block).max()
        nearest = np.abs(block[:, None] / scale - table).argmin(1)
        flat[start : start + 256] = table[nearest] * scale
    return flat.reshape(x.shape)


def adam8bit(w, g, s, at):
    update = adam(g, s, at.t) + 0.01 * w
    s["m"], s["v"] = eight_bits(s["m"], True), eight_bits(s["v"], False)
    return at.lr * update


def adamw(w, g, s, at):
    return at.lr * (adam(g, s, at.t) + 0.01 * w)


def calm(t: int, w: list[np.ndarray], worker: int = 0) -> list[np.ndarray]:
    """Without spikes: beside a second moment 1e8 times as large one is 0 in 8 bits, and its step m / eps."""
    random = np.random.default_rng((t, worker))
    return [np.exp(random.standard_normal(x.shape)) * random.choice([-1.0, 1.0], x.shape) for x in w]


def test_adam8bit_follows_its_formula():
    roles = ["matrix", "vector", "matrix", "matrix"]
    expected = by_oracle(adam8bit, 1e-3, LARGE, calm, roles)
    close(by_interpreter(load("adam8bit"), STEPS, LARGE, roles, calm), expected)
    exact = by_oracle(adamw, 1e-3, LARGE, calm, roles)
    kept = [np.array_equal(x, y) for x, y in zip(expected[-4:], exact[-4:], strict=True)]
    assert kept == [False, True, False, True]
    close(by_torch(load("adam8bit"), 10, LARGE, roles, calm), by_interpreter(load("adam8bit"), 10, LARGE, roles, calm))


def sent_as_signs(x: np.ndarray) -> np.ndarray:
    return np.sign(x) * math.sqrt((x**2).mean())


def onebit_adam(workers: int, freeze: int, decay: float = 0.0) -> list[np.ndarray]:
    """Every worker with an error of its own, and a server with one per tensor."""
    w, updates = weights(), []
    m, v, server = ([np.zeros(s) for s in SHAPES] for _ in range(3))
    errors = [[np.zeros(s) for s in SHAPES] for _ in range(workers)]
    for t in range(1, STEPS + 1):
        g = [gradient(t, w, worker) for worker in range(workers)]
        for i in range(len(SHAPES)):
            if t <= freeze:
                mean = sum(each[i] for each in g) / workers
                m[i], v[i] = 0.9 * m[i] + 0.1 * mean, 0.999 * v[i] + 0.001 * mean**2
            else:
                arrived = np.zeros(SHAPES[i])
                for worker in range(workers):
                    own = 0.9 * m[i] + 0.1 * g[worker][i] + errors[worker][i]
                    errors[worker][i] = own - sent_as_signs(own)
                    arrived += sent_as_signs(own) / workers
                arrived += server[i]
                m[i] = sent_as_signs(arrived)
                server[i] = arrived - m[i]
            updates.append(1e-3 * schedule(t) * (m[i] / (np.sqrt(v[i]) + 1e-8) + decay * w[i]))
            w[i] = w[i] - updates[-1]
    assert all(np.abs(e).max() > 0 for e in errors[0]) == (freeze < STEPS)
    return updates


@pytest.mark.parametrize("workers", [1, 2])
def test_onebit_adam_follows_its_formula(workers):
    program = variant("onebit_adam", freeze=15, weight_decay=0.1)
    close(by_interpreter(program, workers=workers), onebit_adam(workers, 15, 0.1))
    close(by_torch(program, 25, workers=workers), by_interpreter(program, 25, workers=workers))
    close(by_interpreter(load("onebit_adam"), workers=workers), onebit_adam(workers, 100000))


# --- all of them --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(UPDATES))
def test_torch_does_as_numpy(name):
    close(by_torch(load(name)), by_interpreter(load(name), 10))


@pytest.mark.parametrize("name", sorted(COVERED))
def test_the_text_has_a_record_and_parses_back(name):
    found = entry(name)
    assert found.program.name == name
    assert Program.parse(str(found.program)) == found.program
    assert found.description.endswith(".") and found.source and found.differs


def test_every_rule_here_has_an_oracle():
    assert set(ORACLES) | {"nadam", "adam8bit", "onebit_adam"} == UPDATES


# --- schedules ----------------------------------------------------------------------------------------------

PROGRESS = np.array([0.0, 0.02, 0.25, 0.5, 0.79, 0.81, 0.9, 0.999, 1.0])


def wsd(z, cooldown=0.2):
    return 1.0 if z < 1 - cooldown else (1 - z) / cooldown


FALLS = {
    "rex": lambda z: (1 - z) / (0.5 + 0.5 * (1 - z)),
    "cosine": lambda z: math.cos(math.pi * z / 2) ** 2,
    "linear": lambda z: 1 - z,
    "wsd": wsd,
}


@pytest.mark.parametrize("floor", [0.0, 0.1])
@pytest.mark.parametrize("name", FALLS)
def test_a_schedule_follows_its_formula(name, floor):
    from stepsmith.dsl.schedules import multipliers

    program = variant(name, floor=floor)
    expected = [floor + (1 - floor) * FALLS[name](z) for z in PROGRESS]
    np.testing.assert_allclose(multipliers(program, PROGRESS), expected, rtol=1e-9, atol=1e-12)
    assert set(FALLS) == SCHEDULES


def test_wsd_without_a_cooldown_stays():
    from stepsmith.dsl.schedules import multipliers

    np.testing.assert_array_equal(multipliers(variant("wsd", cooldown=0.0), PROGRESS), 1.0)
