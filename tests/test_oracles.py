"""Oracles: what a trainer gives beside the gradient is what its name says, and training uses it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stepsmith.dsl import Program, ProgramError
from stepsmith.dsl.draws import Stream, normal, philox
from stepsmith.evaluator.oracles import Oracles
from stepsmith.evaluator.train import train
from stepsmith.proxies import stack, task

HUTCHINSON = Program.parse(
    "def f(w, g, h, lr=0.3, hutchinson: every 2):\n h = every(2, interp(abs(hutchinson), h, 0.9), h)\n"
    " return lr * g / max(h / (1 - 0.9 ** 20), 0.05), h"
)
SAMPLED = Program.parse(
    "def f(w, g, m, h, lr=0.02, gauss_newton: every 10):\n m = interp(g, m, 0.9)\n"
    " h = every(10, interp(gauss_newton, h, 0.9), h)\n return lr * sign(m) * min(1, abs(m) / max(0.1 * h, 1e-12)), m, h"
)
TWO_POINT = Program.parse("def f(w, g, lr=0.02, two_point: every 1, noise):\n return lr * two_point * noise")


def start(name: str, copies: int, seed: int = 0, dtype=torch.float32):
    chosen = task(name)
    params = [p.to(dtype) for p in stack(chosen.model.init(seed), copies)]
    return chosen, params, next(iter(chosen.batches(seed, 1)))


def test_hutchinson_is_the_diagonal_on_average():
    """On least squares the Hessian is X'X / B whatever the weights, so many draws must average to its diagonal."""
    chosen, params, batch = start("quadratic", 1, dtype=torch.float64)
    oracles = Oracles(chosen, [HUTCHINSON], seed=3)
    drawn = [oracles.at(2 * i + 1, params, batch)["hutchinson"][0][0] for i in range(400)]
    diagonal = (batch.x.double() ** 2).mean(0).expand(4, 16)
    torch.testing.assert_close(torch.stack(drawn).mean(0), diagonal, rtol=0.15, atol=0.05)


def test_drawn_labels_give_the_curvature_of_the_loss():
    """For softmax regression E[N g g'] is the Hessian: compared with finite differences along a direction."""
    chosen, params, batch = start("digits", 2)
    oracles = Oracles(chosen, [SAMPLED, SAMPLED], seed=1)
    drawn = [oracles.at(10 * i + 1, params, batch)["gauss_newton"][3] for i in range(600)]
    estimate = torch.stack(drawn).mean(0)
    step = 1e-2
    for j in (0, 4):  # the head's bias, on which the loss depends as softmax regression does
        moved = [[p.clone() for p in params] for _ in range(2)]
        moved[0][3][:, j] += step
        moved[1][3][:, j] -= step
        ahead, behind = (chosen.model.gradients(p, batch)[1][3][:, j] for p in moved)
        torch.testing.assert_close(estimate[:, j], (ahead - behind) / (2 * step), rtol=0.15, atol=0.005)


@pytest.mark.parametrize("name", ["digits", "associative", "bytes"])
def test_labels_of_each_copy_come_from_its_own_prediction(name):
    chosen, params, batch = start(name, 3)
    params[-1][1] += torch.randn(params[-1][1].shape, generator=torch.Generator().manual_seed(0))
    together = Oracles(chosen, [SAMPLED] * 3, seed=1).at(1, params, batch)["gauss_newton"]
    for copy in range(3):
        single = [p[copy : copy + 1].contiguous() for p in params]
        alone = Oracles(chosen, [SAMPLED], seed=1).at(1, single, batch)["gauss_newton"]
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[copy], b[0], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(together[-1][0], together[-1][1])


def test_two_point_is_the_slope_along_the_noise_that_programs_read():
    chosen, params, batch = start("bytes", 2)
    found = Oracles(chosen, [TWO_POINT, TWO_POINT], seed=5).at(4, params, batch)["two_point"]
    _, grads = chosen.model.gradients(params, batch)
    z = [torch.from_numpy(normal(philox(5, 4, Stream.NOISE, i), tuple(g.shape[1:]))) for i, g in enumerate(grads)]
    slope = sum((g * d).flatten(1).sum(1) for g, d in zip(grads, z, strict=True))
    torch.testing.assert_close(found, slope, rtol=0.02, atol=0.02)


def test_an_oracle_is_due_at_its_period_and_only_for_those_who_ask():
    chosen, params, batch = start("digits", 3)
    plain = Program.parse("def f(w, g, lr):\n return lr * g")
    oracles = Oracles(chosen, [HUTCHINSON, plain, SAMPLED], seed=0)
    due = {t: sorted(oracles.at(t, params, batch)) for t in range(1, 13)}
    assert due[1] == due[11] == ["gauss_newton", "hutchinson"]
    assert due[2] == due[4] == [] and due[3] == due[5] == ["hutchinson"]
    curvature = oracles.at(3, params, batch)["hutchinson"][0]
    assert curvature[0].any() and not curvature[1].any() and not curvature[2].any()


def test_a_task_without_labels_says_so():
    with pytest.raises(ProgramError, match="quadratic has no labels to draw, so it cannot give gauss_newton"):
        train(task("quadratic"), [SAMPLED], seed=0, steps=2)


@pytest.mark.parametrize("rule", [HUTCHINSON, SAMPLED])
def test_rules_with_oracles_learn(rule):
    chosen = task("digits")
    sgd = Program.parse("def sgd(w, g, lr=1e-9):\n return lr * g")
    outcomes = train(chosen, [rule, sgd], seed=0, steps=60)
    assert outcomes[0].loss < 0.9 * outcomes[1].loss, outcomes


def test_a_rule_that_never_sees_a_gradient_learns():
    outcomes = train(task("quadratic"), [TWO_POINT.with_lr(x) for x in (0.02, 1e-9)], seed=0, steps=200)
    assert outcomes[0].loss < 0.9 * outcomes[1].loss, outcomes


def test_training_sees_roles():
    """On the byte model this rule moves the head alone, so its loss falls less than that of the whole."""
    head = Program.parse("def a(w, g, lr=0.5) for head else b:\n return lr * g\ndef b(w, g, lr=1e-9):\n return lr * g")
    whole = Program.parse("def a(w, g, lr=0.5):\n return lr * g")
    losses = np.array([o.loss for o in train(task("bytes"), [head, whole], seed=0, steps=40)])
    assert losses[1] < losses[0] < 4.9
