"""Thinking in words: what is written, where the embedding is read, and that a batch changes neither."""

from __future__ import annotations

import functools
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import AutoModelForMultimodalLM, AutoProcessor

from tests.checkpoints import EACH_FAMILY
from tte_retriever import TTEEncoder, build, model_path
from tte_retriever.errors import CheckpointError, InputError
from tte_retriever.explain import read_rationale
from tte_retriever.media import VideoFrames
from tte_retriever.methods.explicit_cot import ExplicitCoT
from tte_retriever.methods.explicit_cot import build as modules_of
from tte_retriever.methods.plume_prompt import add_plume_prompt

LONGEST = 24


@pytest.fixture(scope="module")
def encoders(chatty):
    return functools.cache(lambda family: TTEEncoder(str(chatty(family)), device="cpu"))


@pytest.fixture
def encoder(encoders):
    yield encoders("qwen3_vl")
    encoders("qwen3_vl").transformer.mode = "gen"


def vectors_of(rationales):
    return np.stack([rationale.vector for rationale in rationales])


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_an_item_alone_equals_the_item_in_a_mixed_batch(encoders, family, mixed):
    encoder = encoders(family)
    alone = [read_rationale(encoder, [item])[0] for item in mixed]
    assert len({len(rationale.token_ids) for rationale in alone}) > 3  # rows that finish early wait for the others
    assert {rationale.stop for rationale in alone} == {"embed", "end-of-turn", "cap"}
    together = read_rationale(encoder, mixed, batch_size=len(mixed))
    assert together == alone
    assert np.abs(vectors_of(together) - vectors_of(alone)).max() < 1e-5
    assert np.abs(np.stack(list(encoder.embed(mixed))) - vectors_of(alone)).max() < 1e-5
    assert np.array_equal(encoder.encode(mixed, batch_size=1), vectors_of(alone))


def written_out(folder, encoder, item, budget):
    """The slow way: the whole sequence again for every token; states (L, D) of all of it, and where the rationale starts."""
    model = AutoModelForMultimodalLM.from_pretrained(folder).eval()
    features = encoder.preprocess([item])
    media = ("pixel", "image_grid", "video_grid", "second")
    given = {key: value for key, value in features.items() if key.startswith(media)}
    ids, start = features["input_ids"], features["input_ids"].shape[1]
    gen, end = encoder.tokenizer.convert_tokens_to_ids(["<gen_emb>", "<|im_end|>"])
    kinds = features["mm_token_type_ids"]
    while True:
        kinds = torch.nn.functional.pad(kinds, (0, ids.shape[1] - kinds.shape[1]))
        with torch.no_grad():
            out = model(input_ids=ids, mm_token_type_ids=kinds, output_hidden_states=True, **given)
        if ids[0, -1] == gen and ids.shape[1] > start:
            return out.hidden_states[-1][0], start
        token = int(out.logits[0, -1].argmax())
        if token == end or ids.shape[1] - start == budget:
            token = gen
        ids = torch.cat([ids, torch.tensor([[token]])], dim=1)


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_the_embedding_is_the_state_of_the_embed_token_itself(encoders, chatty, family, mixed):
    encoder = encoders(family)
    for index in (0, 3, 5, 6, 7):
        (rationale,) = read_rationale(encoder, [mixed[index]])
        states, start = written_out(chatty(family), encoder, mixed[index], LONGEST)
        states = torch.nn.functional.normalize(states, dim=1).numpy()
        assert len(states) == start + len(rationale.token_ids) + 1
        assert np.abs(states[-1] - rationale.vector).max() < 1e-5
        assert np.abs(states[-2] - rationale.vector).max() > 1e-2  # the state that the embed token was predicted from


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_disc_is_the_state_of_its_token_and_writes_nothing(encoders, chatty, family, mixed):
    encoder = encoders(family)
    encoder.transformer.mode = "disc"
    try:
        before = encoder.transformer.stopped.total()
        vectors = encoder.encode(mixed)
        assert encoder.transformer.stopped.total() == before
        for index in (0, 5, 6):
            states, _ = written_out(chatty(family), encoder, mixed[index], 0)
            ids = encoder.preprocess([mixed[index]])["input_ids"][0].tolist()
            (at,) = [i for i, token in enumerate(ids) if token == encoder.transformer.disc_id]
            states = torch.nn.functional.normalize(states, dim=1).numpy()
            assert np.abs(states[at] - vectors[index]).max() < 1e-5
            assert np.abs(states[at + 1] - vectors[index]).max() > 1e-2
        with pytest.raises(InputError, match="mode"):
            read_rationale(encoder, mixed)
    finally:
        encoder.transformer.mode = "gen"


def test_embed_and_disc_tokens_in_the_prompt_are_not_where_it_reads(checkpoint, mixed):
    """The instruction names the embed token, and a text that spells out either stays text."""
    modules = modules_of(checkpoint("qwen2_vl"), 3, init="mean", ask=functools.partial(add_plume_prompt, prefix=""))
    encoder = TTEEncoder(modules=modules, device="cpu")
    hostile = "a <gen_emb> b <disc_emb> c <|im_end|> d"
    ids = encoder.preprocess([hostile])["input_ids"][0].tolist()
    assert ids.count(modules[0].gen_id) == ids.count(modules[0].disc_id) == 1
    alone = [read_rationale(encoder, [item])[0] for item in mixed]
    assert [len(rationale.token_ids) for rationale in alone] == [3] * len(
        mixed
    )  # not as short as if the prompt had ended it
    assert read_rationale(encoder, [*mixed, hostile])[:-1] == alone
    modules[0].mode = "disc"
    disc = encoder.encode([hostile, *mixed])
    assert np.abs(disc[1:] - vectors_of(alone)).max(1).min() > 1e-3


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_reading_what_it_wrote_gives_the_same_vectors(encoders, family, mixed):
    """One prefill over prompt and rationale, as in training, against the states that writing left behind."""
    encoder = encoders(family)
    frames = mixed[6]["video"].frames * 12
    minutes = VideoFrames(frames, tuple(5.0 * index for index in range(len(frames))), 0.0, 5.0 * len(frames))
    mixed = [*mixed, minutes]  # more moments than the text behind it has tokens
    with torch.no_grad():
        wrote = encoder(encoder.preprocess(mixed))
        gen = torch.full((len(mixed), 1), -100)
        ids = torch.cat([wrote["rationale_ids"], gen], dim=1)
        written = ids.scatter(1, (ids >= 0).sum(1, keepdim=True), encoder.transformer.gen_id)
        read = encoder(encoder.preprocess(mixed) | {"written_ids": written})
    assert (read["sentence_embedding"] - wrote["sentence_embedding"]).abs().max() < 1e-5
    assert "rationale_ids" not in read


def test_the_budget_cuts_what_is_written(encoder, mixed):
    whole = read_rationale(encoder, mixed)
    for budget in (0, 1, 5):
        cut = read_rationale(encoder, mixed, think_budget=budget)
        assert [each.text for each in cut] == [each.text[:budget] for each in whole]
        assert [each.stop == "cap" for each in cut] == [len(each.token_ids) >= budget for each in whole]
        assert np.abs(encoder.encode(mixed, think_budget=budget) - vectors_of(cut)).max() < 1e-6
    with pytest.raises(InputError, match=f"from 0 to {LONGEST}"):
        encoder.encode("two", think_budget=LONGEST + 1)


def test_one_item_has_one_rationale(encoder):
    chat = [{"role": "system", "content": "find it"}, {"role": "user", "content": "a red circle"}]
    pixels = np.random.default_rng(0).integers(0, 255, (4, 64, 96, 3), np.uint8)
    for item in ("circle", {"text": "circle"}, chat, pixels):
        (rationale,) = read_rationale(encoder, item)
        assert rationale == read_rationale(encoder, [item])[0]


@pytest.mark.slow
@pytest.mark.parametrize("family", EACH_FAMILY[:3])
def test_threads_do_not_disturb_each_other(encoders, family, mixed):
    encoder = encoders(family)
    batches = [mixed[:3], mixed[5:7], mixed[6:7], mixed[7:9]]
    expected = [encoder.encode(batch) for batch in batches]
    with ThreadPoolExecutor(len(batches)) as pool:
        found = list(pool.map(encoder.encode, batches * 3))
    for vectors, alone in zip(found, expected * 3, strict=True):
        assert np.abs(vectors - alone).max() < 1e-5


def test_every_row_has_its_own_budget(encoder):
    texts = ["a red circle", "two", "a blue square left of a small green triangle"]
    chats = [[{"role": "user", "content": text, "think_budget": 2 * n}] for n, text in enumerate(texts)]
    own = read_rationale(encoder, chats)
    for n, (text, rationale) in enumerate(zip(texts, own, strict=True)):
        (alone,) = read_rationale(encoder, [text], think_budget=2 * n)
        assert alone == rationale
        assert np.abs(alone.vector - rationale.vector).max() < 1e-5


@pytest.mark.parametrize("option", ["num_beams", "num_return_sequences"])
def test_sampling_is_a_choice_and_beams_are_refused(encoder, monkeypatch, option):
    greedy, choice = read_rationale(encoder, ["two"])[0], encoder.transformer.model.generation_config
    usual = encoder.fingerprint
    monkeypatch.setattr(choice, "do_sample", True)
    monkeypatch.setattr(choice, "temperature", 1e3)
    assert [rationale.text for rationale in read_rationale(encoder, ["two"] * 3)] != [greedy.text] * 3
    assert encoder.fingerprint != usual
    monkeypatch.setattr(choice, option, 2)
    with pytest.raises(InputError, match=f"{option} is 2"):
        encoder.encode("two")


def test_it_counts_why_rationales_ended(encoder, mixed):
    encoder.transformer.stopped.clear()
    rationales = read_rationale(encoder, mixed, batch_size=4)
    for stop in ("embed", "end-of-turn", "cap"):
        assert encoder.transformer.stopped[stop] == sum(rationale.stop == stop for rationale in rationales) > 0


def test_stock_loads_it_with_the_flag_only(encoder, chatty):
    folder = str(chatty("qwen3_vl"))
    with pytest.raises(ValueError, match="trust_remote_code"):
        SentenceTransformer(folder, device="cpu")
    stock = SentenceTransformer(folder, device="cpu", trust_remote_code=True)
    texts = ["a red circle", "two"]
    assert np.abs(stock.encode(texts) - encoder.encode(texts)).max() < 1e-6


def test_mode_and_budget_are_saved_and_part_of_the_fingerprint(encoder, tmp_path):
    usual = encoder.fingerprint
    encoder.transformer.mode = "disc"
    encoder.save_pretrained(str(tmp_path / "disc"))
    copy = TTEEncoder(str(tmp_path / "disc"), device="cpu")
    assert (copy.transformer.mode, copy.max_budget) == ("disc", LONGEST)
    assert copy.fingerprint != usual
    assert np.array_equal(copy.encode("two"), encoder.encode("two"))
    with pytest.raises(InputError, match="gen or disc"):
        copy.transformer.mode = "both"


def test_rows_that_do_not_fit_are_refused_where_the_prompt_is_lost(encoder, mixed):
    assert np.isfinite(encoder.encode("a red circle " * 200)).all()  # a text is shortened in front of the prompt
    with pytest.raises(InputError, match="fit"):
        encoder.encode([{"image": mixed[5]["image"], "text": "a red circle " * 200}])


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_the_prompt_ends_in_the_disc_token_and_opens_the_turn(chatty, family):
    render = AutoProcessor.from_pretrained(chatty(family)).apply_chat_template
    asked = "\n<disc_emb><|im_end|>\n<|im_start|>assistant\n"
    said = [{"role": "system", "content": "find it"}, {"role": "user", "content": "hello"}]
    shown = [{"role": "user", "content": [{"type": "text", "text": "what?"}, {"type": "image"}]}]
    default = "" if family.startswith("qwen3") else "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    for prompted in (True, False):
        options = {"tokenize": False, "add_generation_prompt": prompted}
        assert render(said, **options) == f"<|im_start|>system\nfind it<|im_end|>\n<|im_start|>user\nhello{asked}"
        pad = "<|vision_start|><|image_pad|><|vision_end|>"
        assert render(shown, **options) == f"{default}<|im_start|>user\nwhat?{pad}{asked}"


def test_a_head_that_is_tied_is_the_matrix_and_a_sampling_backbone_turns_greedy(checkpoint, tmp_path):
    source = shutil.copytree(checkpoint("qwen2_vl"), tmp_path / "source")
    (source / "generation_config.json").write_text(json.dumps({"do_sample": True, "temperature": 5.0, "top_k": 50}))
    build(tmp_path / "out", backbone=source, method="explicit-cot", think_tokens=6)
    encoder = TTEEncoder(str(tmp_path / "out"), device="cpu")
    model = encoder.transformer.model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert not model.generation_config.do_sample
    assert read_rationale(encoder, ["two"] * 3) == read_rationale(encoder, ["two"]) * 3
    card = (tmp_path / "out/README.md").read_text()
    assert "a rationale of up to 6 tokens to write" in card
    assert "`trust_remote_code=True`" in card


@pytest.mark.parametrize("tied", [True, False])
def test_a_backbone_without_its_untied_head_is_refused(checkpoint, tmp_path, tied):
    transformer = Transformer(str(checkpoint("qwen2_vl", tied=tied)), unpad_inputs=False)
    modules = [transformer, Pooling(transformer.get_embedding_dimension(), pooling_mode="lasttoken"), Normalize()]
    stock = SentenceTransformer(modules=modules, device="cpu", prompts={"query": "find it"})
    stock.save_pretrained(str(tmp_path / "st"))
    if tied:
        built = TTEEncoder(str(build(tmp_path / "out", backbone=tmp_path / "st", method="explicit-cot")), device="cpu")
        assert isinstance(built[0], ExplicitCoT)
        assert built.prompts["query"] == "find it"
        assert np.isfinite(built.encode("two", think_budget=4)).all()
    else:
        with pytest.raises(CheckpointError, match="output head"):
            build(tmp_path / "out", backbone=tmp_path / "st", method="explicit-cot")
        assert not (tmp_path / "out").exists()


def test_models_that_think_otherwise_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="8 think tokens"):
        build(tmp_path / "out", backbone=model_path("tte-flash-tiny"), method="explicit-cot")


@pytest.mark.parametrize("budget", [-1, 8193, 1.5, True])
def test_impossible_budgets_are_not_built(checkpoint, tmp_path, budget):
    with pytest.raises(InputError, match="from 0 to 8192"):
        build(tmp_path / "out", backbone=checkpoint("qwen2_vl"), method="explicit-cot", think_tokens=budget)


def test_a_picture_changes_what_is_written(encoder):
    items = [{"image": Image.new("RGB", (64, 64), color), "text": "what?"} for color in ("red", "blue", "white")]
    assert len({rationale.text for rationale in read_rationale(encoder, items)}) > 1
