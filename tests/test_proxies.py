"""Proxies: a population trains as its copies would alone, on batches that depend on seed and step only."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stepsmith import proxies
from stepsmith.discovered import load
from stepsmith.dsl.draws import Stream, normal, philox
from stepsmith.evaluator.run_pool import losses as final_losses
from stepsmith.evaluator.train import train as train_runs
from stepsmith.proxies import text
from stepsmith.proxies.associative import Memory, Zipf
from stepsmith.proxies.quadratic import Linear
from stepsmith.proxies.text import fold
from stepsmith.proxies.transformer import Transformer

NAMES = proxies.tasks()
SEARCHED = [name for name in NAMES if proxies.task(name).held_out]
# One of each shape of model and batch.
DISTINCT = [
    "quadratic",
    "digits",
    "digits_wide",
    "associative",
    "associative_wide",
    "bytes",
    "bytes_wide",
    "bytes_b64",
    "bytes_tied",
]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def population(model, copies, dtype=torch.float32):
    """Copies that differ: one seed each."""
    return [torch.stack(p).to(dtype) for p in zip(*map(model.init, range(copies)), strict=True)]


def first_batch(task, dtype=torch.float32, seed=0):
    batch = next(task.batches(seed, 1))
    return batch.map(lambda t: t.to(dtype) if t.is_floating_point() else t)


def plain_loss(model, params, batch):
    """The loss of one copy, written the ordinary way from the parameters by name."""
    p = dict(zip(model.shapes, params, strict=True))
    if isinstance(model, Linear):
        return 0.5 * (batch.x @ p["weight"].T - batch.y).square().sum(1).mean()
    if isinstance(model, Transformer):
        return plain_transformer_loss(model, p, batch)
    if isinstance(model, Memory):
        return plain_memory_loss(model, p, batch)
    hidden = F.relu(F.linear(batch.x, p["hidden"], p["hidden bias"]))
    return F.cross_entropy(F.linear(hidden, p["head"], p["head bias"]), batch.y)


def plain_memory_loss(model, p, batch):
    bits = philox(model.problem, stream=Stream.PROBLEM)
    keys, values = (torch.from_numpy(normal(bits, (model.items, model.width))).to(p["value"].dtype) for _ in range(2))
    read = F.linear(F.linear(keys[batch.x], p["value"]), p["output"])
    # The scale is float32's, as it is in the model.
    return F.cross_entropy(F.linear(read, (values.float() * model.width**-0.5).to(values.dtype)), batch.y)


def plain_transformer_loss(model, p, batch):
    def norm(x):
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()

    def by_head(x):
        return x.unflatten(-1, (model.heads, -1)).transpose(1, 2)

    x = F.embedding(batch.x, p["token"]) + p["position"][: batch.x.shape[1]]
    for i in range(model.layers):
        q, k, v = (by_head(F.linear(norm(x), p[f"{i}.{name}"])) for name in ("query", "key", "value"))
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + F.linear(seen, p[f"{i}.out"])
        x = x + F.linear(F.relu(F.linear(norm(x), p[f"{i}.up"])), p[f"{i}.down"])
    return F.cross_entropy(F.linear(norm(x), p["token" if model.tied else "head"]).flatten(0, 1), batch.y.flatten())


def plain_gradients(model, params, batch):
    """Losses and gradients, one copy at a time through autograd."""
    losses, gradients = [], []
    for copy in zip(*params, strict=True):
        leaves = [p.clone().requires_grad_() for p in copy]
        loss = plain_loss(model, leaves, batch)
        losses.append(loss.detach())
        gradients.append(torch.autograd.grad(loss, leaves))
    return torch.stack(losses), [torch.stack(g) for g in zip(*gradients, strict=True)]


def check_gradients(model, params, batch, rtol):
    losses, gradients = model.gradients(params, batch)
    expected_losses, expected = plain_gradients(model, params, batch)
    torch.testing.assert_close(losses, expected_losses, rtol=rtol, atol=0)
    for name, got, want in zip(model.shapes, gradients, expected, strict=True):
        error = torch.linalg.vector_norm((got - want).flatten(1), dim=1)
        assert (error <= rtol * torch.linalg.vector_norm(want.flatten(1), dim=1)).all(), name


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("name", DISTINCT)
def test_losses_and_gradients_are_those_of_plain_autograd(name, dtype, rtol):
    task = proxies.task(name)
    check_gradients(task.model, population(task.model, 3, dtype), first_batch(task, dtype), rtol)


@pytest.mark.parametrize("model", [Transformer(width=8, heads=2, layers=2, length=6, symbols=128)])
def test_a_deeper_transformer_on_shorter_text_is_right_too(model):
    batch = proxies.Batch(torch.arange(10).view(2, 5), torch.arange(20, 30).view(2, 5))
    check_gradients(model, population(model, 2, torch.float64), batch, 1e-12)


@pytest.mark.parametrize("name", ["quadratic", "digits", "associative", "bytes", "bytes_wide"])
def test_gradients_agree_with_finite_differences(name):
    task = proxies.task(name)
    batch = first_batch(task, torch.float64)
    params = population(task.model, 2, torch.float64)
    _, gradients = task.model.gradients(params, batch)
    generator = torch.Generator().manual_seed(0)
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in params]
    h = 1e-6
    moved = ([p + s * h * d for p, d in zip(params, direction, strict=True)] for s in (1, -1))
    ahead, behind = (task.model.loss(at, batch) for at in moved)
    slope = sum((g * d).flatten(1).sum(1) for g, d in zip(gradients, direction, strict=True))
    torch.testing.assert_close((ahead - behind) / (2 * h), slope, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", DISTINCT)
def test_a_population_trains_as_its_copies_alone(name):
    task = proxies.task(name)

    def train(params):
        for batch, rate in zip(task.batches(1, 5), task.schedule(5), strict=True):
            _, gradients = task.model.gradients(params, batch)
            params = [p - 0.1 * rate * g for p, g in zip(params, gradients, strict=True)]
        return params, task.model.loss(params, first_batch(task))

    together, losses = train(population(task.model, 37))  # no multiple of a slice
    for i in (0, 20, 36):
        alone, loss = train([p[i : i + 1] for p in population(task.model, 37)])
        torch.testing.assert_close(losses[i : i + 1], loss, rtol=1e-5, atol=0)
        for p, q in zip(together, alone, strict=True):
            torch.testing.assert_close(p[i : i + 1], q, rtol=1e-4, atol=1e-6)


def test_loss_joins_autograd_and_scales_each_copy_by_its_own_upstream_gradient():
    task = proxies.task("digits")
    batch, params = first_batch(task), [p.requires_grad_() for p in population(task.model, 3)]
    _, gradients = task.model.gradients(params, batch)
    loss = task.model.loss(params, batch)
    task.model.loss([p.detach() * 2 for p in params], batch)  # scratch is used again before the backward pass
    (loss * torch.tensor([1.0, 0.0, -2.0])).sum().backward()
    for p, g in zip(params, gradients, strict=True):
        torch.testing.assert_close(p.grad[0], g[0])
        assert not p.grad[1].any()
        torch.testing.assert_close(p.grad[2], -2 * g[2])


def test_a_second_differentiation_is_refused():
    task = proxies.task("digits")
    params = [p.requires_grad_() for p in population(task.model, 1)]
    loss = task.model.loss(params, first_batch(task)).sum()
    grads = torch.autograd.grad(loss, params, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(grads[0].sum(), params)


def test_gradients_go_where_they_are_asked_to():
    task = proxies.task("bytes")
    params, batch = population(task.model, 2), first_batch(task)
    out = [torch.full_like(p, torch.nan) for p in params]
    _, returned = task.model.gradients(params, batch, out)
    _, fresh = task.model.gradients(params, batch)
    assert all(a is b for a, b in zip(returned, out, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(out, fresh, strict=True))


@pytest.mark.parametrize("name", ["digits", "associative", "bytes"])
def test_a_broken_copy_leaves_the_others_alone(name):
    task = proxies.task(name)
    params, batch = population(task.model, 3), first_batch(task)
    clean, _ = task.model.gradients(params, batch)
    for p in params:
        p[1] = torch.nan
    losses, gradients = task.model.gradients(params, batch)
    assert losses[1].isnan()
    assert torch.equal(losses[[0, 2]], clean[[0, 2]])
    assert all(g[[0, 2]].isfinite().all() for g in gradients)


def test_a_huge_loss_stays_finite():
    task = proxies.task("bytes")
    params = [p * 1e3 for p in population(task.model, 1)]
    losses, gradients = task.model.gradients(params, first_batch(task))
    assert losses.item() > 20
    assert losses.isfinite().all()
    assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("name", NAMES)
def test_a_smoke_of_every_task(name):
    task = proxies.task(name)
    assert isinstance(task.model, proxies.Model)
    assert isinstance(task.data, proxies.Data)
    copy = task.model.init(0)
    assert [tuple(p.shape) for p in copy] == list(task.model.shapes.values())
    assert all(p.dtype == torch.float32 for p in copy)
    assert set(task.model.roles) == set(task.model.shapes)
    loss = task.model.loss(proxies.stack(copy, 2), first_batch(task))
    assert loss.shape == (2,)
    assert loss.isfinite().all()
    assert len({len(batch.x) for batch in task.validation()}) == 1
    assert len(next(task.batches(0, 1)).x) == task.batch


@pytest.mark.parametrize("name", DISTINCT)
def test_init_is_a_function_of_the_seed(name):
    model = proxies.task(name).model
    assert all(torch.equal(a, b) for a, b in zip(model.init(3), model.init(3), strict=True))
    assert not torch.equal(model.init(3)[0], model.init(4)[0])


@pytest.mark.parametrize("name", ["quadratic", "digits", "associative", "bytes"])
def test_a_batch_is_a_function_of_seed_and_step_alone(name):
    task = proxies.task(name)
    short, long, other = (list(task.batches(*args)) for args in ((7, 3), (7, 5), (8, 3)))
    for a, b, c in zip(short, long, other, strict=False):
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.y, b.y)
        assert not torch.equal(a.x, c.x)
    assert not torch.equal(short[0].x, short[1].x)


@pytest.mark.parametrize("name", NAMES)
def test_validation_is_fixed_and_a_pickled_task_is_the_same_task(name):
    task = proxies.task(name)
    task.fingerprint()
    message = pickle.dumps(task)
    assert len(message) < 5_000
    again = pickle.loads(message)
    assert again == task
    for a, b in zip(task.validation(), again.validation(), strict=True):
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.y, b.y)


def test_targets_are_the_next_bytes():
    for batch in [next(proxies.task("bytes").batches(0, 1)), proxies.task("bytes").validation()[0]]:
        assert torch.equal(batch.x[:, 1:], batch.y[:, :-1])
        assert batch.x.max() < 128
        assert batch.x.min() >= 0
    assert fold(bytes(range(256))) == bytes(range(128)) + b"\x7f" * 128


def test_no_document_trains_and_validates_nor_serves_two_splits():
    main, other = (proxies.task(name).data for name in ("bytes", "bytes_split"))
    parts = [set(data.documents(part)) for data in (main, other) for part in (0, 1)]
    assert all(parts)
    assert sum(map(len, parts)) == len(set.union(*parts)) == 249
    code = proxies.task("bytes_code").data
    assert set(code.documents(0)).isdisjoint(code.documents(1))


def test_no_digit_image_serves_two_splits():
    main, other = (proxies.task(name).data for name in ("digits", "digits_split"))
    images = np.concatenate([data.images(part)[0] for data in (main, other) for part in (0, 1)])
    assert len(images) == len(np.unique(images, axis=0)) == 1797


def test_items_come_by_their_power_law_and_are_validated_alike():
    data = Zipf(items=16, exponent=1.5)
    seen = np.bincount(next(data.batches(0, 1, 100_000)).x.numpy(), minlength=16) / 100_000
    expected = np.arange(1, 17) ** -1.5 / (np.arange(1, 17) ** -1.5).sum()
    np.testing.assert_allclose(seen, expected, atol=0.005)
    [batch] = Zipf().validation()
    assert (np.bincount(batch.x) == 8).all()
    assert 0.02 < (batch.x != batch.y).float().mean() < 0.08


class Head(Zipf):
    """Validates on the eighth of the items that comes most often."""

    def validation(self):
        return [proxies.Batch(*(t[batch.x < self.items // 8] for t in batch[:2])) for batch in super().validation()]


def best_loss(task, program, rates, seeds=(0, 1)):
    """The mean final loss over seeds at the best learning rate of some."""
    table = [final_losses(train_runs(task, [program.with_lr(rate) for rate in rates], seed)) for seed in seeds]
    return np.mean(table, axis=0).min()


def test_muon_recalls_what_adamw_does_and_the_tail_too():
    """Both at constants that suit them here, and the best of learning rates a factor of two apart."""
    task = proxies.task("associative")
    head = replace(task, data=Head())
    muon = replace(load("muon"), hypers=(0.8, 0.0))
    adamw = replace(load("adamw"), hypers=(0.8, 0.8, 1e-8, 0.0))
    rates = {muon: (0.08, 0.16, 0.32), adamw: (0.016, 0.032, 0.064)}
    alike, tail = ([best_loss(where, rule, rates[rule]) for rule in rates] for where in (head, task))
    assert tail[0] < tail[1] - 0.4
    assert alike[0] == pytest.approx(alike[1], abs=0.05)


@pytest.mark.parametrize("name", SEARCHED)
def test_held_out_variants_are_tasks_of_the_same_budget_and_are_not_searched(name):
    task = proxies.task(name)
    for variant in map(proxies.task, task.held_out):
        assert (variant.batch, variant.steps) == (task.batch, task.steps)
        assert not variant.held_out
        assert (variant.model, variant.data) != (task.model, task.data)


def test_a_fingerprint_changes_with_data_and_settings_only():
    task = proxies.task("digits")
    assert task.fingerprint() == replace(task, name="another", held_out=()).fingerprint()
    changed = [{"steps": 401}, {"batch": 8}, {"decay": "cosine"}]
    changed += [{"model": replace(task.model, hidden=8)}, {"data": replace(task.data, split="other")}]
    prints = {task.fingerprint(), *(replace(task, **change).fingerprint() for change in changed)}
    assert len(prints) == 1 + len(changed)
    assert len({proxies.task(name).fingerprint() for name in NAMES}) == len(NAMES)


@pytest.mark.parametrize("decay", proxies.DECAYS)
@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.05), (7, 0.0), (100, 0.05), (1200, 0.02), (10, 1.0)])
def test_a_schedule_rises_to_one_and_falls_towards_zero(decay, steps, warmup):
    multipliers = proxies.schedule(steps, warmup, decay)
    rising = round(steps * warmup)
    assert multipliers.shape == (steps,)
    assert multipliers.max() == 1
    assert multipliers.min() > 0
    assert (np.diff(multipliers[:rising]) > 0).all()
    assert (np.diff(multipliers[max(rising - 1, 0) :]) <= 0).all()
    if steps > 50:
        assert multipliers[0] == pytest.approx(1 / rising)
        assert multipliers[-1] < 0.06


def test_a_short_run_decays_fully_too():
    task = proxies.task("bytes")
    assert task.schedule().shape == (1200,)
    assert task.schedule(60)[-1] < 0.02


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: proxies.task("byte"), proxies.UnknownTask, "unknown task 'byte': did you mean 'bytes'?"),
        (lambda: proxies.schedule(10, decay="liner"), ValueError, "did you mean 'linear'?"),
        (lambda: proxies.schedule(0), ValueError, "steps >= 1"),
        (lambda: Transformer(width=16, heads=3), ValueError, "not a multiple of 3 heads"),
        (lambda: next(proxies.task("digits").batches(-1, 1)), ValueError, "seed and step"),
    ],
)
def test_errors_say_in_one_line_what_is_wrong(call, error, words):
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_text_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(text.SOURCES, "poems", ("no_such_package", "", "*.txt"))
    with pytest.raises(FileNotFoundError, match="pip install no_such_package"):
        text.documents("poems")
