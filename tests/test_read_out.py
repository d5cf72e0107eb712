"""The vector is the state of the last token that the model reads, whatever its tokenizer adds around a sequence."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
from PIL import Image
from sentence_transformers import SentenceTransformer

from tests.checkpoints import EACH_FAMILY
from tte_retriever import TTEEncoder, build
from tte_retriever.errors import CheckpointError, InputError
from tte_retriever.tokens import EMBED_TOKEN

READ_OUT = {
    "direct": EMBED_TOKEN,
    "tte-flash": EMBED_TOKEN,
    "lame": EMBED_TOKEN,
    "plume": "<bot>",
    "explicit-cot": "\n",
}
"""By method, the last token of the prompt: what is read, or what the thought starts from."""
STOCK = ("direct", "tte-flash", "lame")
PIXELS = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
ITEMS = [
    "a red circle",
    "two",
    {"image": Image.fromarray(PIXELS)},
    {"image": Image.fromarray(PIXELS), "text": "what?"},
]


@pytest.fixture(scope="module")
def built_from(embedding_model, tmp_path_factory):
    @functools.cache
    def make(method, family="qwen3_vl", added="appended"):
        folder = tmp_path_factory.mktemp("read-out") / "model"
        backbone = embedding_model(family, added, tied=method != "explicit-cot")
        tokens = {} if method == "direct" else {"think_tokens": 4}
        return build(folder, backbone=backbone, method=method, **tokens)

    return make


def last_tokens(encoder, features):
    """The last attended token of each row."""
    mask = features["attention_mask"]
    last = mask.shape[1] - 1 - mask.flip(1).argmax(1)
    return [encoder.tokenizer.decode([ids[at]]) for ids, at in zip(features["input_ids"], last, strict=True)]


def close(one, other):
    return np.abs(np.asarray(one) - np.asarray(other)).max() < 1e-5


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen3_5"])
def test_the_backbone_appends_a_token(embedding_model, family):
    encoder = TTEEncoder(str(embedding_model(family)), device="cpu")
    assert last_tokens(encoder, encoder.preprocess(ITEMS)) == ["<|endoftext|>"] * 4


@pytest.mark.parametrize("method", READ_OUT)
@pytest.mark.parametrize(
    ("family", "added"),
    [
        ("qwen3_vl", "both"),
        *(pytest.param(family, "both", marks=pytest.mark.slow) for family in ("qwen2_vl", "qwen2_5_vl", "qwen3_5")),
        *(pytest.param("qwen3_vl", added, marks=pytest.mark.slow) for added in ("appended", "prepended")),
    ],
)
def test_the_last_token_of_a_build_is_the_one_that_is_read(built_from, family, method, added):
    if (family, method) == ("qwen3_5", "plume"):
        pytest.skip("plume is not built on recurrent layers")
    folder = built_from(method, family, added)
    encoder = TTEEncoder(str(folder), device="cpu")
    assert encoder.tokenizer("").input_ids == []
    assert last_tokens(encoder, encoder.preprocess(ITEMS)) == [READ_OUT[method]] * len(ITEMS)
    together = encoder.encode(ITEMS)
    assert close(together, [encoder.encode([item])[0] for item in ITEMS])
    if method in STOCK:
        assert close(SentenceTransformer(str(folder), device="cpu").encode(ITEMS[:2]), together[:2])


@pytest.mark.parametrize("method", STOCK)
@pytest.mark.parametrize("family", EACH_FAMILY)
def test_without_a_thought_a_build_gives_the_vectors_of_its_embedding_backbone(
    embedding_model, built_from, family, method
):
    own = TTEEncoder(str(embedding_model(family)), device="cpu").encode(ITEMS)
    encoder = TTEEncoder(str(built_from(method, family)), device="cpu")
    assert close(encoder.encode(ITEMS, think_budget=0), own)
    if method != "direct":
        assert not close(encoder.encode(ITEMS), own)


def test_the_read_out_row_is_for_embedding_models(checkpoint, embedding_model, tmp_path):
    with pytest.raises(InputError, match="not an embedding model; give mean or keep"):
        build(tmp_path / "raw", backbone=checkpoint("qwen3_vl"), init="read-out")
    out = build(tmp_path / "mean", backbone=embedding_model("qwen3_vl"), init="mean", think_tokens=2)
    own = TTEEncoder(str(embedding_model("qwen3_vl")), device="cpu").encode(ITEMS)
    assert not close(TTEEncoder(str(out), device="cpu").encode(ITEMS, think_budget=0), own)


def test_a_token_behind_the_embed_token_is_an_error(embedding_model, built_from, tmp_path):
    """A folder as earlier versions built it."""
    folder = tmp_path / "old"
    folder.mkdir()
    for file in built_from("tte-flash").rglob("*"):
        if file.is_file():
            (folder / file.relative_to(built_from("tte-flash"))).parent.mkdir(parents=True, exist_ok=True)
            (folder / file.relative_to(built_from("tte-flash"))).write_bytes(file.read_bytes())
    path = folder / "tokenizer.json"
    tokens = json.loads(path.read_text())
    adding = json.loads((embedding_model("qwen3_vl") / "tokenizer.json").read_text())["post_processor"]
    path.write_text(json.dumps({**tokens, "post_processor": adding}))
    with pytest.raises(
        CheckpointError, match=r"reads is '<\|endoftext\|>' instead of the embed token.*Build or import"
    ):
        TTEEncoder(str(folder), device="cpu").encode("a red circle")


def test_a_checkpoint_without_modules_is_refused(checkpoint):
    with pytest.raises(CheckpointError, match=r"not an embedding model.*tte-retriever build OUT --backbone"):
        TTEEncoder(str(checkpoint("qwen3_vl")), device="cpu")


def test_a_name_that_is_nowhere_is_one_sentence():
    with pytest.raises(
        InputError, match=r"'tte-flash-tinny' cannot be loaded.*did you mean 'tte-flash-tiny'\?"
    ) as caught:
        TTEEncoder("tte-flash-tinny")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"'no-such/model' cannot be loaded.*the bundled ones are tte-flash-tiny\."):
        TTEEncoder("no-such/model", local_files_only=True)
