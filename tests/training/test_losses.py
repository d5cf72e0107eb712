"""The losses: what counts as a negative, and that a rationale can come from the thought alone."""

from __future__ import annotations

import math

import pytest
import torch

from models.tte_flash_tiny.visual_words import visual_word_nll
from tte_retriever import TTEEncoder
from tte_retriever.training.contrastive import masked_info_nce
from tte_retriever.training.rationale import rationale_nll


@pytest.fixture(scope="module")
def encoder():
    return TTEEncoder("tte-flash-tiny", device="cpu")


def test_masked_candidates_are_no_negatives():
    queries = torch.nn.functional.normalize(torch.randn(2, 4), dim=1)
    candidates = torch.nn.functional.normalize(torch.randn(3, 4), dim=1)
    positives, scale = torch.tensor([0, 1]), torch.tensor(10.0)
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    excluded = nothing.clone()
    excluded[0, 2] = excluded[1, 2] = True
    full = masked_info_nce(queries, candidates, positives, nothing, scale)
    masked = masked_info_nce(queries, candidates, positives, excluded, scale)
    by_hand = torch.nn.functional.cross_entropy(queries @ candidates[:2].T * 10, positives)
    assert masked < full
    # With the third candidate out, two queries face two candidates: the forward direction by hand.
    assert masked == pytest.approx(by_hand.item(), abs=1e-6)


def test_queries_that_share_a_candidate_are_scored_in_one_direction():
    """As many answers as questions, but two questions have the same answer."""
    queries = torch.nn.functional.normalize(torch.randn(3, 4), dim=1)
    candidates = torch.nn.functional.normalize(torch.randn(3, 4), dim=1)
    positives = torch.tensor([2, 0, 2])
    loss = masked_info_nce(queries, candidates, positives, torch.zeros(3, 3, dtype=torch.bool), torch.tensor(10.0))
    by_hand = torch.nn.functional.cross_entropy(queries @ candidates.T * 10, positives)
    assert loss == pytest.approx(by_hand.item(), abs=1e-6)


def test_a_perfect_match_has_no_loss_left():
    vectors = torch.eye(4)
    loss = masked_info_nce(vectors, vectors, torch.arange(4), torch.zeros(4, 4, dtype=torch.bool), torch.tensor(100.0))
    assert loss < 1e-6


def test_the_rationale_depends_on_the_think_states_and_on_nothing_else(encoder):
    backbone = encoder[0].model
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, -100, -100]])
    features = encoder.preprocess(["a red circle", "a page with dose oak"])
    with torch.no_grad():
        states = encoder(features)["token_embeddings"]
        thinking = torch.isin(features["input_ids"], torch.tensor(encoder.thought.think_ids))

        def loss(hidden):
            return rationale_nll(backbone, hidden, ids, thinking).tolist()

        noise = torch.where(thinking[..., None], states, torch.randn_like(states))
        assert loss(noise) == loss(states)
        assert loss(torch.where(thinking[..., None], torch.randn_like(states), states)) != loss(states)


def test_padding_a_rationale_changes_nothing(encoder):
    backbone = encoder[0].model
    think = torch.randn(1, 8, 128)
    with torch.no_grad():
        short = rationale_nll(backbone, think, torch.tensor([[5, 6]]))
        padded = rationale_nll(backbone, think, torch.tensor([[5, 6, -100, -100]]))
    assert short.item() == pytest.approx(padded.item(), abs=1e-5)


def test_visual_words_share_the_blame():
    embed = torch.nn.Embedding(8, 8).requires_grad_(False)
    embed.weight.data = torch.eye(8)
    tokens = torch.zeros(1, 8)
    tokens[0, 2] = 1.0
    scale = torch.tensor(10.0)  # after RMS normalisation the token is sqrt(8) long
    right = visual_word_nll(tokens, torch.tensor([[2, -100, -100]]), embed, scale)
    two = visual_word_nll(tokens, torch.tensor([[2, 3, -100]]), embed, scale)
    wrong = visual_word_nll(tokens, torch.tensor([[3, -100, -100]]), embed, scale)
    assert right < 1e-6
    assert two == pytest.approx((right + wrong).item() / 2)
    assert wrong == pytest.approx(10 * math.sqrt(8), abs=1e-3)
