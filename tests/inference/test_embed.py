"""Streaming through the bundled model: order, laziness, bounds, and the vectors of ``encode``."""

from __future__ import annotations

from itertools import count, islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tte_retriever import MediaError, TTEEncoder
from tte_retriever.errors import InputError
from tte_retriever.inference import pack

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


def test_an_error_may_be_yielded_in_its_place(encoder):
    items = ["a red circle", "", "three"]
    first, error, last = encoder.embed(items, on_error="yield")
    assert isinstance(error, InputError)
    assert "Item 1 " in str(error)
    assert np.allclose([first, last], encoder.encode([items[0], items[2]]), atol=1e-5)


@pytest.mark.parametrize("item", ["a red circle", {"text": "two"}, b"bytes"])
def test_a_single_item_is_refused(encoder, item):
    with pytest.raises(InputError, match=r"\[item\]"):
        encoder.embed(item)


@pytest.mark.parametrize(
    "wrong", [{"batch_tokens": 0}, {"look_ahead": 0}, {"on_error": "skip"}, {"think_budget": K + 1}]
)
def test_wrong_arguments_are_refused_at_once(encoder, wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        encoder.embed(["two"], **wrong)


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
    windows = [lengths[start : start + 192] for start in range(0, 1024, 192)]
    padded = sum(len(b) * max(w[i] for i in b) for w in windows for b in pack(w, 8192))
    assert padded / sum(lengths) <= 1.05
