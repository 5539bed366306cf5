"""Torch modules as tasks: a population trains as a loop over ordinary modules would train each copy."""

import logging
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import stepsmith as ss
from stepsmith.dsl import Program
from stepsmith.evaluator.train import train, validate
from stepsmith.proxies import Batch, Data, Model, TaskError, stack
from stepsmith.proxies.module_loss import seeded

sys.path.append(str(Path(__file__).parent))

import own_modules

KINDS = ("network", "squared", "convolutions", "encoder", "tied", "branching")
SGD = [Program.parse(f"def sgd(w, g, lr={lr}):\n  return lr * g") for lr in (0.02, 0.1, 0.5)]


@cache
def tasks():
    return own_modules.tasks()


@pytest.fixture(params=KINDS)
def task(request):
    return tasks()[request.param]


def first(task, seed=0):
    return next(task.batches(seed, 1))


def population(task, copies=3):
    return [torch.stack(p) for p in zip(*map(task.model.init, range(copies)), strict=True)]


def plain_gradient(task, seed, batch):
    """Loss and gradient of one module, as a training loop has them."""
    with seeded(seed, torch.device("cpu")):
        module = task.model.call.make()
    with torch.no_grad():  # buffers and what is frozen are those of seed 0
        for name, value in task.model.call.fixed.items():
            owner, _, leaf = name.rpartition(".")
            getattr(module.get_submodule(owner), leaf).copy_(value)
    module.train(batch.key is not None)
    with seeded(batch.key or 0, torch.device("cpu")):
        loss = task.model.call.loss(module, batch)
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in module.named_parameters() if p.requires_grad}


def test_it_is_what_a_task_has(task):
    assert isinstance(task.model, Model) and isinstance(task.data, Data)
    assert [tuple(p.shape) for p in task.model.init(0)] == list(task.model.shapes.values())
    assert list(task.model.roles) == list(task.model.shapes)
    assert task.model.classifies == (task.name != "squared")


def test_losses_and_gradients_are_those_of_a_training_loop(task):
    """With the same dropout, on statistics of the batch, tied weights once, frozen ones never."""
    batch = first(task)
    if task.name == "encoder":  # eager torch lays out draws as attention lays out memory, and a population does not
        batch = batch._replace(key=None)
    losses, gradients = task.model.gradients(population(task), batch)
    for seed in range(3):
        loss, expected = plain_gradient(task, seed, batch)
        torch.testing.assert_close(losses[seed], loss, rtol=1e-5, atol=1e-6)
        assert list(expected) == list(task.model.roles)
        for gradient, name in zip(gradients, expected, strict=True):
            torch.testing.assert_close(gradient[seed], expected[name], rtol=1e-3, atol=1e-5)


def test_slices_draw_alike_and_change_nothing(task, monkeypatch):
    params, batch = population(task, 5), first(task)
    whole = task.model.gradients(params, batch)
    monkeypatch.setattr(type(task.model), "slice_size", lambda self, *given: 2)
    losses, gradients = task.model.gradients(params, batch)
    torch.testing.assert_close(losses, whole[0], rtol=1e-5, atol=0)
    for one, other in zip(gradients, whole[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_it_trains_together_as_alone(task):
    together = train(task, SGD, seed=1)
    alone = [train(task, [program], seed=1)[0] for program in SGD]
    assert [o.loss for o in together] == pytest.approx([o.loss for o in alone], rel=1e-4, nan_ok=True)
    assert not together[0].failed


def test_initial_weights_are_a_function_of_the_seed_and_the_generator_stays(task):
    before = torch.random.get_rng_state()
    once, again, other = (task.model.init(seed) for seed in (3, 3, 4))
    assert all(map(torch.equal, once, again)) and not all(map(torch.equal, once, other))
    task.model.gradients(stack(once, 2), first(task))
    validate(task, stack(once, 2))
    assert torch.equal(before, torch.random.get_rng_state())


def test_dropout_draws_by_seed_and_step_and_not_in_validation():
    task = tasks()["encoder"]
    params = stack(task.model.init(0), 2)
    zero, one = task.batches(0, 2)
    losses = [task.model.loss(params, Batch(zero.x, zero.y, key)) for key in (zero.key, zero.key, one.key, None, None)]
    assert all(float(pair[0]) == float(pair[1]) for pair in losses)  # copies draw alike
    assert torch.equal(losses[0], losses[1]) and torch.equal(losses[3], losses[4])
    assert len({float(pair[0]) for pair in losses}) == 3
    assert zero.key == first(task).key != first(task, seed=1).key


def test_batch_norm_takes_the_statistics_of_the_batch_with_one_notice(caplog):
    with caplog.at_level(logging.WARNING):
        task = own_modules.tasks()["convolutions"]
    assert [r.getMessage() for r in caplog.records] == [
        "convolutions: batch norm takes the statistics of each batch, in validation too, and keeps none"
    ]
    assert not list(task.model.call.module.buffers())


def test_copies_of_a_module_that_branches_train_one_by_one_with_one_notice(caplog):
    task = own_modules.tasks()["branching"]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        train(task, SGD, seed=0, steps=3)
    (record,) = caplog.records
    assert record.getMessage().startswith("branching: copies train one by one, which takes several times longer: vmap")
    assert not task.model.together


def test_a_loss_that_refuses_what_diverged_spoils_that_copy_alone():
    def refusing(module, batch):
        return F.binary_cross_entropy(torch.sigmoid(module(batch.x)), F.one_hot(batch.y, 10).float())

    images = own_modules._images()
    task = ss.task_of_module(own_modules.network, images, loss=refusing, batch=8, steps=8)
    wild = Program.parse("def sgd(w, g, lr=1.0):\n  return lr * g * exp(exp(9.0))")
    good, bad, same = train(task, [SGD[1], wild, SGD[1]], seed=0)
    assert bad.failed and not good.failed and good == same
    assert task.model.together


def test_roles_are_inferred_and_overridden():
    assert tasks()["tied"].model.roles == {"table.weight": "embedding", "mix.weight": "matrix", "mix.bias": "vector"}
    task = ss.task_of_module(own_modules.Tied, own_modules.Text(), batch=8, steps=8, roles={"mix.*": "head"})
    assert task.model.roles == {"table.weight": "embedding", "mix.weight": "head", "mix.bias": "head"}


def test_what_is_shared_is_counted_once_and_what_is_frozen_never():
    shapes = tasks()["tied"].model.shapes
    assert shapes == {"table.weight": (128, 12), "mix.weight": (12, 12), "mix.bias": (12,)}


@pytest.mark.parametrize("oracle", ["adahessian", "sophia", "mezo"])
def test_oracles_are_given(oracle):
    [outcome] = train(tasks()["encoder"], [ss.load(oracle).with_lr(1e-3)], seed=0, steps=3)
    assert not outcome.failed


def test_labels_are_drawn_only_where_the_loss_is_of_labels():
    with pytest.raises(Exception, match="squared has no labels to draw"):
        train(tasks()["squared"], [ss.load("sophia")], seed=0, steps=3)


def test_inputs_may_be_tuples_and_dicts():
    class Data:
        def batches(self, seed, steps, size):
            for _ in range(steps):
                yield {"one": torch.ones(size, 4), "rest": (torch.ones(size, 4),)}, torch.zeros(size).long()

        def validation(self):
            return [({"one": torch.ones(3, 4), "rest": (torch.ones(3, 4),)}, torch.zeros(3).long())]

    class Sum(nn.Linear):
        def forward(self, x):
            return super().forward(x["one"] + x["rest"][0])

    task = ss.task_of_module(lambda: Sum(4, 3), Data(), batch=5, steps=4)
    assert not train(task, SGD, seed=0)[0].failed


def test_a_slice_holds_what_fits():
    task = tasks()["encoder"]
    size, batch = task.model.bytes_per_copy(first(task)), first(task)
    assert 300_000 < size < 3_000_000
    assert task.model.slice_size(1000, batch, torch.device("cpu")) == (64 << 20) // size


def test_a_fingerprint_follows_module_data_and_settings():
    def task(width=16, **changes):
        make = changes.pop("make", lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Linear(width, 10)))
        data = changes.pop("data", own_modules._images())
        return ss.task_of_module(make, data, **({"batch": 8, "steps": 8} | changes))

    def larger():
        module = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Linear(16, 10))
        nn.init.normal_(module[1].weight)
        return module

    images, labels = torch.zeros(20, 64), torch.arange(20) % 10
    changed = [task(17), task(make=larger), task(steps=9), task(batch=7), task(data=ss.Examples(images, labels)),
               task(data=ss.Examples(images, labels.flip(0))), task(loss=own_modules.squared),
               task(roles={"1.weight": "vector"})]  # fmt: skip
    prints = [t.fingerprint() for t in (task(), *changed)]
    assert len(set(prints)) == len(prints)
    assert task().fingerprint() == prints[0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"make_module": nn.Linear(2, 2)}, "give a function that makes the module"),
        ({"make_module": lambda: 3}, "what it makes is a int, not a torch.nn.Module"),
        ({"make_module": nn.Flatten}, "no parameter that asks for a gradient"),
        ({"steps": 0}, "steps is a whole number from 1, not '0'"),
        ({"decay": "liner"}, "did you mean 'linear'?"),
        ({"roles": {"weigth": "matrix"}}, "did you mean"),
        ({"data": 3}, "data is a int, which lacks batches() and validation()"),
    ],
)
def test_what_makes_no_task_is_said_in_one_line(change, says):
    given = {"make_module": own_modules.network, "data": own_modules._images(), "batch": 8, "steps": 8} | change
    with pytest.raises(TaskError) as caught:
        ss.task_of_module(given.pop("make_module"), given.pop("data"), **given)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_examples_say_what_is_wrong():
    with pytest.raises(TaskError, match="3 of x and 2 of y"):
        ss.Examples(torch.zeros(3, 1), torch.zeros(2))
    with pytest.raises(TaskError, match="write 0"):
        ss.Examples(torch.zeros(3, 1), torch.zeros(3), validation=0.01)
