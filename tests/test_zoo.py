"""Every catalogued rule is what its file says: it agrees with an oracle from the formula, or with torch."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from stepsmith.discovered import Entry, entries, entry, load, names
from stepsmith.discovered.catalogue import SHELVES
from stepsmith.dsl import Kind, Program, ProgramError
from stepsmith.dsl.flow import flow, reject_reason
from stepsmith.dsl.interpret import Interpreter

SHAPES = [(4, 3), (5,), ()]
STEPS = 30


def gradients(seed: int = 0) -> list[list[np.ndarray]]:
    """Gradients of ordinary size; the first element of the second tensor never gets one."""
    random = np.random.default_rng(seed)
    sizes = list(zip(SHAPES, (1.0, 0.1, 3.0), strict=True))
    steps = [[random.standard_normal(s) * size for s, size in sizes] for _ in range(STEPS)]
    for step in steps:
        step[1][0] = 0.0
    return steps


def weights() -> list[np.ndarray]:
    return [np.random.default_rng(7).standard_normal(s) for s in SHAPES]


def schedule(t: int) -> float:
    return min(1.0, t / 5) * (1 - t / (2 * STEPS))


def by_interpreter(program: Program) -> list[np.ndarray]:
    w, runner = weights(), Interpreter(program, SHAPES)
    for t, g in enumerate(gradients(), 1):
        w = [x - u for x, u in zip(w, runner.step(w, g, schedule(t), t, t / STEPS), strict=True)]
    return w


# --- oracles: one tensor at a time, from the formulas -------------------------------------------------------


def ema(state: dict, key: str, rate: float, value: np.ndarray) -> np.ndarray:
    state[key] = rate * state.get(key, 0.0) + (1 - rate) * value
    return state[key]


def adam(w, g, s, t, lr, decay=0.01):
    m, v = ema(s, "m", 0.9, g), ema(s, "v", 0.999, g**2)
    return lr * ((m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8) + decay * w)


def adamw_plain(w, g, s, t, lr):
    m, v = ema(s, "m", 0.9, g), ema(s, "v", 0.999, g**2)
    ratio = np.divide(m, np.sqrt(v), out=np.zeros_like(m), where=v != 0)
    return lr * 0.001 * (ratio + 0.01 * w)


def cautious(u, g):
    mask = np.array(u * g > 0, dtype=float)
    return u * mask / max(mask.mean(), 1e-3)


def c_adamw(w, g, s, t, lr):
    return lr * cautious(adam(w, g, s, t, 1.0, decay=0.0), g)


def lion(w, g, s, t, lr):
    update = np.sign(0.9 * s.get("m", 0.0) + 0.1 * g)
    ema(s, "m", 0.99, g)
    return lr * update


def c_lion(w, g, s, t, lr):
    return lr * cautious(lion(w, g, s, t, 1.0), g)


def nadamw(w, g, s, t, lr):
    m, v = ema(s, "m", 0.9, g), ema(s, "v", 0.999, g**2)
    ahead = 0.9 * m / (1 - 0.9 ** (t + 1)) + 0.1 * g / (1 - 0.9**t)
    return lr * (ahead / (np.sqrt(v / (1 - 0.999**t)) + 1e-8) + 0.01 * w)


def adabelief(w, g, s, t, lr):
    m = ema(s, "m", 0.9, g)
    s["s"] = 0.999 * s.get("s", 0.0) + 0.001 * (g - m) ** 2 + 1e-16
    return lr * (m / (1 - 0.9**t)) / (np.sqrt(s["s"] / (1 - 0.999**t)) + 1e-16)


def signum(w, g, s, t, lr):
    return lr * np.sign(ema(s, "m", 0.9, g))


def powersign(w, g, s, t, lr):
    return lr * math.e ** (np.sign(g) * np.sign(ema(s, "m", 0.9, g))) * g


def addsign(w, g, s, t, lr):
    return lr * (1 + np.sign(g) * np.sign(ema(s, "m", 0.9, g))) * g


def signsgd(w, g, s, t, lr):
    return lr * np.sign(g)


ORACLES = {
    "adamw": adam, "adamw_plain": adamw_plain, "c_adamw": c_adamw, "lion": lion, "c_lion": c_lion,
    "nadamw": nadamw, "adabelief": adabelief, "signum": signum, "powersign": powersign,
    "addsign": addsign, "signsgd": signsgd,
}  # fmt: skip
COVERED = {*ORACLES, "adamw_clip"}
PEAKS = {"adamw_plain": 1.0, "lion": 1e-4, "c_lion": 1e-4, "signum": 1e-4, "signsgd": 1e-4, "powersign": 0.1,
         "addsign": 0.1}  # fmt: skip
TORCH = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, alpha=0.99, eps=1e-8),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01, eps=1e-10),
}


COVERED |= set(TORCH)


@pytest.mark.parametrize("name", ORACLES)
def test_it_follows_its_formula(name):
    w: list[np.ndarray] = weights()
    states: list[dict] = [{} for _ in w]
    for t, g in enumerate(gradients(), 1):
        lr = PEAKS.get(name, 1e-3) * schedule(t)
        w = [x - ORACLES[name](x, y, s, t, lr) for x, y, s in zip(w, g, states, strict=True)]
    close(by_interpreter(load(name)), w)


def test_adamw_clip_follows_its_formula():
    w, states, clipped = weights(), [{} for _ in SHAPES], 0
    for t, g in enumerate(gradients(), 1):
        norm = math.sqrt(sum(float((x * x).sum()) for x in g))
        clipped += norm > 1
        g = [x * min(1.0, 1.0 / norm) for x in g]
        w = [x - adam(x, y, s, t, 1e-3 * schedule(t)) for x, y, s in zip(w, g, states, strict=True)]
    assert clipped
    close(by_interpreter(load("adamw_clip")), w)


@pytest.mark.parametrize("name", TORCH)
def test_it_is_torchs(name):
    parameters = [torch.nn.Parameter(torch.from_numpy(np.array(x))) for x in weights()]
    optimizer = TORCH[name](parameters)
    peak = optimizer.param_groups[0]["lr"]
    for t, g in enumerate(gradients(), 1):
        optimizer.param_groups[0]["lr"] = peak * schedule(t)
        for p, x in zip(parameters, g, strict=True):
            p.grad = torch.from_numpy(np.array(x))
        optimizer.step()
    close(by_interpreter(load(name)), [p.detach().numpy() for p in parameters])


def close(ours: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    for x, y in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-11, atol=1e-13)


def covered(file: str) -> set[str]:
    """The rules that another file of tests follows."""
    spec = importlib.util.spec_from_file_location(f"beside_{file}", Path(__file__).with_name(f"{file}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.COVERED


def test_every_rule_has_an_oracle():
    zoo = {e.name for e in entries() if e.shelf == "zoo"}
    assert zoo == COVERED | covered("test_zoo_adaptive") | covered("test_zoo_matrix")


#: The rows of the survey of published optimizers that the language was measured against.
SURVEY = (
    "adamw", "adabelief", "exadam", "lion", "rex", "spam", "stable_spam", "c_adamw", "c_lion", "sgd_sai", "adamp",
    "scale", "sinkgd", "adafactor", "muon", "swan", "root", "soap", "galore", "fira", "apollo", "apollo_mini", "conda",
    "sophia", "adahessian", "mezo", "adam8bit", "onebit_adam",
)  # fmt: skip


def test_every_row_of_the_survey_is_in_the_catalogue():
    assert set(SURVEY) <= set(names())


# --- the catalogue ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("found", entries(), ids=lambda e: e.name)
def test_an_entry_is_a_program_with_a_record(found: Entry):
    program = found.program
    again = Program.parse(str(program))
    assert again == program
    assert str(again) == str(program)
    assert again.doc == program.doc
    assert program.schedule or reject_reason(flow(program)) is None
    assert program.name == found.name
    assert found.description.endswith(".")
    assert "\n" not in found.description
    assert found.source
    assert found.shelf in SHELVES
    whole = [state for state in program.states if state.kind is Kind.TENSOR]
    assert found.cost.state >= len(whole)


def test_names_are_sorted_and_each_stands_on_one_shelf():
    assert names() == sorted(e.name for e in entries())
    assert {"adamw", "adamw_clip", "adamw_plain", "lion", "c_adamw", "c_lion", "sgd"} <= set(names())


def test_a_record_keeps_its_notes():
    assert entry("c_adamw").source == "Liang et al. 2024, arXiv:2411.16085"
    first = entry("c_adamw").differs[0]
    assert first.startswith("the mask is divided")
    assert first.endswith("per tensor.")


def test_names_may_be_written_as_papers_do():
    assert load("C-Lion") is load("c_lion")


def refusal(name) -> str:
    with pytest.raises(ProgramError) as caught:
        load(name)
    message = str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert "\n" not in message
    return message


def test_an_unknown_name_gets_a_hint():
    assert refusal("loin") == "unknown program 'loin'; did you mean 'lion'?"
    assert refusal("zzzz").startswith("unknown program 'zzzz'; known: adabelief, ")
    assert refusal("") and refusal("a\nb")


def test_a_file_is_loaded(tmp_path, monkeypatch):
    file = tmp_path / "mine.opt"
    file.write_text("\ufeff" + str(load("lion")), encoding="utf-8")
    assert load(file) == load(str(file)) == load("lion")
    monkeypatch.chdir(tmp_path)
    assert load("mine.opt") == load("./mine.opt") == load("lion")
    (tmp_path / "lion").mkdir()  # a folder of a rule's name does not hide the rule
    assert load("lion").name == "lion"


def test_an_unreadable_file_is_refused_in_one_line(tmp_path):
    assert refusal(tmp_path / "none.opt").endswith("none.opt': No such file or directory")
    assert "it is a folder" in refusal(tmp_path)
    assert "it is a folder" in refusal(str(tmp_path) + "/")
    for number, data in enumerate([b"\x89PNG\xff\xfe", b"def\0", np.arange(99.0).tobytes()]):
        file = tmp_path / f"{number}.opt"
        file.write_bytes(data)
        assert "no text file" in refusal(file)
    big = tmp_path / "big.opt"
    with big.open("wb") as out:
        out.truncate(10**12)
    assert "too long" in refusal(big)
    assert "no regular file" in refusal("/dev/zero")
    assert "cannot read" in refusal("a\0b.opt")


def test_a_wrong_text_names_file_line_and_column(tmp_path):
    file = tmp_path / "wrong.opt"
    file.write_text("def f(w, g, lr):\n    return lr * gg\n")
    assert refusal(file) == f"{file}:2:17: unknown name 'gg'; did you mean 'g'?"
