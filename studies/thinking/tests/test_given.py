"""Rationales that a model is given to read."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from studies.thinking.probing.given import predict_from, read_given_rationales
from tte_retriever.errors import InputError
from tte_retriever.explain.writing import BehindStates, write_greedily
from tte_retriever.training.rationale import rationale_nll

TEXTS = ["two", "a blue square left of a small green triangle", "a red circle"]


def test_predictions_are_those_of_the_loss(untrained):
    backbone = untrained("tte-flash").transformer.model
    states = torch.randn(3, 9, 32, generator=torch.Generator().manual_seed(0))
    visible = torch.zeros(3, 9, dtype=torch.bool)
    visible[0, 2:5] = visible[1, 8:] = visible[2] = True
    likely = write_greedily(BehindStates(backbone, states, visible), backbone, {}, 4).ids
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
    reading = read_given_rationales(encoder, features, own["rationale_ids"])
    assert (reading.vectors - own["sentence_embedding"]).abs().max() < 1e-5
    there = own["rationale_ids"] >= 0
    assert there.any()
    assert torch.equal(reading.predicted[there], own["rationale_ids"][there])


def test_another_rationale_gives_another_vector_and_none_is_a_budget_of_zero(writer):
    encoder, features = writer
    vectors = torch.from_numpy(encoder.encode(TEXTS, think_budget=0))
    none = read_given_rationales(encoder, features, torch.full((3, 1), -100)).vectors
    assert (none - vectors).abs().max() < 1e-5
    ids = torch.tensor([[70, 71, 72], [70, -100, -100], [-100, -100, -100]])
    some = read_given_rationales(encoder, features, ids).vectors
    assert (some[2] - none[2]).abs().max() < 1e-5
    assert (F.cosine_similarity(some, none)[:2] < 1 - 1e-5).all()
    gen = encoder.transformer.gen_id
    ended = torch.tensor([[70, 71, 72, gen], [70, gen, -100, -100], [gen, -100, -100, -100]])
    assert (read_given_rationales(encoder, features, ended).vectors - some).abs().max() < 1e-5


def test_models_that_read_no_rationale_are_refused(untrained):
    encoder = untrained("tte-flash")
    with pytest.raises(InputError, match="explicit-cot"):
        read_given_rationales(encoder, encoder.preprocess(["two"]), torch.full((1, 1), -100))
