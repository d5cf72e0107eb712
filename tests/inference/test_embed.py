"""Streaming through the bundled model: order, laziness, bounds, and the vectors of ``encode``."""

from __future__ import annotations

from itertools import count, islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.checkpoints import FAMILIES
from tte_retriever import MediaError, TTEEncoder, build
from tte_retriever.errors import CheckpointError, InputError, TTEError
from tte_retriever.inference import collate, pack, split

K = 8


@pytest.fixture(scope="module")
def encoder():
    return TTEEncoder("tte-flash-tiny", device="cpu")


def picture(width, height):
    return Image.fromarray(np.random.default_rng(width).integers(0, 255, (height, width, 3), np.uint8))


ITEMS = [
    "a big red circle in the north",
    {"text": "two"},
    {"image": picture(96, 64)},
    {"image": picture(150, 220), "text": "what color is the circle ?"},
    {"video": np.stack([np.asarray(picture(64, 64))] * 4)},
    [
        {"role": "system", "content": "find the picture"},
        {"role": "user", "content": [{"type": "image", "image": picture(64, 64)}, {"type": "text", "text": "like"}]},
    ],
    {"image": [picture(64, 64), picture(96, 96)]},
    "a small blue ring in the center " * 6,
]


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_vectors_are_those_of_encode_in_order(encoder, data):
    order = data.draw(st.lists(st.integers(0, len(ITEMS) - 1), min_size=1, max_size=10))
    budget = data.draw(st.integers(0, K))
    usual, encoder.tokenizer.padding_side = (
        encoder.tokenizer.padding_side,
        data.draw(st.sampled_from(["left", "right"])),
    )
    try:
        streamed = encoder.embed(
            (ITEMS[i] for i in order),
            think_budget=budget,
            batch_tokens=data.draw(st.integers(1, 500)),
            look_ahead=data.draw(st.integers(1, 12)),
        )
        vectors = np.stack(list(streamed))
    finally:
        encoder.tokenizer.padding_side = usual
    assert np.abs(vectors - encoder.encode([ITEMS[i] for i in order], think_budget=budget)).max() < 1e-5


def test_options_are_those_of_encode(encoder):
    options = {"prompt": "find it", "truncate_dim": 16, "normalize_embeddings": True, "think_budget": 3}
    assert np.allclose(np.stack(list(encoder.embed(ITEMS, **options))), encoder.encode(ITEMS, **options), atol=1e-5)


@pytest.mark.parametrize("look_ahead", [1, 2, 7, 32])
def test_an_endless_source_is_taken_only_as_far_as_announced(encoder, look_ahead):
    taken = count()
    source = (f"number {next(taken)}" for _ in count())
    vectors = encoder.embed(source, look_ahead=look_ahead)
    for yielded, _ in enumerate(islice(vectors, 40), start=1):
        so_far = int(repr(taken)[6:-1])
        assert so_far <= yielded - 1 + look_ahead
    vectors.close()


def test_nothing_is_taken_before_the_first_vector_is_asked_for(encoder):
    source = iter(["a red circle"])
    encoder.embed(source)
    assert next(source) == "a red circle"


def test_an_error_names_its_item_and_what_comes_before_is_kept(encoder):
    items = ["a red circle", "two", {"image": b"no picture"}, "three"]
    vectors = encoder.embed(items)
    assert np.allclose([next(vectors), next(vectors)], encoder.encode(items[:2]), atol=1e-5)
    with pytest.raises(MediaError, match="Item 2 "):
        next(vectors)


def test_a_failure_that_is_no_bad_input_is_raised_in_its_turn(encoder, monkeypatch):
    """A bug or a full disk is not hidden by ``on_error="yield"``, and takes no vector before it along."""
    whole = TTEEncoder.preprocess

    def broken(self, inputs, *args, **kwargs):
        if any("boom" in str(item) for item in inputs):
            raise RuntimeError("boom")
        return whole(self, inputs, *args, **kwargs)

    monkeypatch.setattr(TTEEncoder, "preprocess", broken)
    vectors = encoder.embed(["a red circle", "boom", "two"], on_error="yield")
    assert np.allclose(next(vectors), encoder.encode("a red circle"), atol=1e-5)
    with pytest.raises(RuntimeError, match="boom"):
        next(vectors)


def test_encode_may_be_called_between_two_vectors(encoder):
    expected = encoder.encode(ITEMS)
    for index, vector in enumerate(encoder.embed(ITEMS * 4, look_ahead=8)):
        assert np.abs(vector - expected[index % len(ITEMS)]).max() < 1e-5
        if index % 5 == 0:
            assert np.abs(encoder.encode(ITEMS[index % len(ITEMS)]) - vector).max() < 1e-5


def test_progress_counts_the_vectors(encoder, capsys):
    list(encoder.embed(["a red circle", "two"], show_progress_bar=True))
    assert "2/2" in capsys.readouterr().err


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_taken_apart_and_joined_are_the_processors_batch(checkpoint, tmp_path, family, side):
    encoder = TTEEncoder(str(build(tmp_path / "built", backbone=checkpoint(family), think_tokens=3)), device="cpu")
    encoder.tokenizer.padding_side = side
    items = [*ITEMS[:6], {"video": np.stack([np.asarray(picture(64, 96))] * 6), "text": "what moves ?"}, ITEMS[6]]
    batch = encoder.preprocess(items)
    joined = collate(split(batch), pad_id=encoder.tokenizer.pad_token_id, padding_side=side)
    assert joined.keys() == batch.keys()
    for key, value in batch.items():
        assert torch.equal(joined[key], value) if isinstance(value, torch.Tensor) else joined[key] == value


def test_features_of_unknown_rows_are_refused(encoder):
    batch = encoder.preprocess(["two", "three"])
    with pytest.raises(CheckpointError, match="audio_values"):
        split({**batch, "audio_values": torch.zeros(5)})


def test_an_error_may_be_yielded_in_its_place(encoder):
    items = ["a red circle", "", "three"]
    first, error, last = encoder.embed(items, on_error="yield")
    assert isinstance(error, InputError)
    assert "Item 1 " in str(error)
    assert np.allclose([first, last], encoder.encode([items[0], items[2]]), atol=1e-5)


@pytest.fixture
def makes_nan_of(encoder):
    """A function that has the model make NaN of whatever has that many tokens."""
    hooks = []

    def spoil(tokens):
        def hook(_module, inputs, output):
            output["sentence_embedding"][inputs[0]["attention_mask"].sum(1) == tokens] = float("nan")
            return output

        hooks.append(encoder[1].register_forward_hook(hook))

    yield spoil
    for hook in hooks:
        hook.remove()


def test_an_item_that_the_model_makes_nan_of_does_not_cost_its_neighbours(encoder, makes_nan_of):
    items = ["a red circle in the north", "a big red circle in the north", "a blue ring in the north"]  # one batch
    expected = encoder.encode([items[0], items[2]])
    makes_nan_of(int(encoder.preprocess([items[1]])["attention_mask"].sum()))
    with pytest.raises(TTEError, match="1 of 3 vectors hold NaN"):
        list(encoder.embed(items))
    first, error, last = encoder.embed(items, on_error="yield")
    assert isinstance(error, InputError)
    assert "Item 1 cannot be encoded: 1 of 1 vectors hold NaN" in str(error)
    assert np.allclose([first, last], expected, atol=1e-5)


CHAT = [{"role": "system", "content": "find it"}, {"role": "user", "content": "a red circle"}]
PIXELS = np.zeros((4, 32, 32, 3), np.uint8)
ONE = ["a red circle", {"text": "two"}, b"bytes", PIXELS[0], PIXELS, torch.zeros(3, 32, 32), CHAT, ITEMS[5]]


@pytest.mark.parametrize("item", ONE)
def test_a_single_item_is_refused(encoder, item):
    with pytest.raises(InputError, match=r"\[item\]"):
        encoder.embed(item)


@pytest.mark.parametrize(
    "wrong", [{"batch_tokens": 0}, {"look_ahead": 0}, {"on_error": "skip"}, {"think_budget": K + 1}]
)
def test_wrong_arguments_are_refused_at_once(encoder, wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        encoder.embed(["two"], **wrong)


def test_what_encode_takes_for_a_batch_is_streamed(encoder):
    for batch in ([CHAT], [CHAT, CHAT], (PIXELS[0],), np.array(["two", "three"])):
        assert np.allclose(np.stack(list(encoder.embed(batch))), encoder.encode(batch), atol=1e-5)


def test_nothing_yields_nothing(encoder):
    assert list(encoder.embed([])) == []


def test_no_forward_pass_exceeds_the_budget(encoder):
    shapes = []
    hook = encoder.transformer.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0]["input_ids"].shape))
    try:
        list(encoder.embed(ITEMS * 3, batch_tokens=200))
    finally:
        hook.remove()
    assert max(torch.Size(shape).numel() for shape in shapes) <= 200


@settings(deadline=None)
@given(st.lists(st.integers(1, 600), max_size=60), st.integers(1, 2000))
def test_batches_hold_every_item_once_within_the_budget(lengths, budget):
    batches = pack(lengths, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= budget for b in batches)


def test_little_padding_at_a_thousand_mixed_items():
    """Half lognormal texts, half pictures of six sizes, in windows of the default look-ahead."""
    random = np.random.default_rng(0)
    texts = random.lognormal(3.6, 0.8, 512).astype(int) + 19
    pictures = random.choice([49, 140, 196, 441, 784, 1024], 512) + random.integers(19, 60, 512)
    lengths = random.permutation(np.concatenate([texts, pictures])).tolist()
    windows = [lengths[start : start + 128] for start in range(0, 1024, 128)]
    padded = sum(len(b) * max(w[i] for i in b) for w in windows for b in pack(w, 8192))
    assert padded / sum(lengths) <= 1.05
