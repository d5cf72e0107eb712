"""Rationales read as text: by every method, greedily, and equal to what a slow reference writes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tte_retriever import TTEEncoder
from tte_retriever.backbones import token_id
from tte_retriever.errors import InputError
from tte_retriever.explain import read_rationale
from tte_retriever.explain.decoding import output_matrix, predicting_states
from tte_retriever.explain.writing import BehindStates, write_greedily
from tte_retriever.small_world import draw_pairs
from tte_retriever.training.lame.light_decoder import LightDecoder

TEXTS = ["two", "a blue square left of a small green triangle", "a red circle"]
ENDS = {258: "end-of-turn", 256: "end-of-turn"}  # <|im_end|> and <|endoftext|> of the tiny tokenizers
K = 4


@pytest.fixture(scope="module")
def soft_prompt():
    """States of three rows and which of them are the prompt: rows of different lengths, not all at an end."""
    states = torch.randn(3, 9, 32, generator=torch.Generator().manual_seed(0))
    visible = torch.zeros(3, 9, dtype=torch.bool)
    visible[0, 2:5] = visible[1, 8:] = visible[2] = True
    return states, visible


def write(backbone, states, visible, ends, longest=10):
    return write_greedily(BehindStates(backbone, states, visible), backbone, ends, longest)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5"])
@torch.no_grad()
def test_a_token_at_a_time_equals_one_pass_over_all_tokens(untrained, family, soft_prompt):
    backbone = untrained("tte-flash", family).transformer.model
    states, visible = soft_prompt
    written = write(backbone, states, visible, {})
    assert written.ids.shape == (3, 10)
    assert written.stops == ["cap"] * 3
    predicting = predicting_states(backbone, states, written.ids, visible)
    probabilities, likeliest = F.linear(predicting, output_matrix(backbone)).softmax(-1).max(-1)
    assert torch.equal(likeliest, written.ids)
    assert (written.probabilities - probabilities).abs().max() < 1e-5
    for row in range(3):
        alone = write(backbone, states[row : row + 1], visible[row : row + 1], {})
        assert torch.equal(alone.ids[0], written.ids[row])
    noise = torch.where(visible[..., None], states, torch.randn_like(states))
    assert torch.equal(write(backbone, noise, visible, {}).ids, written.ids)


def test_the_end_and_what_follows_it_are_not_written(untrained, soft_prompt):
    backbone = untrained("tte-flash").transformer.model
    free = write(backbone, *soft_prompt, {}).ids
    end = int(free[0, 0])
    ended = write(backbone, *soft_prompt, {end: "end-of-turn"})
    assert (ended.ids[0] == -100).all()
    for row, ids in enumerate(ended.ids):
        stop = next((place for place, token in enumerate(free[row]) if token == end), ended.ids.shape[1])
        assert torch.equal(ids[:stop], free[row, :stop])
        assert (ids[stop:] == -100).all()
        assert (ended.probabilities[row, stop:] == 0).all()
        assert ended.stops[row] == ("end-of-turn" if end in free[row] else "cap")


@pytest.mark.parametrize(("family", "least"), [("caption", 12), ("question", 12), ("page", 16)])
def test_the_bundled_model_writes_the_true_rationales(family, least):
    encoder = TTEEncoder("tte-flash-tiny", device="cpu")
    pairs = draw_pairs(family, 16, seed=0, split="test")
    read = read_rationale(encoder, [pair.query for pair in pairs], batch_size=8)
    true = sum(rationale.text.strip() == pair.query_rationale for rationale, pair in zip(read, pairs, strict=True))
    assert true >= least, (true, [rationale.text for rationale in read])
    assert {rationale.stop for rationale in read} == {"end-of-turn"}
    assert all(len(each.probabilities) == len(each.token_ids) for each in read)
    assert np.mean([np.mean(rationale.probabilities) for rationale in read]) > 0.8
    vectors = np.stack([rationale.vector for rationale in read])
    assert np.abs(vectors - encoder.encode([pair.query for pair in pairs])).max() < 1e-5


@pytest.fixture(scope="module")
def decoder():
    torch.manual_seed(0)
    decoder = LightDecoder(32, heads=2, layers=1).eval()
    torch.nn.init.normal_(decoder.start)
    for weight in decoder.layers.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight)  # so that the states decide about the text
    return decoder


def test_lame_is_read_with_its_decoder(untrained, decoder):
    encoder = untrained("lame", think_tokens=K)
    chats = [[{"role": "user", "content": text, "think_budget": n + 2}] for n, text in enumerate(TEXTS)]
    together = read_rationale(encoder, chats, decoder, max_tokens=6)
    assert len({rationale.token_ids for rationale in together}) > 1
    for chat, rationale in zip(chats, together, strict=True):
        features = encoder.preprocess([chat])
        thinks = torch.isin(features["input_ids"], torch.tensor(encoder.thought.think_ids))
        backbone, ids = encoder.transformer.model, torch.zeros(1, 0, dtype=torch.long)
        with torch.no_grad():
            states = encoder(features)["token_embeddings"][thinks][None]
            every = torch.arange(len(output_matrix(backbone)))[:, None]  # (V, 1): each token as the next one
            states = states.expand(len(every), -1, -1)
            for _ in rationale.token_ids:
                longer = torch.cat([ids.expand(len(every), -1), every], dim=1)
                nll = decoder(states, torch.ones(states.shape[:2]).bool(), longer, backbone)  # (V,)
                ids = longer[nll.argmin()][None]
        assert tuple(ids[0].tolist()) == rationale.token_ids


def test_lame_without_its_decoder_is_refused(untrained):
    with pytest.raises(InputError, match=r"LameLoss\.light_decoder"):
        read_rationale(untrained("lame", think_tokens=K), TEXTS)


@torch.no_grad()
def written_slowly(encoder, text, longest):
    """PLUME without a cache: everything is read again at every latent step and every token."""
    plume, model = encoder.transformer, encoder.transformer.model
    ids = encoder.preprocess([text])["input_ids"]
    inputs = model.get_input_embeddings()(ids)

    def states():
        positions = torch.arange(inputs.shape[1]).expand(3, 1, -1)
        return model.language_model(inputs_embeds=inputs, position_ids=positions, use_cache=False).last_hidden_state

    anchor = states()[:, ids[0].tolist().index(token_id(encoder.tokenizer, "<disc_emb>"))]
    for step in range(plume.max_budget):
        inputs = torch.cat([inputs, plume.adapter(states()[:, -1], step, anchor)[0][:, None]], dim=1)
    written = []
    while len(written) < longest:
        token = F.linear(states()[0, -1], output_matrix(model)).argmax()
        if int(token) in (*ENDS, plume.gen_id):
            break
        written.append(int(token))
        inputs = torch.cat([inputs, model.get_input_embeddings()(token[None, None])], dim=1)
    return tuple(written)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_plume_writes_on_after_its_latent_steps(untrained, family):
    encoder = untrained("plume", family, K)
    together = read_rationale(encoder, TEXTS, max_tokens=8)
    assert [each.token_ids for each in together] == [written_slowly(encoder, text, 8) for text in TEXTS]
    assert np.abs(np.stack([each.vector for each in together]) - encoder.encode(TEXTS)).max() < 1e-5
    first = together[0].token_ids[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(encoder.transformer), "gen_id", first)
        assert read_rationale(encoder, TEXTS[0], max_tokens=8)[0].stop == "embed"


def test_explicit_cot_is_read_with_the_probability_of_each_token(untrained):
    encoder = untrained("explicit-cot", think_tokens=8)
    with torch.no_grad():
        own = encoder(encoder.preprocess(TEXTS))
    read = read_rationale(encoder, TEXTS)
    for row, rationale in enumerate(read):
        ids = own["rationale_ids"][row]
        assert rationale.token_ids == tuple(ids[ids >= 0].tolist())
        alone = encoder.preprocess([TEXTS[row]])
        prompt = alone["input_ids"]
        longer = torch.cat([prompt, torch.tensor([rationale.token_ids])], dim=1)
        with torch.no_grad():
            logits = encoder.transformer.model(input_ids=longer).logits[0, prompt.shape[1] - 1 : -1]
        expected = logits.softmax(-1).gather(1, torch.tensor(rationale.token_ids)[:, None])[:, 0]
        assert np.abs(np.array(rationale.probabilities) - expected.numpy()).max() < 1e-5
    assert np.abs(np.stack([each.vector for each in read]) - own["sentence_embedding"].numpy()).max() < 1e-5


def test_models_without_a_rationale_are_refused(untrained, monkeypatch):
    with pytest.raises(InputError, match="embeds directly"):
        read_rationale(untrained("direct", think_tokens=0), TEXTS)
    with pytest.raises(InputError, match="1 or more"):
        read_rationale(untrained("tte-flash"), TEXTS, think_budget=0)
    with pytest.raises(InputError, match="1 or more"):
        read_rationale(untrained("plume", think_tokens=K), TEXTS, think_budget=0)
    with pytest.raises(InputError, match="leave decoder out"):
        read_rationale(untrained("plume", think_tokens=K), TEXTS, SimpleNamespace())
    writer = untrained("explicit-cot", think_tokens=8)
    monkeypatch.setattr(writer.transformer, "_mode", "disc")
    with pytest.raises(InputError, match="'gen'"):
        read_rationale(writer, TEXTS)
