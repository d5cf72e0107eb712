"""Each method probed in its way, on real pairs of the small world."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from studies.thinking.probing.asking import Asked, gold_ids
from studies.thinking.probing.interventions import INTERVENTIONS
from studies.thinking.probing.ways import OWN, WAYS
from tte_retriever.errors import InputError
from tte_retriever.small_world.scoring import score_family

QUERIES = 6


def ask(encoder, family):
    return Asked.draw(encoder, family, QUERIES, split="test", seed=3)


@pytest.fixture(scope="module")
def known(bundled):
    """Questions about pages, which the bundled model can answer."""
    return ask(bundled, "page-question")


def test_the_bundled_model_says_what_it_was_taught_and_finds_it(bundled, known, config_of):
    thought = WAYS["tte-flash"](bundled, config_of("tte-flash"), known)
    score = score_family(bundled, "page-question", split="test", seed=3, queries=QUERIES)[0]
    assert known.hits(thought.vectors[OWN]).sum() == score.right > 0
    assert list(thought.vectors) == [OWN, *INTERVENTIONS]
    assert thought.states.shape == (QUERIES, 8, 128)
    for pair, comparison in zip(known.pairs, thought.said, strict=True):
        assert comparison.gold == tuple(pair.query_rationale.split())
    assert all(comparison.exact and all(comparison.forced) for comparison in thought.said)


def test_what_the_decoder_sees_decides_what_is_said(bundled, known, config_of):
    """The bundled model never wrote from its query."""
    full = WAYS["tte-flash"](bundled, config_of("full-context"), known)
    assert not all(comparison.exact for comparison in full.said)


@pytest.mark.parametrize("arm", ["contrastive-only", "lame", "lame-no-decoder", "plume"])
def test_nothing_is_decoded_where_no_backbone_learnt_to(bundled, untrained, config_of, arm):
    config = config_of(arm)
    encoder = untrained("plume") if arm == "plume" else bundled
    thought = WAYS[config.model.method](encoder, config, ask(encoder, "caption"))
    assert thought.said == ()
    assert {"swap", "shuffle", "zero", "mean"} < set(thought.vectors)
    assert ("swap-inputs" in thought.vectors) == (arm == "plume")


def test_a_model_that_thinks_nothing_has_a_vector_and_maybe_a_rationale(untrained, config_of):
    encoder = untrained("direct", think_tokens=0)
    asked = ask(encoder, "moment")
    for arm in ("direct", "auxiliary"):
        thought = WAYS["direct"](encoder, config_of(arm), asked)
        assert (list(thought.vectors), thought.states) == ([OWN], None)
        assert len(thought.said) == (QUERIES if arm == "auxiliary" else 0)


def test_a_single_think_token_has_no_other_order(untrained, config_of):
    encoder = untrained("tte-flash", think_tokens=1)
    thought = WAYS["tte-flash"](encoder, config_of("contrastive-only"), ask(encoder, "caption"))
    assert set(thought.vectors) == {OWN, "swap", "zero", "mean"}


def test_an_explicit_thought_is_replaced_by_others_and_by_the_true_one(untrained, config_of):
    encoder, config = untrained("explicit-cot", think_tokens=8), config_of("explicit-cot")
    thought = WAYS["explicit-cot"](encoder, config, ask(encoder, "question"))
    assert list(thought.vectors) == [OWN, "swap", "shuffle", "empty", "gold"]
    assert thought.states is None
    assert (thought.vectors["gold"] - thought.vectors["empty"]).abs().max() > 1e-5
    assert thought.vectors["gold"].norm(dim=1).allclose(torch.ones(QUERIES), atol=1e-5)


@pytest.mark.parametrize("arm", ["tte-flash", "explicit-cot", "lame-rationale", "lame-shared", "nested"])
def test_gold_is_what_was_to_be_written_in_training(bundled, untrained, config_of, arm):
    encoder = untrained("explicit-cot", think_tokens=8) if arm == "explicit-cot" else bundled
    asked = ask(encoder, "question")
    for pair, ids in zip(asked.pairs, gold_ids(encoder, config_of(arm), asked.pairs), strict=True):
        wanted = {"explicit-cot": f"<think>{pair.query_rationale}</think>\n", "lame-shared": f" {pair.content}"}
        assert encoder.tokenizer.decode(ids) == wanted.get(arm, f" {pair.query_rationale}")


def test_keys_and_values_are_not_written_from(bundled, known, config_of):
    config = config_of("tte-flash")
    with pytest.raises(InputError, match="soft-prompt"):
        WAYS["tte-flash"](bundled, replace(config, loss=replace(config.loss, decoder="kv")), known)
