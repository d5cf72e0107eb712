"""Thoughts from outside: what is seen is what is thought, and what is put in its place is all that the embedding reads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from studies.thinking.probing.interventions import INTERVENTIONS
from tte_retriever.errors import InputError
from tte_retriever.explain.thoughts import embed_with, observe

K = 4
THINKERS = [("tte-flash", "qwen2_vl"), ("tte-flash", "qwen3_5"), ("lame", "qwen3_vl"), ("plume", "qwen3_vl")]
thinkers = pytest.mark.parametrize(("method", "family"), THINKERS)


@pytest.fixture(scope="module")
def items():
    pixels = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    return ["two", {"image": Image.fromarray(pixels), "text": "what is it?"}, "a blue square left of a small ring"]


@thinkers
def test_looking_changes_nothing_and_neither_does_ones_own_thought(untrained, method, family, items):
    encoder = untrained(method, family, K)
    features = encoder.preprocess(items)
    thoughts = observe(encoder, features)
    assert np.abs(thoughts.vectors.numpy() - encoder.encode(items)).max() < 1e-5
    assert thoughts.inputs.shape == (3, len(items), K, 32)
    assert (embed_with(encoder, features, thoughts.inputs) - thoughts.vectors).abs().max() < 1e-5
    assert (observe(encoder, features).vectors - thoughts.vectors).abs().max() == 0  # no hook is left behind


def test_think_tokens_enter_as_their_rows_and_leave_as_their_last_states(untrained, items):
    encoder = untrained("tte-flash", "qwen3_vl", K)
    features = encoder.preprocess(items)
    thoughts = observe(encoder, features)
    ids = torch.tensor(encoder.thought.think_ids)
    rows = encoder.transformer.model.get_input_embeddings().weight[ids]
    assert (thoughts.inputs[0] - rows).abs().max() == 0
    with torch.no_grad():
        out = encoder(dict(features))
    for row in range(len(items)):
        at = torch.isin(features["input_ids"][row], ids)
        assert (out["token_embeddings"][row, at] - thoughts.states[row]).abs().max() < 1e-6


def test_latent_steps_are_those_of_the_rollout(untrained, items):
    encoder = untrained("plume", "qwen3_vl", K)
    features = encoder.preprocess(items)
    thoughts = observe(encoder, features)
    transformer = encoder.transformer
    with torch.no_grad():
        prefix = transformer.read_prefix(features)
        rollout = transformer.think(prefix, features["think_budget"])
        first, _ = transformer.adapter(prefix.last, 0, prefix.at_anchor())
    assert (thoughts.states - rollout.states).abs().max() < 1e-5
    assert (thoughts.inputs[0][:, 0] - first).abs().max() < 1e-5


@thinkers
def test_swapping_the_thoughts_of_one_item_twice_changes_nothing_and_zero_does(untrained, method, family, items):
    encoder = untrained(method, family, K)
    features = encoder.preprocess([items[1]] * 2)
    own = observe(encoder, features)
    assert (embed_with(encoder, features, INTERVENTIONS["swap"](own.inputs, 0)) - own.vectors).abs().max() < 1e-5
    for name in ("zero", "shuffle"):
        other = embed_with(encoder, features, INTERVENTIONS[name](own.inputs, 0))
        assert (other - own.vectors).abs().max() > 1e-5, name


@thinkers
def test_an_item_alone_is_changed_as_in_a_batch(untrained, method, family, items):
    """Rows are padded, and their thoughts stand in different columns."""
    encoder = untrained(method, family, K)
    features = encoder.preprocess(items)
    others = INTERVENTIONS["swap"](observe(encoder, features).inputs, 0)
    together = embed_with(encoder, features, others)
    for row, item in enumerate(items):
        alone = embed_with(encoder, encoder.preprocess([item]), others[:, row : row + 1])
        assert (alone[0] - together[row]).abs().max() < 1e-5


@pytest.mark.parametrize("method", ["tte-flash", "plume"])
def test_nothing_of_the_own_thought_is_left(untrained, method, items, monkeypatch):
    """Whatever the model would have thought, it embeds what it is given."""
    encoder = untrained(method, "qwen3_vl", K)
    features = encoder.preprocess(items)
    own = observe(encoder, features)
    given = embed_with(encoder, features, torch.ones_like(own.inputs))
    inputs_alone = embed_with(encoder, features, torch.ones_like(own.inputs[:1]))
    assert (given - inputs_alone).abs().max() > 1e-5
    if method == "plume":
        changed, index = encoder.transformer.adapter.down_bias, slice(None)
    else:
        changed, index = encoder.transformer.model.get_input_embeddings().weight, list(encoder.thought.think_ids)
    kept = changed.data.clone()
    try:
        changed.data[index] += torch.randn(changed.data[index].shape, generator=torch.Generator().manual_seed(0))
        assert (observe(encoder, features).vectors - own.vectors).abs().max() > 1e-5
        assert (embed_with(encoder, features, torch.ones_like(own.inputs)) - given).abs().max() < 1e-6
    finally:
        changed.data[:] = kept


def test_models_without_a_latent_thought_are_refused(untrained):
    for method in ("direct", "explicit-cot"):
        encoder = untrained(method, think_tokens=0)
        with pytest.raises(InputError, match="no think tokens"):
            observe(encoder, encoder.preprocess(["two"]))


@pytest.mark.parametrize("method", ["tte-flash", "plume"])
def test_no_thought_and_thoughts_of_several_lengths_are_refused(untrained, method):
    encoder = untrained(method, "qwen3_vl", K)
    with pytest.raises(InputError, match="above 0"):
        observe(encoder, encoder.preprocess(["two"], think_budget=0))
    chats = [[{"role": "user", "content": "two", "think_budget": budget}] for budget in (1, 3)]
    with pytest.raises(InputError, match="one think_budget"):
        observe(encoder, encoder.preprocess(chats))
    assert observe(encoder, encoder.preprocess(["two"], think_budget=2)).states.shape[1] == 2
