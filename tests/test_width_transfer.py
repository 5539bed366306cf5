"""Width transfer: at the base width nothing changes, rates by role, decay, and activations that move alike."""

from dataclasses import replace

import pytest
import torch

import stepsmith as ss
from stepsmith.dsl import Program
from stepsmith.dsl.symmetry import degree
from stepsmith.evaluator.train import Run
from stepsmith.evaluator.validation.coordinate_check import coordinate_check
from stepsmith.evaluator.validation.training import Trainer, Training
from stepsmith.evaluator.validation.width_transfer import lr_factors, width_exponents
from stepsmith.proxies import TaskError
from stepsmith.proxies.targets import UnknownTarget, at_width, target
from stepsmith.proxies.targets.decoder import Decoder, DecoderShape

WIDTHS = (32, 64, 128)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def trainer(goal, rule):
    return Trainer(goal, Training(Run(rule), 0, 4))


# --- the model ----------------------------------------------------------------------------------------------


def test_a_fingerprint_tells_the_parametrisation_and_standard_targets_do_not_speak_of_it():
    assert "base_width" not in str(target("gpt-60k").module(0))
    assert target("gpt-100k@128").fingerprint() != at_width(target("gpt-100k"), 128, mup=False).fingerprint()


@pytest.mark.parametrize("name", ["gpt-100k", "llama-100k-qk"])
def test_at_the_base_width_a_run_is_the_standard_one_bit_for_bit(name):
    plain = target(name)
    same = at_width(plain, 64)
    assert same.steps == plain.steps
    runs = [trainer(goal, ss.load("muon")) for goal in (plain, same)]
    for run in runs:
        for batch in plain.data.batches(0, 3, 2):
            run.advance(batch)
    for one, two in zip(*(run.module.parameters() for run in runs), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("style", ["gpt", "llama"])
def test_logits_are_divided_and_a_head_of_its_own_keeps_its_start(style):
    shapes = [DecoderShape(128, width, 1, 4, 16, style, base_width=32) for width in (32, 512)]
    narrow, wide = (float(Decoder(shape).head.weight.detach().std()) for shape in shapes)
    assert wide / narrow == pytest.approx(1.0, rel=0.1)
    standard = Decoder(replace(shapes[1], base_width=0))
    wide = Decoder(shapes[1])
    wide.load_state_dict(standard.state_dict())
    tokens = torch.randint(0, 128, (2, 16))
    with torch.no_grad():
        read = wide.features(tokens)
        torch.testing.assert_close(wide(tokens), standard.head(read) / 16)


def test_queries_meet_keys_with_less_weight_the_wider_a_head_is():
    narrow, wide = (Decoder(DecoderShape(128, w, 1, 4, 16, base_width=32)).blocks[0].attention for w in (32, 128))
    assert narrow.scale is None  # torch's own 1 / sqrt(8)
    assert wide.scale == pytest.approx(8**0.5 / 32)


def test_targets_have_other_widths_by_name_and_what_cannot_is_refused_in_a_line():
    assert target("gpt-100k@128").steps > 3 * target("gpt-100k").steps
    assert at_width(target("gpt-100k@128"), 32).fingerprint() == target("gpt-100k@32").fingerprint()
    bad = {"gpt-100k@wide": "whole number", "gpt-100k@0": "above 0", "gpt-1@64": "unknown target 'gpt-1'"}
    for name, said in bad.items():
        with pytest.raises(UnknownTarget, match=said):
            target(name)
    for name, said in (("table-wine@64", "no decoder"), ("gpt-100k@60", "multiple of 8")):
        with pytest.raises(TaskError, match=said):
            target(name)


# --- learning rates -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "matrix", "others"),
    [("adamw", -1, 0), ("lion", -1, 0), ("adam8bit", -1, 0), ("sinkgd", -1, 0), ("muon", 0, 0), ("sgd", 0, 1),
     ("momentum", 0, 1), ("root", -0.5, 0)],
)  # fmt: skip
def test_exponents_are_those_of_the_class_of_a_rule(rule, matrix, others):
    found = width_exponents(ss.load(rule))
    assert found == {"matrix": matrix, "vector": others, "embedding": others, "head": others}


@pytest.mark.parametrize("update", ["g * abs(g)", "sign(g) * sqrt(abs(g))", "sign(g)", "g"])
def test_elementwise_rules_follow_their_proved_degree(update):
    rule = Program.parse(f"def f(w, g, lr):\n  return lr * {update}")
    k = degree(rule)
    assert width_exponents(rule) == {"matrix": k - 1, "vector": k, "embedding": k, "head": k}


def test_a_rule_without_an_update_keeps_its_rate():
    assert set(lr_factors(Program.parse("def f(w, g, lr):\n  return lr * 0.1 * w"), 128, 32).values()) == {1.0}


def test_groups_have_their_roles_rate_and_decay_stays():
    rule = ss.load("adamw").with_lr(1e-3)
    groups = {g["role"]: g for g in trainer(target("gpt-100k@128"), rule).optimizer.param_groups}
    assert {role: g["lr"] for role, g in groups.items()} == {"matrix": 5e-4, "embedding": 1e-3, "vector": 1e-3}
    assert all(g["lr"] * g["weight_decay"] == pytest.approx(1e-5) for g in groups.values())
    [alone] = trainer(target("gpt-100k"), rule).optimizer.param_groups
    assert "role" not in alone


def test_routed_rules_scale_each_parts_own_rate():
    rule = ss.load("muon")
    base, wide = (
        {g["role"]: g["lr"] for g in trainer(target(name), rule).optimizer.param_groups}
        for name in ("gpt-100k", "gpt-100k@128")
    )
    assert base == wide
    mixed = Program.parse("def f(w, g, lr=0.1) for matrix else sgd:\n  return lr * sign(g)\n\n"
                          "def sgd(w, g, lr=0.3):\n  return lr * g")  # fmt: skip
    wide = {g["role"]: g["lr"] for g in trainer(target("gpt-100k@128"), mixed).optimizer.param_groups}
    assert wide["matrix"] == pytest.approx(0.05)
    assert wide["embedding"] == pytest.approx(0.6)


def test_decay_inside_the_update_is_left_alone():
    rule = Program.parse("def f(w, g, m, lr=0.1, weight_decay=0.1):\n  m = 0.9 * m + sign(g + weight_decay * w)\n"
                         "  return lr * m, m")  # fmt: skip
    groups = trainer(target("gpt-100k@128"), rule).optimizer.param_groups
    assert {g["weight_decay"] for g in groups} == {0.1}


# --- the coordinate check -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "lr", "grows"), [("adamw", 3e-3, 0.8), ("lion", 1e-3, 0.7), ("muon", 0.02, 0.6),
                              ("momentum", 0.03, 0.2), ("sgd", 0.1, 0.2)],
)  # fmt: skip
def test_activations_move_alike_at_any_width(rule, lr, grows):
    program, base = ss.load(rule).with_lr(lr), replace(target("gpt-100k"), clip=0.0)
    found = coordinate_check(program, WIDTHS, base)
    assert max(map(abs, found.slopes.values())) < 0.25, found
    standard = coordinate_check(program, WIDTHS, base, mup=False)
    assert standard.slopes["logits"] > grows, standard
    assert list(found.change) == ["attention", "feed", "logits"]
    assert found.change["feed"][64] == pytest.approx(standard.change["feed"][64], rel=1e-5)


@pytest.mark.parametrize("rule", ["adamw", "muon"])
def test_hidden_activations_of_the_other_family_too(rule):
    found = coordinate_check(ss.load(rule).with_lr(3e-3), WIDTHS, target("llama-100k"), seeds=(0,))
    assert max(abs(found.slopes[kind]) for kind in ("attention", "feed")) < 0.25, found
