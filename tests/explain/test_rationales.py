"""Rationales out of a thought: what is written, what is predicted, and what an explicit thought makes of a rationale."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tte_retriever.errors import InputError
from tte_retriever.explain.rationales import predict_from, read_rationale, write_from
from tte_retriever.methods.explicit_cot import think_aloud
from tte_retriever.training.rationale import rationale_nll

TEXTS = ["two", "a blue square left of a small green triangle", "a red circle"]
END = 258  # <|im_end|> of the tiny tokenizers


@pytest.fixture(scope="module")
def soft_prompt():
    """States of three rows and which of them may be seen: rows of different lengths, not all at an end."""
    states = torch.randn(3, 9, 32, generator=torch.Generator().manual_seed(0))
    visible = torch.zeros(3, 9, dtype=torch.bool)
    visible[0, 2:5] = visible[1, 8:] = visible[2] = True
    return states, visible


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_reading_what_was_written_predicts_it(untrained, family, soft_prompt):
    """One pass over everything against a token at a time over a cache, and each row alone against all of them."""
    backbone = untrained("tte-flash", family).transformer.model
    states, visible = soft_prompt
    written = write_from(backbone, states, visible, end_id=-1, longest=10)
    assert written.shape == (3, 10)
    assert torch.equal(predict_from(backbone, states, visible, written), written)
    for row in range(3):
        alone = write_from(backbone, states[row : row + 1], visible[row : row + 1], end_id=-1, longest=10)
        assert torch.equal(alone[0], written[row])
    noise = torch.where(visible[..., None], states, torch.randn_like(states))
    assert torch.equal(write_from(backbone, noise, visible, end_id=-1, longest=10), written)


def test_the_end_is_not_written_and_nothing_after_it(untrained, soft_prompt):
    backbone = untrained("tte-flash").transformer.model
    states, visible = soft_prompt
    free = write_from(backbone, states, visible, end_id=-1, longest=10)
    end = int(free[0, 0])
    ended = write_from(backbone, states, visible, end_id=end, longest=10)
    assert (ended[0] == -100).all()
    for row, ids in enumerate(ended):
        stop = next((place for place, token in enumerate(free[row]) if token == end), ended.shape[1])
        assert torch.equal(ids[:stop], free[row, :stop])
        assert (ids[stop:] == -100).all()


def test_predictions_are_those_that_the_loss_is_of(untrained, soft_prompt):
    backbone = untrained("tte-flash").transformer.model
    states, visible = soft_prompt
    likely = write_from(backbone, states, visible, end_id=-1, longest=4)
    for token in (0, 1):
        other = likely.clone()
        other[:, -1] = torch.where(likely[:, -1] == token, token + 2, token)
        assert torch.equal(predict_from(backbone, states, visible, other), likely)
        with torch.no_grad():
            better = rationale_nll(backbone, states, likely, visible) < rationale_nll(backbone, states, other, visible)
        assert better.all()


@pytest.fixture(scope="module")
def writer(untrained):
    encoder = untrained("explicit-cot", think_tokens=8)
    return encoder, encoder.preprocess(TEXTS)


def test_a_rationale_of_ones_own_gives_the_vector_that_was_generated(writer):
    encoder, features = writer
    with torch.no_grad():
        own = encoder(dict(features))
    reading = read_rationale(encoder, features, own["rationale_ids"])
    assert (reading.vectors - own["sentence_embedding"]).abs().max() < 1e-5
    there = own["rationale_ids"] >= 0
    assert there.any()
    assert torch.equal(reading.predicted[there], own["rationale_ids"][there])


def test_another_rationale_gives_another_vector_and_none_is_a_budget_of_zero(writer):
    encoder, features = writer
    vectors = torch.stack([torch.from_numpy(each.vector) for each in think_aloud(encoder, TEXTS, think_budget=0)])
    none = read_rationale(encoder, features, torch.full((3, 1), -100)).vectors
    assert (none - vectors).abs().max() < 1e-5
    ids = torch.tensor([[70, 71, 72], [70, -100, -100], [-100, -100, -100]])
    some = read_rationale(encoder, features, ids).vectors
    assert (some[2] - none[2]).abs().max() < 1e-5
    assert (F.cosine_similarity(some, none)[:2] < 1 - 1e-5).all()
    gen = encoder.transformer.gen_id
    ended = torch.tensor([[70, 71, 72, gen], [70, gen, -100, -100], [gen, -100, -100, -100]])
    assert (read_rationale(encoder, features, ended).vectors - some).abs().max() < 1e-5


def test_models_that_read_no_rationale_are_refused(untrained):
    encoder = untrained("tte-flash")
    with pytest.raises(InputError, match="explicit-cot"):
        read_rationale(encoder, encoder.preprocess(["two"]), torch.full((1, 1), -100))
