"""The pretrained decoder of LaME against a plain loop over rows, and what it reads."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from tte_retriever import TTEEncoder
from tte_retriever.training.lame.collator import LameCollator
from tte_retriever.training.lame.loss import LameLoss

K = 4
WORDS = ["red", "a green thing", "zwei <think>\n\N{SNOWMAN}"]


@pytest.fixture
def encoder(untrained, built):
    return TTEEncoder(str(built("lame")), device="cpu").train()


@pytest.fixture
def loss(encoder, language_model):
    return LameLoss(encoder, decoder_model=str(language_model), contrastive_weight=0)


@pytest.fixture
def batch(encoder):
    """Rows with 4, 2 and 1 reason tokens and texts of different lengths."""
    chats = [
        [{"role": "user", "content": f"a question {index}", "think_budget": budget}]
        for index, budget in enumerate((K, 2, 1))
    ]
    rows = [{"anchor": chat, "positive": words} for chat, words in zip(chats, WORDS, strict=True)]
    collated = LameCollator(encoder)(rows)
    return {key.removeprefix("anchor_"): value for key, value in collated.items() if key.startswith("anchor_")}


def test_texts_are_those_of_the_backbone_in_the_vocabulary_of_the_decoder(loss, batch, language_model):
    own = AutoTokenizer.from_pretrained(language_model)
    decoder, ids = loss.pretrained_decoder, batch["rationale_ids"]
    rows = [own.decode(row[row >= 0]) for row in decoder.translate(ids)]
    assert rows == [f" {words}<|im_end|>".replace("<think>", "< think>") for words in WORDS]
    cut = decoder.translate(
        ids[2:, : int((ids[2] >= 0).sum()) - 2]
    )  # without its end, and in the middle of a character
    assert own.decode(cut[0]) == " zwei < think>\n"


def test_values_and_gradients_are_those_of_the_plain_loss_with_and_without_gradcache(
    loss, batch, encoder, language_model
):
    decoder = loss.pretrained_decoder
    out = encoder({key: value for key, value in batch.items() if key not in ("rationale_ids", "content_id")})
    thought = torch.isin(batch["input_ids"], torch.tensor(encoder.thought.think_ids))
    texts = decoder.translate(batch["rationale_ids"])
    model = AutoModelForCausalLM.from_pretrained(language_model, dtype=torch.float32)
    nlls = []
    for states, at, text in zip(out["token_embeddings"], thought, texts, strict=True):
        prompt, ids = decoder.projection(states[at]), text[text >= 0]
        inputs = torch.cat([prompt, model.get_input_embeddings()(ids)])[None]
        logits = model(inputs_embeds=inputs).logits[0, len(prompt) - 1 : -1]
        nlls.append(F.cross_entropy(logits, ids))
    expected = torch.stack(nlls).mean()
    (reference,) = torch.autograd.grad(expected, decoder.projection[1].weight)
    for size in (8, 2):
        loss.mini_batch_size = size
        loss.zero_grad()
        parts = loss([batch])
        assert parts["reconstruction"].item() == pytest.approx(expected.item(), rel=1e-5)
        parts["reconstruction"].backward()
        assert (decoder.projection[1].weight.grad - reference).abs().max() < 1e-6 * reference.abs().max() + 1e-9
        rows = encoder[0].model.get_input_embeddings().weight.grad[list(encoder.thought.think_ids)]
        assert (rows.abs().amax(1) > 0).all()


def test_only_the_reason_tokens_are_read(loss, batch, encoder):
    thought = torch.isin(batch["input_ids"], torch.tensor(encoder.thought.think_ids))

    def reconstruction(at):
        noise = torch.randn((*at.shape, 32), generator=torch.Generator().manual_seed(1))

        def swap(_module, _args, out):
            out["token_embeddings"] = torch.where(at[..., None], noise, out["token_embeddings"])

        handle = encoder[0].register_forward_hook(swap)
        value = loss([batch])["reconstruction"].item()
        handle.remove()
        return value

    clean = reconstruction(torch.zeros_like(thought))
    assert reconstruction(~thought) == clean
    assert reconstruction(thought) != clean


def test_its_weights_are_the_state_of_the_loss(loss, encoder, language_model, batch):
    state = loss.state_dict()
    assert {name.split(".")[0] for name in state} == {"log_scale", "pretrained_decoder"}
    other = LameLoss(encoder, decoder_model=str(language_model), contrastive_weight=0)
    other.load_state_dict(state)
    assert other([batch])["reconstruction"].item() == loss([batch])["reconstruction"].item()
    assert loss.get_config_dict()["decoder_model"] == str(language_model)
