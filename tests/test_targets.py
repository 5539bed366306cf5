"""Targets: models, text by document, epochs, metrics, and what is said of a text or a target that cannot be had."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from stepsmith.proxies import TaskError
from stepsmith.proxies.targets import passages, target, targets
from stepsmith.proxies.targets.corpus import by_document, corpus, tokens
from stepsmith.proxies.targets.decoder import Decoder, DecoderShape
from stepsmith.proxies.targets.metrics import continuation_choice, mean_reciprocal_rank
from stepsmith.proxies.targets.passages import Passages
from stepsmith.proxies.targets.registry import _DECODERS, UnknownTarget
from stepsmith.proxies.targets.rows import Rows
from stepsmith.proxies.targets.tokens import Tokens

EXAMPLE = Path(__file__).parents[1] / "examples" / "my_task.py"
STYLES = (("gpt", False), ("llama", False), ("llama", True))


@pytest.mark.parametrize("size", _DECODERS)
@pytest.mark.parametrize("style", ["gpt", "llama"])
def test_a_target_has_about_as_many_parameters_as_its_name_says(style, size):
    width, layers, heads, length, vocabulary, *_ = _DECODERS[size]
    with torch.device("meta"):
        model = Decoder(DecoderShape(vocabulary, width, layers, heads, length, style))
    said = float(size[:-1]) * {"k": 1e3, "m": 1e6}[size[-1]]
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(said, rel=0.2)


@pytest.mark.parametrize(("style", "qk_norm"), STYLES)
def test_a_decoder_sees_no_later_token(style, qk_norm):
    torch.manual_seed(0)
    model = Decoder(DecoderShape(128, 32, 2, 2, 16, style, qk_norm)).double()
    before = torch.randint(0, 128, (2, 16))
    after = before.clone()
    after[:, 9:] = (after[:, 9:] + 1) % 128
    with torch.no_grad():
        one, two = model(before), model(after)
    torch.testing.assert_close(one[:, :9], two[:, :9])
    assert not torch.allclose(one[:, 9:], two[:, 9:])


@pytest.mark.parametrize(("style", "qk_norm"), STYLES)
def test_a_decoder_starts_near_the_uniform_loss_and_tells_orders_apart(style, qk_norm):
    torch.manual_seed(0)
    model = Decoder(DecoderShape(128, 64, 2, 4, 16, style, qk_norm))
    x = torch.randint(0, 128, (64, 16))
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())
        assert abs(float(loss) - np.log(128)) < 0.8
        swapped = x[:1, [1, 0, 2, 3]]
        assert not torch.allclose(model(x[:1, :4])[:, -1], model(swapped)[:, -1], atol=1e-4)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_query_and_key_norms_make_attention_independent_of_their_scale(qk_norm):
    torch.manual_seed(0)
    model = Decoder(DecoderShape(128, 32, 1, 2, 8, "llama", qk_norm)).double()
    x = torch.randint(0, 128, (2, 8))
    with torch.no_grad():
        before = model(x)
        model.blocks[0].attention.query.weight *= 30
        assert torch.allclose(model(x), before, atol=1e-3) == qk_norm


def test_parts_share_no_document():
    parts = [set(by_document("speeches", part)) for part in ("train", "validation", "test")]
    assert all(parts)
    for one, other in itertools.combinations(parts, 2):
        assert not one & other


def test_an_epoch_shows_every_window_once_before_any_again():
    data = Tokens(length=64)
    each = data.epoch(4096)
    seen = torch.cat([b.x for b in data.batches(3, each, 4096)])
    assert len(torch.unique(seen, dim=0)) > 0.99 * len(seen)  # a few windows of the speeches are alike
    first, again = itertools.tee(data.batches(3, each + 1, 4096))
    second_epoch = list(again)[-1].x
    assert not torch.equal(next(first).x, second_epoch)


def test_batches_are_a_function_of_seed_and_step():
    data = Tokens(length=32)
    one, two = list(data.batches(1, 3, 8)), list(data.batches(1, 5, 8))
    assert all(torch.equal(a.x, b.x) for a, b in zip(one, two, strict=False))
    assert not torch.equal(one[0].x, next(data.batches(2, 1, 8)).x)
    assert torch.equal(one[0].x[:, 1:], one[0].y[:, :-1])


def test_word_pieces_are_trained_on_the_text_and_shorten_it():
    pytest.importorskip("tokenizers")
    assert Tokens(vocabulary=512, length=32).bytes_per_token() > 1.8
    assert int(tokens("speeches", "validation", 512).max()) < 512


def test_rows_come_in_epochs_and_parts_share_none():
    data = Rows("wine")
    train = torch.cat([b.x for b in data.batches(0, 6, 16)])
    assert len(torch.unique(train, dim=0)) == 96
    held_out = torch.cat([data.validation()[0].x, data.test()[0].x])
    assert not {tuple(x.tolist()) for x in train} & {tuple(x.tolist()) for x in held_out}


def test_pairs_are_of_one_document_and_of_different_ones():
    data = Passages(length=64)
    batch = data.test()[0]
    documents = [d.tobytes() for d in data._documents("test")]

    def owner(row):
        text = bytes(row.tolist())
        return {i for i, d in enumerate(documents) if text in d}

    owners = [owner(query) & owner(passage) for query, passage in batch.x]
    assert all(owners)
    assert len(set.union(*owners)) >= len(owners)


def test_fine_tuning_starts_from_a_trained_model(tmp_path, monkeypatch):
    monkeypatch.setenv("STEPSMITH_CACHE", str(tmp_path))
    monkeypatch.setattr(passages, "_STEPS", 60)
    shape = DecoderShape(128, 16, 1, 2, 16)
    first = passages.pretrained(shape, "speeches")
    assert len(list(tmp_path.glob("decoder-*.pt"))) == 1
    again = passages.pretrained(shape, "speeches")
    assert all(torch.equal(first[name], again[name]) for name in first)
    model = Decoder(shape)
    [batch, *_] = Tokens(length=16).test()

    def loss():
        with torch.no_grad():
            return float(torch.nn.functional.cross_entropy(model(batch.x).flatten(0, 1), batch.y.flatten()))

    fresh = loss()
    model.load_state_dict(first)
    assert loss() < fresh - 1


def test_a_model_that_knows_the_text_chooses_its_continuation():
    [batch, *_] = Tokens(length=16).validation()

    class Knows(torch.nn.Module):
        def forward(self, x):
            rows = (x[:, None, :8] == batch.x[None, :, :8]).all(-1).float().argmax(-1)
            return 20 * torch.nn.functional.one_hot(batch.y[rows], 128).float()

    class Chance(torch.nn.Module):
        def forward(self, x):
            return torch.zeros(*x.shape, 128)

    assert continuation_choice(Knows(), [batch]) > 0.9
    assert continuation_choice(Chance(), [batch]) == 0.0  # what cannot tell has found nothing
    assert mean_reciprocal_rank(torch.full((3, 20), torch.nan), torch.zeros(3, dtype=torch.long)) == 0.0
    assert mean_reciprocal_rank(torch.zeros(3, 20), torch.zeros(3, dtype=torch.long)) == 0.0


def test_a_text_of_the_users_own(tmp_path):
    path = tmp_path / "own.txt"
    path.write_bytes(corpus("speeches", "validation")[:300_000])
    own = target("gpt-60k", str(path))
    assert own.fingerprint() != target("gpt-60k").fingerprint()
    assert own.name == f"gpt-60k on {path}"
    text = path.read_bytes()
    row = bytes(next(own.batches(0, 1)).x[0].tolist())
    assert row in text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file"),
        (b"short", "too few"),
        (b"\0" * 200_000, "null characters"),
        ("слово ".encode() * 30_000, "beyond ASCII"),
    ],
)
def test_a_text_that_cannot_be_read_is_said_in_a_line(tmp_path, content, said):
    path = tmp_path / "own.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TaskError, match=said) as error:
        target("gpt-60k", str(path))
    assert "\n" not in str(error.value)


def test_a_text_shorter_than_a_batch_or_with_a_short_part_is_said_in_a_line(tmp_path):
    path = tmp_path / "own.txt"
    path.write_text("word " * 27_000)
    with pytest.raises(TaskError, match="are less than a batch of 1000 windows of 128; give a longer text"):
        Tokens(str(path), length=128).check(1000)
    for i in range(10):
        (tmp_path / f"{i}.txt").write_text("x " * (30 if i == 6 else 50_000))
    with pytest.raises(TaskError, match="its validation documents hold"):
        target("gpt-60k", str(tmp_path))


def test_a_misspelt_text_is_recognised():
    with pytest.raises(TaskError, match="did you mean 'speeches'"):
        target("gpt-60k", "speaches")


def test_a_folder_of_text_needs_documents(tmp_path):
    (tmp_path / "one.txt").write_text("x" * 200_000)
    with pytest.raises(TaskError, match=r"ten \.txt files at least, this one 1"):
        target("gpt-60k", str(tmp_path))


def test_names_are_known_or_near():
    assert {"gpt-100k", "llama-100k", "vit-100k", "rank-60k", "gpt-124m"} <= set(targets())
    with pytest.raises(UnknownTarget, match="did you mean 'gpt-100k'"):
        target("gpt-100")
    with pytest.raises(TaskError, match="trains on no text"):
        target("vit-100k", "speeches")


def test_a_task_of_the_users_own_is_a_target():
    own = target(str(EXAMPLE) + ":Digits")
    assert own.steps > 0 and not own.has_test
    assert own.test()[0].x.shape == own.validation()[0].x.shape
    with pytest.raises(TaskError, match="data of its own"):
        target(str(EXAMPLE) + ":Digits", "speeches")


def test_a_larger_batch_has_as_much_data_in_fewer_steps():
    one, four = target("gpt-60k"), target("gpt-60k-b64")
    assert four.batch == 4 * one.batch
    assert four.tokens(four.steps) == pytest.approx(one.tokens(one.steps), rel=0.02)
