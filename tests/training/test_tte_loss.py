"""TTELoss against a plain loop over rows: values, gradients, isolation, and what each flag changes."""

from __future__ import annotations

import copy
import functools
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from tests.checkpoints import EACH_FAMILY
from tte_retriever import TTEEncoder, build, model_path
from tte_retriever.errors import InputError
from tte_retriever.training.contrastive import distinct_candidates
from tte_retriever.training.rationale import rationale_nll
from tte_retriever.training.tte_flash.loss import TTELoss

K = 4
END = 258  # <|im_end|> of the tiny tokenizers
ROWS = 5
WIDTH = 32  # of the tiny checkpoints' embeddings
EPS = torch.finfo(torch.float32).eps


@pytest.fixture(scope="module")
def folders(checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("built")
    return functools.cache(
        lambda family: build(out / family, backbone=checkpoint(family, tied=family != "qwen2_5_vl"), think_tokens=K)
    )


@pytest.fixture
def encoder(folders):
    return TTEEncoder(str(folders("qwen3_vl")), device="cpu").train()


def chat(text, budget, image=None):
    content = [{"type": "text", "text": text}]
    if image is not None:
        content = [{"type": "image", "image": image}, *content]
    return [{"role": "user", "content": content, "think_budget": budget}]


def rationales(*lengths):
    """(B, R) ids that end in the end-of-turn token; length 0 is no rationale."""
    ids = torch.full((len(lengths), max(*lengths, 1)), -100)
    for row, length in enumerate(lengths):
        if length:
            ids[row, :length] = torch.arange(10 * row + 1, 10 * row + 1 + length)
            ids[row, length - 1] = END
    return ids


def columns(encoder, negatives=True, images=True):
    """Images in some anchors, budgets 0 to K, rationales of several lengths or none, two rows with one answer."""
    noise = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), np.uint8)
    pictures = [*map(Image.fromarray, noise), None, None, None] if images else [None] * ROWS
    texts = ["what is it?", "how many?", "a longer question about it", "where", "why"]
    anchors = [chat(*row) for row in zip(texts, (K, 2, K, 0, 1), pictures, strict=True)]
    inputs = [
        {
            **encoder.preprocess(anchors),
            "rationale_ids": rationales(5, 3, 0, 4, 1),
            "content_id": torch.arange(100, 105),
        },
        {
            **encoder.preprocess(["red", "two", "blue", "two", "a much longer answer"]),
            "rationale_ids": rationales(0, 2, 6, 0, 3),
            "content_id": torch.tensor([7, 3, 8, 3, 9]),
        },
    ]
    if negatives:
        wrong = encoder.preprocess(["green", "red", "grey", "black", "a fifth one"])
        inputs.append({**wrong, "content_id": torch.tensor([20, 7, 21, 22, 23])})
    return inputs


def model_inputs(column):
    return {key: value for key, value in column.items() if key not in ("rationale_ids", "content_id", "answer_ids")}


def plain_parts(encoder, inputs, scale=1 / 0.07, answers=None):
    """The definition, row by row: every rationale decoded alone, every query scored alone."""
    backbone, think_ids = encoder[0].model, set(encoder.thought.think_ids)
    outs = [encoder(model_inputs(column)) for column in inputs]
    nlls = []
    for column, out in zip(inputs, outs, strict=True):
        for row, ids in enumerate(column.get("rationale_ids", [])):
            ids = ids[ids >= 0]
            at = [i for i, token in enumerate(column["input_ids"][row].tolist()) if token in think_ids]
            if not len(ids) or not at:
                continue
            matrix = backbone.get_input_embeddings().weight
            embedded = torch.cat([out["token_embeddings"][row, at], matrix[ids[:-1]]])
            states = backbone.language_model(inputs_embeds=embedded[None]).last_hidden_state[0, len(at) - 1 :]
            nlls.append(F.cross_entropy(states @ matrix.T, ids))
    queries, *others = [out["sentence_embedding"] for out in outs]
    docs = torch.cat(others)
    ids = torch.cat([column["content_id"] for column in inputs[1:]]).tolist()
    losses = []
    for row, query in enumerate(queries):
        same = [i for i, a in enumerate(inputs[0]["content_id"].tolist()) if a == inputs[0]["content_id"][row]]
        right = {ids[i] for i in same} | set([] if answers is None else answers[row].tolist())
        seen, logits = set(), [query @ docs[row] * scale]
        for index, content in enumerate(ids):
            if content not in right and content not in seen:
                seen.add(content)
                logits.append(query @ docs[index] * scale)
        losses.append(torch.logsumexp(torch.stack(logits), 0) - logits[0])
    return {"contrastive": torch.stack(losses).mean(), "rationale": torch.stack(nlls).mean()}


def gradients(module, parts):
    module.zero_grad(set_to_none=True)
    torch.stack(list(parts.values())).sum().backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def distance(one, other):
    """Relative difference over all parameters."""
    assert one.keys() == other.keys()
    flat = [torch.cat([grads[name].flatten() for name in sorted(one)]) for grads in (one, other)]
    return ((flat[0] - flat[1]).norm() / flat[1].norm()).item()


@pytest.mark.parametrize("family", EACH_FAMILY)
@pytest.mark.parametrize("side", ["left", "right"])
def test_values_and_gradients_are_those_of_the_plain_loss(folders, family, side):
    encoder = TTEEncoder(str(folders(family)), device="cpu").train()
    encoder.tokenizer.padding_side = side
    inputs = columns(encoder)
    answers = torch.tensor([[7, 8], [3, -1], [8, 20], [3, -1], [-1, -1]])
    inputs[0]["answer_ids"] = answers
    expected = plain_parts(encoder, inputs, answers=answers)
    reference = gradients(encoder, expected)
    assert "0.model.visual.patch_embed.proj.weight" in reference
    for mini_batch_size in (8, ROWS, 3, 1):  # the first two are one pass, the others GradCache
        loss = TTELoss(encoder, mini_batch_size=mini_batch_size, learn_temperature=False)
        parts = loss(inputs)
        assert list(parts) == ["contrastive", "rationale"]
        for name, value in parts.items():
            assert value.item() == pytest.approx(expected[name].item(), rel=1e-5)
        assert distance(gradients(encoder, parts), reference) < 1e-5


def test_one_pass_runs_the_model_once_and_gradcache_twice(encoder):
    passes = []
    encoder[0].register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    inputs = columns(encoder, images=False)[:2]
    gradients(encoder, TTELoss(encoder, mini_batch_size=ROWS)(inputs))
    assert passes == [True, True]
    passes.clear()
    gradients(encoder, TTELoss(encoder, mini_batch_size=3)(inputs))
    assert sorted(passes) == [False] * 4 + [True] * 4


def test_weights_scale_their_part_and_zero_leaves_it_out(encoder):
    inputs = columns(encoder)
    both = TTELoss(encoder)(inputs)
    scaled = TTELoss(encoder, contrastive_weight=0.5, rationale_weight=3)(inputs)
    assert scaled["contrastive"].item() == pytest.approx(0.5 * both["contrastive"].item(), rel=1e-5)
    assert scaled["rationale"].item() == pytest.approx(3 * both["rationale"].item(), rel=1e-5)
    for size in (ROWS, 2):
        warm_up = TTELoss(encoder, contrastive_weight=0, mini_batch_size=size)
        assert list(warm_up(inputs)) == ["rationale"]
        gradients(encoder, warm_up(inputs))
        assert warm_up.log_scale.grad is None
    assert list(TTELoss(encoder, rationale_weight=0)([model_inputs(column) for column in inputs])) == ["contrastive"]


def test_no_decoding_where_the_rationale_has_no_weight(encoder):
    decoded = []
    encoder[0].model.language_model.register_forward_hook(lambda *_: decoded.append(1))
    TTELoss(encoder, rationale_weight=0)(columns(encoder))
    assert len(decoded) == 3  # a pass per column


@pytest.mark.parametrize("size", [ROWS, 2])
def test_a_batch_without_any_rationale_or_thought_trains_nothing(encoder, size):
    inputs = columns(encoder)
    for column in inputs:
        column["rationale_ids"] = rationales(*[0] * ROWS)
    no_thought = {**encoder.preprocess(["a", "b"], think_budget=0), "rationale_ids": rationales(3, 3)}
    for batch in (inputs, [no_thought]):
        parts = TTELoss(encoder, contrastive_weight=0, mini_batch_size=size)(batch)
        assert parts["rationale"].item() == 0
        assert all((grad == 0).all() for grad in gradients(encoder, parts).values())


def test_features_of_the_loss_do_not_reach_the_backbone(encoder):
    given = []
    decoder = encoder[0].model.language_model  # gets everything that its parent does not know
    decoder.register_forward_pre_hook(lambda _m, _a, kwargs: given.append(set(kwargs)), with_kwargs=True)
    for options in ({}, {"stop_gradient": True}, {"decoder": "kv"}):
        loss = TTELoss(encoder, **options)
        loss([{**column, "answer_ids": torch.full((ROWS, 1), -1)} for column in columns(encoder)])
    extras = {"rationale_ids", "content_id", "answer_ids", "rationale_nll", "token_embeddings"}
    assert given
    assert not extras & set.union(*given)


def test_a_rationale_as_wide_as_the_tokens_is_not_trimmed(encoder):
    """GradCache trims the padding of everything that is as wide as the tokens."""
    inputs = columns(encoder, negatives=False)
    width = inputs[1]["input_ids"].shape[1]
    inputs[1]["rationale_ids"] = rationales(0, 2, width, 0, width)
    expected = TTELoss(encoder, contrastive_weight=0)(inputs)["rationale"].item()
    cached = TTELoss(encoder, contrastive_weight=0, mini_batch_size=1)(inputs)["rationale"].item()
    assert cached == pytest.approx(expected, rel=1e-5)


# ---------------------------------------------------------------------------------- what the decoder sees


def swap_states(encoder, where, prefill_too=False):
    """Replace last hidden states (and keys and values) by noise at tokens where ``where(features)`` is true."""

    def swap(_module, _args, features):
        states, at = features["token_embeddings"], where(features)[..., None]
        noise = torch.randn(states.shape, generator=torch.Generator().manual_seed(1))
        features["token_embeddings"] = torch.where(at, noise, states)

    def swap_cache(_module, _args, kwargs, output):
        if not prefill_too or kwargs["inputs_embeds"].shape[1] != features["input_ids"].shape[1]:
            return
        at = where(features)[:, None, :, None]
        for layer in output.past_key_values.layers:
            layer.keys = torch.where(at, torch.randn_like(layer.keys), layer.keys)
            layer.values = torch.where(at, torch.randn_like(layer.values), layer.values)

    features = encoder.preprocess(["what is it?", "a longer question", "x"])
    handles = [encoder[0].register_forward_hook(swap)]
    if prefill_too:
        handles.append(encoder[0].model.language_model.register_forward_hook(swap_cache, with_kwargs=True))
    return features, handles


@pytest.mark.parametrize("decoder", ["soft-prompt", "kv"])
@pytest.mark.parametrize("rationale_from", ["thought", "query+thought"])
def test_isolation(encoder, decoder, rationale_from):
    """Noise on everything but the think tokens changes nothing, noise on them does."""
    loss = TTELoss(encoder, contrastive_weight=0, decoder=decoder, rationale_from=rationale_from)

    def thought(features):
        return torch.isin(features["input_ids"], torch.tensor(encoder.thought.think_ids))

    def value(where):
        features, handles = swap_states(encoder, where, prefill_too=decoder == "kv")
        result = loss([{**features, "rationale_ids": rationales(5, 3, 4)}])["rationale"].item()
        for handle in handles:
            handle.remove()
        return result

    clean = value(lambda features: torch.zeros_like(features["input_ids"], dtype=torch.bool))
    around = value(lambda features: ~thought(features))
    assert (around == clean) == (rationale_from == "thought")
    assert value(lambda features: features["input_ids"] == encoder.thought.embed_id) == clean
    assert abs(value(thought) - clean) > 1e-3


@pytest.mark.parametrize("family", EACH_FAMILY[:3])
@pytest.mark.parametrize("image", [False, True])
def test_kv_over_query_and_thought_is_ordinary_decoding(folders, family, image):
    """The rationale as a plain continuation of the prompt, by the top model with its own positions."""
    encoder = TTEEncoder(str(folders(family)), device="cpu").eval()
    pixels = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    item = {"image": Image.fromarray(pixels), "text": "what?"} if image else "what is it?"
    features, ids = encoder.preprocess([item]), rationales(6)
    loss = TTELoss(encoder, contrastive_weight=0, decoder="kv", rationale_from="query+thought")
    value = loss([{**features, "rationale_ids": ids}])["rationale"].item()
    prompt = features["input_ids"][:, :-1]  # without the embed token
    whole = {key: features[key] for key in ("pixel_values", "image_grid_thw") if key in features}
    whole["input_ids"] = torch.cat([prompt, ids], 1)
    whole["mm_token_type_ids"] = F.pad(features["mm_token_type_ids"], (0, 5))
    states = encoder[0].model(**whole).last_hidden_state[0, prompt.shape[1] - 1 : -1]
    expected = F.cross_entropy(states @ encoder[0].model.get_input_embeddings().weight.T, ids[0]).item()
    assert value == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("family", EACH_FAMILY[:3])
def test_kv_of_the_thought_is_one_sequence_under_a_mask(folders, family):
    """Prompt and rationale in one pass, where the rationale may attend to the think tokens and itself only."""
    encoder = TTEEncoder(str(folders(family)), device="cpu").eval()
    features, ids = encoder.preprocess(["what is it?"]), rationales(6)
    loss = TTELoss(encoder, contrastive_weight=0, decoder="kv")
    value = loss([{**features, "rationale_ids": ids}])["rationale"].item()
    prompt = features["input_ids"][:, :-1]
    whole, length = torch.cat([prompt, ids], 1), prompt.shape[1]
    allowed = torch.ones(whole.shape[1], whole.shape[1], dtype=torch.bool).tril()
    allowed[length:, : length - K] = False
    mask = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
    decoder = encoder[0].model.language_model
    states = decoder(input_ids=whole, attention_mask=mask[None, None]).last_hidden_state[0, length - 1 : -1]
    expected = F.cross_entropy(states @ decoder.embed_tokens.weight.T, ids[0]).item()
    assert value == pytest.approx(expected, rel=1e-5)


def test_keys_and_values_of_a_recurrent_backbone_are_refused(folders):
    with pytest.raises(
        InputError, match=r"recurrent layers of Qwen3\.5 keep no keys and values.*decoder='soft-prompt'"
    ):
        TTELoss(TTEEncoder(str(folders("qwen3_5")), device="cpu"), decoder="kv")


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"decoder": "kv"}, {"rationale_from": "query+thought"}])
def test_decoding_in_a_batch_equals_decoding_alone(encoder, options):
    """Budgets and lengths differ, so rows are padded on both ends; gradients are those of GradCache row by row."""
    inputs = columns(encoder)
    batch, alone = (TTELoss(encoder, mini_batch_size=size, **options) for size in (8, 1))
    assert alone(inputs)["rationale"].item() == pytest.approx(batch(inputs)["rationale"].item(), rel=1e-5)
    assert distance(gradients(encoder, batch(inputs)), gradients(encoder, alone(inputs))) < 1e-5


def test_an_output_head_is_used_where_there_is_one(encoder):
    backbone = encoder[0].model
    states, ids = torch.randn(2, K, 32), rationales(3, 4)
    tied = rationale_nll(backbone, states, ids)
    head = torch.nn.Linear(32, 320, bias=False)
    head.weight.data = 2 * backbone.get_input_embeddings().weight.data
    backbone.get_output_embeddings = lambda: head
    assert not torch.allclose(rationale_nll(backbone, states, ids), tied)
    head.weight.data /= 2
    assert torch.equal(rationale_nll(backbone, states, ids), tied)


# ------------------------------------------------------------------------------------------ stop-gradient


@pytest.mark.parametrize(("family", "checkpointing"), [("qwen3_vl", False), ("qwen3_vl", True), ("qwen3_5", True)])
def test_stop_gradient_makes_the_think_states_constants(folders, family, checkpointing):
    """The same gradients as with every layer's think states overwritten by what they were."""
    encoder = TTEEncoder(str(folders(family)), device="cpu").train()
    if checkpointing:
        encoder[0].model.gradient_checkpointing_enable()
    inputs = columns(encoder)
    rows = list(encoder.thought.think_ids)
    matrix = "0.model.language_model.embed_tokens.weight"
    flowing = gradients(encoder, TTELoss(encoder, rationale_weight=0)(inputs))
    loss = TTELoss(encoder, rationale_weight=0, stop_gradient=True)
    stopped = gradients(encoder, loss(inputs))
    assert flowing[matrix][rows].abs().max() > 1e-6
    assert stopped[matrix][rows].abs().max() == 0

    encoder[0].model.gradient_checkpointing_disable()
    recorded = iter(hidden_states(encoder, inputs))
    thinking = iter([column["input_ids"] for column in inputs for _ in encoder[0].model.language_model.layers])

    def overwrite(_module, args):
        at = torch.isin(next(thinking), torch.tensor(rows))[..., None]
        return torch.where(at, next(recorded), args[0]), *args[1:]

    for layer in encoder[0].model.language_model.layers:
        layer.register_forward_pre_hook(overwrite)
    assert distance(stopped, gradients(encoder, TTELoss(encoder, rationale_weight=0)(inputs))) < 1e-5


def hidden_states(encoder, inputs):
    """What enters each layer, column by column."""
    states = []
    layers = encoder[0].model.language_model.layers
    handles = [layer.register_forward_pre_hook(lambda _m, args: states.append(args[0].detach())) for layer in layers]
    for column in inputs:
        encoder(model_inputs(column))
    for handle in handles:
        handle.remove()
    return states


@pytest.mark.parametrize("size", [ROWS, 2])
def test_stop_gradient_leaves_values_and_the_rationale_alone(encoder, size):
    inputs = columns(encoder)
    rows = list(encoder.thought.think_ids)
    matrix = "0.model.language_model.embed_tokens.weight"
    free, stopped = (TTELoss(encoder, stop_gradient=stop, mini_batch_size=size) for stop in (False, True))
    for name, value in free(inputs).items():
        assert stopped(inputs)[name].item() == pytest.approx(value.item(), rel=1e-5)
    only_rationale = gradients(encoder, TTELoss(encoder, contrastive_weight=0, mini_batch_size=size)(inputs))[matrix][
        rows
    ]
    joint = gradients(encoder, stopped(inputs))[matrix][rows]
    assert (joint - only_rationale).norm() < 1e-5 * only_rationale.norm()


# ------------------------------------------------------------------------------------------- contrastive


def test_distinct_candidates():
    anchors = torch.tensor([1, 2, 1, 4])
    positives, negatives = [7, 3, 8, 3], [9, 9, 7, 5]
    found = distinct_candidates(anchors, torch.tensor(positives + negatives), torch.tensor([[-1, -1]] * 3 + [[9, 6]]))
    contents = torch.tensor(positives + negatives)[found.distinct].tolist()
    assert sorted(contents) == [3, 5, 7, 8, 9]
    assert found.distinct.tolist() == [(positives + negatives).index(content) for content in contents]
    assert [contents[i] for i in found.positives] == positives
    excluded = [{c for c, out in zip(contents, row, strict=True) if out} for row in found.excluded.tolist()]
    # Rows 0 and 2 ask the same thing, so each other's positive is right too; the last row's answers include 9.
    assert excluded == [{8}, set(), {7}, {9}]


def test_without_identities_all_items_differ(encoder):
    inputs = [{**model_inputs(column), "rationale_ids": rationales(2, 0, 0, 0, 0)} for column in columns(encoder)]
    for index, column in enumerate(inputs):
        column["content_id"] = torch.arange(ROWS) + 100 * index
    expected = TTELoss(encoder)(inputs)["contrastive"].item()
    for column in inputs:
        del column["content_id"]
    assert TTELoss(encoder)(inputs)["contrastive"].item() == pytest.approx(expected, rel=1e-6)


def test_matryoshka_dimensions_are_averaged_and_leave_the_rationale_alone(encoder):
    inputs = columns(encoder)
    vectors = [encoder(model_inputs(column))["sentence_embedding"] for column in inputs]
    among = distinct_candidates(inputs[0]["content_id"], torch.cat([column["content_id"] for column in inputs[1:]]))
    by_hand = []
    for dimension in (8, 32):
        query, docs = F.normalize(vectors[0][:, :dimension]), F.normalize(torch.cat(vectors[1:])[:, :dimension])
        scores = (query @ docs[among.distinct].T / 0.05).masked_fill(among.excluded, -torch.inf)
        by_hand.append(F.cross_entropy(scores, among.positives))
    parts = TTELoss(encoder, matryoshka_dims=[8, 32], temperature=0.05)(inputs)
    assert parts["contrastive"].item() == pytest.approx((sum(by_hand) / 2).item(), rel=1e-5)
    assert parts["rationale"].item() == pytest.approx(TTELoss(encoder)(inputs)["rationale"].item(), rel=1e-5)


def test_symmetric_adds_the_direction_from_positives_to_queries(encoder):
    inputs = columns(encoder)  # rows 1 and 3 share their answer, so neither is a wrong query for it
    queries, docs = (encoder(model_inputs(column))["sentence_embedding"] for column in inputs[:2])
    scores = docs @ queries.T / 0.07
    scores[1, 3] = scores[3, 1] = -torch.inf
    backward = F.cross_entropy(scores, torch.arange(ROWS))
    forward = TTELoss(encoder)(inputs)["contrastive"]
    both = TTELoss(encoder, symmetric=True)(inputs)["contrastive"]
    assert both.item() == pytest.approx(((forward + backward) / 2).item(), rel=1e-5)


# --------------------------------------------------------------------------------- temperature and state


@pytest.mark.parametrize("size", [ROWS, 2])
def test_the_temperature_is_trained_and_its_state_is_the_losses_only_one(encoder, size):
    loss = TTELoss(encoder, temperature=0.05, mini_batch_size=size)
    assert loss.temperature == pytest.approx(0.05)
    inputs = columns(encoder)
    gradients(loss, loss(inputs))
    loss.log_scale.data -= 0.1 * loss.log_scale.grad
    assert loss.temperature != pytest.approx(0.05, rel=1e-4)
    log_scale = torch.tensor(1 / 0.05, dtype=torch.float64).log().requires_grad_()
    fresh = TTELoss(encoder, temperature=0.05, mini_batch_size=size)
    (torch.stack(list(fresh(inputs).values())).sum() / 4).backward()  # as gradient accumulation divides it
    exact = copy.deepcopy(encoder).double()
    (plain_parts(exact, inputs, log_scale.exp())["contrastive"] / 4).backward()
    # The gradient is a difference of scores, sums of E products of at most 1 that are scaled: each is off by E eps / 0.05.
    assert fresh.log_scale.grad.item() == pytest.approx(log_scale.grad.item(), rel=0, abs=WIDTH * EPS / 0.05 / 4)
    assert abs(log_scale.grad.item()) > 10 * WIDTH * EPS / 0.05 / 4
    assert loss.get_config_dict()["temperature"] == loss.temperature
    state = loss.state_dict()
    assert list(state) == ["log_scale"]
    other = TTELoss(encoder, mini_batch_size=size)
    other.load_state_dict(state)
    assert other.temperature == loss.temperature
    assert other(inputs)["contrastive"].item() == loss(inputs)["contrastive"].item()
    with pytest.raises(InputError, match="log_scale"):
        other.load_state_dict({})


def test_temperature_and_scale_may_be_set(encoder):
    inputs = columns(encoder)
    loss = TTELoss(encoder)
    loss.scale = 5.0
    assert (loss.scale, loss.temperature) == (pytest.approx(5), pytest.approx(0.2))
    assert loss(inputs)["contrastive"].item() == TTELoss(encoder, temperature=0.2)(inputs)["contrastive"].item()
    loss.temperature = 0.1
    assert loss.scale == pytest.approx(10)
    for name, value in (("scale", 0), ("scale", 101), ("temperature", 0.001), ("temperature", float("nan"))):
        with pytest.raises(InputError, match=r"0\.01 or more|positive number"):
            setattr(loss, name, value)


def test_a_temperature_that_is_not_trained_gets_no_gradient(encoder):
    inputs = columns(encoder)
    fixed = TTELoss(encoder, learn_temperature=False)
    gradients(fixed, fixed(inputs))
    assert fixed.log_scale.grad is None


# ---------------------------------------------------------------------------------- precision and memory


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_bf16_autocast_reaches_the_decoding_too(encoder, attention):
    """The trainer wraps the model's forward, not the loss."""
    encoder[0].model.set_attn_implementation(attention)
    inputs = columns(encoder)
    exact = TTELoss(encoder)(inputs)
    reference = gradients(encoder, exact)
    dtypes = set()
    norm = encoder[0].model.language_model.layers[0].mlp
    handle = norm.register_forward_hook(lambda _m, _a, out: dtypes.add(out.dtype))
    encoder.forward = torch.autocast("cpu", torch.bfloat16)(encoder.forward)
    for size in (ROWS, 2):
        parts = TTELoss(encoder, mini_batch_size=size)(inputs)
        assert parts["rationale"].item() == pytest.approx(exact["rationale"].item(), rel=0.02)
        assert distance(gradients(encoder, parts), reference) < 0.1
    handle.remove()
    assert dtypes == {torch.bfloat16}


def test_gradient_checkpointing_changes_nothing(encoder):
    inputs = columns(encoder)
    reference = gradients(encoder, TTELoss(encoder)(inputs))
    encoder[0].model.gradient_checkpointing_enable()
    for size in (ROWS, 2):
        assert distance(gradients(encoder, TTELoss(encoder, mini_batch_size=size)(inputs)), reference) < 1e-5
    with pytest.raises(InputError, match="checkpointing"):
        TTELoss(encoder, decoder="kv")(inputs)


def test_lora_with_trainable_token_rows(encoder):
    from peft import LoraConfig

    encoder[0].model.add_adapter(
        LoraConfig(
            target_modules=r".*language_model.*\.(q_proj|v_proj)",
            trainable_token_indices={"embed_tokens": [*encoder.thought.think_ids, encoder.thought.embed_id]},
        )
    )
    inputs = columns(encoder)
    one, cached = (gradients(encoder, TTELoss(encoder, mini_batch_size=size)(inputs)) for size in (ROWS, 2))
    assert any("lora_B" in name for name in one)
    assert any("token" in name and grad.abs().max() > 0 for name, grad in one.items())
    assert all("lora" in name or "token" in name for name in one)
    assert distance(one, cached) < 1e-5


# -------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    "options",
    [
        {"decoder": "both"},
        {"rationale_from": "query"},
        {"contrastive_weight": -1},
        {"temperature": 0},
        {"mini_batch_size": 0},
        {"matryoshka_dims": []},
        {"matryoshka_dims": [8, 33]},
    ],
)
def test_options_out_of_range(encoder, options):
    with pytest.raises(InputError, match=next(iter(options))):
        TTELoss(encoder, **options)


def test_unusable_batches(encoder):
    inputs = columns(encoder)
    with pytest.raises(InputError, match="both 0"):
        TTELoss(encoder, contrastive_weight=0, rationale_weight=0)(inputs)
    with pytest.raises(InputError, match="_rationale"):
        TTELoss(encoder)([model_inputs(column) for column in inputs])
    with pytest.raises(InputError, match="positive"):
        TTELoss(encoder)(inputs[:1])
    del inputs[1]["content_id"]
    with pytest.raises(InputError, match="content_id"):
        TTELoss(encoder)(inputs)


def test_a_model_without_think_tokens_trains_contrastively_only(checkpoint, tmp_path):
    direct = build(tmp_path / "direct", backbone=checkpoint("qwen3_vl"), method="direct")
    encoder = TTEEncoder(str(direct), device="cpu")
    with pytest.raises(InputError, match="no think tokens"):
        TTELoss(encoder)
    inputs = [encoder.preprocess(texts) for texts in (["a", "b"], ["c", "d"])]
    assert TTELoss(encoder, rationale_weight=0)(inputs)["contrastive"] > 0


def test_a_model_without_think_tokens_decodes_the_query(checkpoint, tmp_path):
    """From everything in front of the embed token, as one sequence that the backbone goes on with."""
    direct = build(tmp_path / "direct", backbone=checkpoint("qwen3_vl"), method="direct")
    encoder = TTEEncoder(str(direct), device="cpu").eval()
    inputs = [encoder.preprocess(["what is it?", "a longer one"]) | {"rationale_ids": rationales(5, 3)}]
    loss = TTELoss(encoder, contrastive_weight=0, rationale_from="query+thought")
    backbone, nlls = encoder[0].model, []
    for text, ids in zip(("what is it?", "a longer one"), rationales(5, 3), strict=True):
        prompt = encoder(encoder.preprocess([text]))["token_embeddings"][0, :-1]  # without the embed token
        matrix, ids = backbone.get_input_embeddings().weight, ids[ids >= 0]
        embedded = torch.cat([prompt, matrix[ids[:-1]]])[None]
        states = backbone.language_model(inputs_embeds=embedded).last_hidden_state[0, len(prompt) - 1 :]
        nlls.append(F.cross_entropy(states @ matrix.T, ids).item())
    assert loss(inputs)["rationale"].item() == pytest.approx(np.mean(nlls), rel=1e-5)
    with pytest.raises(InputError, match="no think tokens"):
        TTELoss(encoder, rationale_from="query+thought", stop_gradient=True)


@pytest.mark.slow
def test_some_steps_on_the_bundled_model_lower_both_parts():
    encoder = TTEEncoder(model_path("tte-flash-tiny"), device="cpu").train()
    end = encoder.tokenizer.convert_tokens_to_ids("<|im_end|>")
    words = [[*encoder.tokenizer(f" {text}").input_ids, end] for text in ("two", "blue circle", "north", "oak")]
    ids = torch.tensor([row + [-100] * (max(map(len, words)) - len(row)) for row in words])
    questions = encoder.preprocess(["how many", "what is it", "where", "which tree"])
    answers = encoder.preprocess(["red", "green", "south", "elm"])
    loss = TTELoss(encoder, mini_batch_size=2)
    optimizer = torch.optim.AdamW(loss.parameters(), lr=1e-3)
    history = []
    for _ in range(8):
        parts = loss([{**questions, "rationale_ids": ids}, answers])
        optimizer.zero_grad()
        torch.stack(list(parts.values())).sum().backward()
        optimizer.step()
        history.append({name: value.item() for name, value in parts.items()})
    assert all(history[-1][name] < 0.7 * history[0][name] for name in history[0])


# -------------------------------------------------------------------------------------- several processes

PROCESS = """
import sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from tte_retriever import TTEEncoder
from tte_retriever.training.tte_flash.loss import TTELoss

rank, folder, checkpoint = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
for name, gather, search in (("cached", True, True), ("one-pass", True, False), ("local", False, True)):
    encoder = TTEEncoder(checkpoint, device="cpu").train()
    loss = TTELoss(encoder, mini_batch_size=8 if name == "one-pass" else 2, gather_across_devices=gather)
    loss.model = DistributedDataParallel(encoder, find_unused_parameters=search)
    parts = loss(torch.load(f"{folder}/{rank}.pt", weights_only=False))
    torch.stack(list(parts.values())).sum().backward()
    state = {key: p.detach() - 0.1 * p.grad for key, p in encoder.named_parameters()}
    torch.save({**state, "log_scale": loss.log_scale.detach() - 0.1 * loss.log_scale.grad}, f"{folder}/{name}-{rank}.pt")
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_end_a_step_with_the_weights_of_one(folders, tmp_path):
    checkpoint = folders("qwen3_vl")
    encoder = TTEEncoder(str(checkpoint), device="cpu").train()
    noise = np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3), np.uint8)
    questions = [{"image": Image.fromarray(pixels), "text": "?" * (row + 1)} for row, pixels in enumerate(noise)]
    answers = ["two", "one and a half", "two", "three"]

    def batch(rows):
        width = 3 if rows.start == 0 else 2
        return [
            {
                **encoder.preprocess(questions[rows]),
                "rationale_ids": rationales(4, 2, 0, 3)[rows],
                "content_id": torch.arange(4)[rows],
                "answer_ids": torch.tensor([[0, -1, -1], [1, 3, -1], [0, -1, -1], [3, -1, -1]])[rows, :width],
            },
            {
                **encoder.preprocess(answers[rows]),
                "rationale_ids": rationales(0, 3, 0, 5)[rows],
                "content_id": torch.tensor([0, 1, 0, 3])[rows],
            },
        ]

    for rank in (0, 1):
        torch.save(batch(slice(2 * rank, 2 * rank + 2)), tmp_path / f"{rank}.pt")
    command = [sys.executable, "-c", PROCESS]
    processes = [subprocess.Popen([*command, str(rank), str(tmp_path), str(checkpoint)]) for rank in (0, 1)]
    try:
        assert [process.wait(timeout=120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    loss = TTELoss(encoder)
    start = {
        **{name: p.detach().clone() for name, p in encoder.named_parameters()},
        "log_scale": loss.log_scale.detach(),
    }
    gradients(loss, loss(batch(slice(0, 4))))
    stepped = {name: p - 0.1 * p.grad for name, p in encoder.named_parameters()}
    stepped["log_scale"] = loss.log_scale - 0.1 * loss.log_scale.grad
    for name in ("cached", "one-pass", "local"):
        first, second = (torch.load(tmp_path / f"{name}-{rank}.pt") for rank in (0, 1))
        assert all(torch.equal(first[key], second[key]) for key in first)
        moved = {key: first[key] - start[key] for key in first}
        expected = {key: (stepped[key] - start[key]).detach() for key in first}
        assert (distance(moved, expected) < 1e-4) == (name != "local")
