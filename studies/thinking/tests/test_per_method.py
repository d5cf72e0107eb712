"""The probe of each method, on pairs of the small world."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from studies.thinking.probing.interventions import INTERVENTIONS
from studies.thinking.probing.per_method import OWN, PER_METHOD
from studies.thinking.probing.queries import ProbeQueries, gold_ids
from tte_retriever.errors import InputError
from tte_retriever.small_world.scoring import score_family

QUERIES = 6


def draw(encoder, family):
    return ProbeQueries.draw(encoder, family, QUERIES, split="test", seed=3)


@pytest.fixture(scope="module")
def known(bundled):
    """Questions on pages, which the bundled model can answer."""
    return draw(bundled, "page-question")


def test_the_bundled_model_writes_the_true_rationale_and_retrieves_the_answer(bundled, known, config_of):
    thought = PER_METHOD["tte-flash"](bundled, config_of("tte-flash"), known)
    score = score_family(bundled, "page-question", split="test", seed=3, queries=QUERIES)[0]
    assert known.hits(thought.vectors[OWN]).sum() == score.right > 0
    assert list(thought.vectors) == [OWN, *INTERVENTIONS]
    assert thought.states.shape == (QUERIES, 8, 128)
    for pair, comparison in zip(known.pairs, thought.rationales, strict=True):
        assert comparison.gold == tuple(pair.query_rationale.split())
    assert all(comparison.exact and all(comparison.forced) for comparison in thought.rationales)


def test_decoding_from_the_query_too_changes_the_rationale(bundled, known, config_of):
    """The bundled model was never trained to decode from its query."""
    full = PER_METHOD["tte-flash"](bundled, config_of("full-context"), known)
    assert not all(comparison.exact for comparison in full.rationales)


@pytest.mark.parametrize("arm", ["contrastive-only", "lame", "lame-no-decoder", "plume"])
def test_no_rationale_is_decoded_where_no_backbone_was_trained_to(bundled, untrained, config_of, arm):
    config = config_of(arm)
    encoder = untrained("plume") if arm == "plume" else bundled
    thought = PER_METHOD[config.model.method](encoder, config, draw(encoder, "caption"))
    assert thought.rationales == ()
    assert {"swap", "shuffle", "zero", "mean"} < set(thought.vectors)
    assert ("swap-inputs" in thought.vectors) == (arm == "plume")


def test_a_direct_model_has_a_vector_and_with_the_loss_a_rationale(untrained, config_of):
    encoder = untrained("direct", think_tokens=0)
    queries = draw(encoder, "moment")
    for arm in ("direct", "auxiliary"):
        thought = PER_METHOD["direct"](encoder, config_of(arm), queries)
        assert (list(thought.vectors), thought.states) == ([OWN], None)
        assert len(thought.rationales) == (QUERIES if arm == "auxiliary" else 0)


def test_a_single_think_token_is_not_shuffled(untrained, config_of):
    encoder = untrained("tte-flash", think_tokens=1)
    thought = PER_METHOD["tte-flash"](encoder, config_of("contrastive-only"), draw(encoder, "caption"))
    assert set(thought.vectors) == {OWN, "swap", "zero", "mean"}


def test_a_written_rationale_is_replaced_by_others_and_by_the_true_one(untrained, config_of):
    encoder, config = untrained("explicit-cot", think_tokens=8), config_of("explicit-cot")
    thought = PER_METHOD["explicit-cot"](encoder, config, draw(encoder, "question"))
    assert list(thought.vectors) == [OWN, "swap", "shuffle", "empty", "gold"]
    assert thought.states is None
    assert (thought.vectors["gold"] - thought.vectors["empty"]).abs().max() > 1e-5
    assert thought.vectors["gold"].norm(dim=1).allclose(torch.ones(QUERIES), atol=1e-5)


@pytest.mark.parametrize("arm", ["tte-flash", "explicit-cot", "lame-rationale", "lame-shared", "nested"])
def test_gold_ids_are_the_rationale_of_training(bundled, untrained, config_of, arm):
    encoder = untrained("explicit-cot", think_tokens=8) if arm == "explicit-cot" else bundled
    queries = draw(encoder, "question")
    for pair, ids in zip(queries.pairs, gold_ids(encoder, config_of(arm), queries.pairs), strict=True):
        wanted = {"explicit-cot": f"<think>{pair.query_rationale}</think>\n", "lame-shared": f" {pair.content}"}
        assert encoder.tokenizer.decode(ids) == wanted.get(arm, f" {pair.query_rationale}")


def test_decoding_from_keys_and_values_is_refused(bundled, known, config_of):
    config = config_of("tte-flash")
    with pytest.raises(InputError, match="soft-prompt"):
        PER_METHOD["tte-flash"](bundled, replace(config, loss=replace(config.loss, decoder="kv")), known)
