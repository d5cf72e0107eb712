"""What users of ``SentenceTransformer.encode`` rely on, through ``TTEEncoder``."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import quantize_embeddings

from tests.checkpoints import FAMILIES
from tte_retriever import MediaError, TTEEncoder, TTEError, build
from tte_retriever.errors import InputError

PROMPTS = {"query": "find the picture", "document": "a page of a book", "short": "be brief"}
E = 128
PIXELS = np.random.default_rng(0).integers(0, 255, (4, 64, 96, 3), np.uint8)
IMAGE = Image.fromarray(PIXELS[0])
CHAT = [{"role": "user", "content": [{"type": "image", "image": IMAGE}, {"type": "text", "text": "like this"}]}]
ITEMS = ["a red circle", IMAGE, {"video": PIXELS}, {"text": "what color ?", "image": IMAGE}, CHAT, "two"]


@pytest.fixture(scope="module")
def encoder():
    return TTEEncoder("tte-flash-tiny", device="cpu", prompts=PROMPTS)


@pytest.fixture(scope="module")
def vectors(encoder):
    return encoder.encode(ITEMS)


@pytest.fixture(scope="module")
def built(checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("contract")
    folders = {family: build(out / family, backbone=checkpoint(family), think_tokens=4) for family in FAMILIES}
    return {family: TTEEncoder(str(folder), device="cpu", prompts=PROMPTS) for family, folder in folders.items()}


def close(a, b):
    return np.abs(np.asarray(a) - np.asarray(b)).max() < 1e-5


def apart(a, b):
    """Every row of the one is elsewhere than that of the other."""
    return np.abs(np.asarray(a) - np.asarray(b)).max(-1).min() > 1e-3


# Prompts --------------------------------------------------------------------------------------------------------------


def test_each_prompt_gives_its_own_vector_however_it_is_named(encoder, vectors):
    query, document = encoder.encode_query(ITEMS), encoder.encode_document(ITEMS)
    assert apart(query, vectors)
    assert apart(document, vectors)
    assert apart(query, document)
    assert np.array_equal(query, encoder.encode(ITEMS, prompt_name="query"))
    assert np.array_equal(query, encoder.encode(ITEMS, prompt=PROMPTS["query"]))
    assert apart(encoder.encode_query(ITEMS, prompt_name="short"), query)
    assert apart(encoder.encode_document(ITEMS, prompt="another"), document)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_is_the_system_turn_in_every_family(built, family):
    encoder = built[family]
    for item in ITEMS:
        text = encoder.tokenizer.decode(encoder.preprocess([item], prompt=PROMPTS["query"])["input_ids"][0])
        assert text.count(f"<|im_start|>system\n{PROMPTS['query']}<|im_end|>") == 1
        assert apart(encoder.encode_query(item), encoder.encode_document(item))


def test_a_default_prompt_is_used_where_none_is_named(encoder, vectors):
    default = TTEEncoder("tte-flash-tiny", device="cpu", prompts=PROMPTS, default_prompt_name="short")
    assert np.array_equal(default.encode(ITEMS), encoder.encode(ITEMS, prompt_name="short"))
    assert np.array_equal(default.encode(ITEMS, prompt=""), vectors)
    assert np.array_equal(default.encode_query(ITEMS), encoder.encode_query(ITEMS))
    assert close(np.stack(list(default.embed(ITEMS))), default.encode(ITEMS))


def test_an_unknown_prompt_is_refused(encoder):
    with pytest.raises(ValueError, match="nope"):
        encoder.encode("two", prompt_name="nope")


# What comes back ------------------------------------------------------------------------------------------------------


def test_dimensions_are_truncated_by_the_model_the_call_and_the_context(encoder, vectors):
    short = TTEEncoder("tte-flash-tiny", device="cpu", truncate_dim=32)
    assert short.get_embedding_dimension() == 32
    assert np.array_equal(short.encode(ITEMS), vectors[:, :32])
    assert np.array_equal(short.encode(ITEMS, truncate_dim=16), vectors[:, :16])
    assert close(np.stack(list(short.embed(ITEMS))), vectors[:, :32])
    with encoder.truncate_embeddings(8):
        assert np.array_equal(encoder.encode(ITEMS), vectors[:, :8])
    assert encoder.encode("two").shape == (E,)
    unit = short.encode(ITEMS, normalize_embeddings=True)
    assert close(np.linalg.norm(unit, axis=1), 1)
    assert np.linalg.norm(vectors[:, :32], axis=1).max() < 0.99, "otherwise there was nothing to normalize"


@pytest.mark.parametrize(
    ("precision", "dtype", "width"),
    [("int8", "int8", E), ("uint8", "uint8", E), ("binary", "int8", 16), ("ubinary", "uint8", 16)],
)
def test_every_precision_is_that_of_the_float_vectors(encoder, vectors, precision, dtype, width):
    small = encoder.encode(ITEMS, precision=precision)
    assert (small.dtype, small.shape) == (np.dtype(dtype), (len(ITEMS), width))
    assert np.array_equal(small, quantize_embeddings(vectors, precision=precision))


def test_arrays_tensors_and_lists_hold_the_same(encoder, vectors):
    assert (vectors.dtype, vectors.shape) == (np.float32, (len(ITEMS), E))
    assert np.array_equal(encoder.encode(ITEMS, precision="float32"), vectors)
    tensor = encoder.encode(ITEMS, convert_to_tensor=True)
    assert isinstance(tensor, torch.Tensor)
    assert np.array_equal(tensor.numpy(), vectors)
    listed = encoder.encode(ITEMS, convert_to_numpy=False)
    assert isinstance(listed, list)
    assert np.array_equal(torch.stack(listed).numpy(), vectors)
    assert np.abs(encoder.encode(np.array(["two", "three"])) - encoder.encode(["two", "three"])).max() == 0


@pytest.mark.parametrize("batch_size", [1, 4])
def test_token_embeddings_are_each_items_own(encoder, batch_size):
    tokens = encoder.encode(ITEMS, output_value="token_embeddings", batch_size=batch_size)
    lengths = [encoder.preprocess([item])["input_ids"].shape[1] for item in ITEMS]
    assert [tuple(item.shape) for item in tokens] == [(length, E) for length in lengths]


def test_everything_is_given_when_no_output_is_named(encoder, vectors):
    everything = encoder.encode(ITEMS, output_value=None, think_budget=8)
    assert close(torch.stack([item["sentence_embedding"] for item in everything]), vectors)
    assert {"token_embeddings", "input_ids", "attention_mask"} <= set(everything[0])


@pytest.mark.parametrize("options", [{}, {"think_budget": 2}, {"prompt_name": "query"}, {"precision": "int8"}])
def test_nothing_in_nothing_out(encoder, options):
    assert encoder.encode([], **options).shape == (0,)
    assert encoder.encode_query([]).shape == (0,)
    assert encoder.encode([], convert_to_tensor=True, **options).shape == (0,)


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarity_is_the_one_that_was_chosen(vectors, name):
    encoder = TTEEncoder("tte-flash-tiny", device="cpu", similarity_fn_name=name)
    a, b = vectors[:3, None].astype(float), vectors[None, 3:].astype(float)
    expected = {
        "cosine": (a * b).sum(-1),  # the vectors are of length 1
        "dot": (a * b).sum(-1),
        "euclidean": -np.sqrt(((a - b) ** 2).sum(-1)),
        "manhattan": -np.abs(a - b).sum(-1),
    }[name]
    assert close(encoder.similarity(vectors[:3], vectors[3:]), expected)
    assert close(encoder.similarity_pairwise(vectors[:3], vectors[3:]), np.diag(expected))


# Length ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_max_seq_length_is_obeyed_and_the_thought_is_kept_or_missed(built, family):
    encoder = built[family]
    usual, encoder.max_seq_length = encoder.max_seq_length, 64
    try:
        ids = encoder.preprocess(["a red circle " * 50])["input_ids"][0].tolist()
        assert len(ids) == 64
        assert ids[-5:] == [*encoder.thought.think_ids, encoder.thought.embed_id]
        for media in ({"image": IMAGE}, {"video": PIXELS}):
            with pytest.raises(InputError, match="fit"):
                encoder.encode([{**media, "text": "a red circle " * 50}])
        with pytest.raises(InputError, match="fit"):
            encoder.encode(["two", [*CHAT, {"role": "user", "content": "a red circle " * 50}]])
    finally:
        encoder.max_seq_length = usual


# Several processes ----------------------------------------------------------------------------------------------------


@pytest.mark.slow  # every worker imports everything anew
def test_a_pool_gives_what_one_process_gives_and_its_errors(encoder):
    pool = encoder.start_multi_process_pool(["cpu", "cpu"])
    try:
        options = {"think_budget": 3, "prompt_name": "query"}
        assert close(encoder.encode(ITEMS, pool=pool, chunk_size=2, **options), encoder.encode(ITEMS, **options))
        assert close(encoder.encode_document(ITEMS, pool=pool), encoder.encode_document(ITEMS))
        assert encoder.encode([], pool=pool).shape == (0,)
        with pytest.raises(MediaError) as caught:
            encoder.encode(["two", {"image": b"no picture"}], pool=pool)
        assert caught.value.reason == "unsupported"
        with pytest.raises(InputError, match="from 0 to 8"):
            encoder.encode(["two"], pool=pool, think_budget=9)
        weight = encoder[0].model.get_input_embeddings().weight  # shared with the workers
        kept = weight.detach().clone()
        try:
            weight.data[encoder.thought.embed_id] = float("nan")
            with pytest.raises(TTEError, match="2 of 2 vectors hold NaN"):
                encoder.encode(["two", "three"], pool=pool, chunk_size=2)
        finally:
            weight.data.copy_(kept)
    finally:
        encoder.stop_multi_process_pool(pool)


# Saving ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loader", [SentenceTransformer, TTEEncoder])
def test_prompts_similarity_and_card_survive_saving(encoder, tmp_path, loader):
    chosen = TTEEncoder(
        "tte-flash-tiny", device="cpu", prompts=PROMPTS, default_prompt_name="short", similarity_fn_name="euclidean"
    )
    chosen.save_pretrained(str(tmp_path / "copy"))
    loaded = loader(str(tmp_path / "copy"), device="cpu")
    assert (loaded.prompts, loaded.default_prompt_name) == (PROMPTS, "short")
    assert loaded.similarity_fn_name == "euclidean"
    assert np.array_equal(loaded.encode("two"), encoder.encode("two", prompt_name="short"))
    assert np.array_equal(loaded.encode_query("two"), encoder.encode_query("two"))
    assert "tte-flash-tiny" in (tmp_path / "copy" / "README.md").read_text()


def test_a_card_is_written_where_there_was_none(encoder, tmp_path):
    TTEEncoder(modules=list(encoder), device="cpu", prompts=PROMPTS).save_pretrained(str(tmp_path / "new"))
    card = (tmp_path / "new" / "README.md").read_text()
    assert "library_name: sentence-transformers" in card
    assert f"{E} dimensions" in card
    assert "Text, Image, Video" in card
    assert str(tmp_path) not in card


# Vectors that are none ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_vector_that_is_none_is_never_given(value):
    encoder = TTEEncoder("tte-flash-tiny", device="cpu")
    color = encoder.tokenizer(" red").input_ids[0]
    encoder[0].model.get_input_embeddings().weight.data[color] = value
    for give in (
        encoder.encode,
        encoder.encode_query,
        encoder.encode_document,
        lambda items: list(encoder.embed(items)),
    ):
        with pytest.raises(TTEError, match="1 of 2 vectors hold NaN") as caught:
            give(["two", "a red circle"])
        assert not isinstance(caught.value, InputError), "the input is not to blame"
        assert len(give(["two", "three"])) == 2
    encoder.train()  # a loss may be infinite now and then; scalers of gradients live on it
    assert not encoder(encoder.preprocess(["a red circle"]))["sentence_embedding"].isfinite().all()
