"""Folders have the layout that inference engines load, and folders in the layout of before load as they did."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from jinja2 import TemplateError
from PIL import Image
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import AutoModelForImageTextToText

from tests.checkpoints import FAMILIES, assert_engines_load, weight_names
from tte_retriever import TTEEncoder, build, model_path
from tte_retriever.backbones.engine_layout import engine_layout
from tte_retriever.errors import CheckpointError, InputError

METHODS = ("direct", "tte-flash", "lame", "plume", "explicit-cot")
PIXELS = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
ITEMS = ["a red circle", {"image": Image.fromarray(PIXELS)}, {"image": Image.fromarray(PIXELS), "text": "what?"}]


def as_written_before(folder, out):
    """A copy with the architecture and the names that transformers gives to a model without output head."""
    shutil.copytree(folder, out)
    weights = load_file(out / "model.safetensors")
    old = {re.sub(r"^model\.(language_model|visual)\.", r"\1.", name): tensor for name, tensor in weights.items()}
    old = {
        re.sub(r"^model\.", "language_model.", name): tensor for name, tensor in old.items()
    }  # Qwen2-VL and Qwen2.5-VL
    save_file(old, out / "model.safetensors", {"format": "pt"})
    config = json.loads((out / "config.json").read_text())
    name = config["architectures"][0].replace("ForConditionalGeneration", "Model")
    (out / "config.json").write_text(json.dumps({**config, "architectures": [name]}))
    return out


@pytest.mark.parametrize(
    ("family", "method"),
    [
        *((family, "tte-flash") for family in FAMILIES),
        *(("qwen3_vl", method) for method in METHODS if method != "tte-flash"),
    ],
)
def test_a_build_has_the_layout_of_its_familys_chat_model(built, tmp_path, family, method):
    folder = built(method, family, think_tokens=0 if method == "direct" else 4)
    assert_engines_load(folder, family)
    TTEEncoder(str(folder), device="cpu").save_pretrained(str(tmp_path / "copy"))
    assert_engines_load(tmp_path / "copy", family)
    assert weight_names(tmp_path / "copy") == weight_names(folder)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
@pytest.mark.parametrize("method", ["tte-flash", "explicit-cot"])
def test_an_untied_head_is_the_models_own_or_the_embedding_matrix(checkpoint, tmp_path, family, method):
    backbone = checkpoint(family, tied=False)
    out = build(tmp_path / "out", backbone=backbone, method=method, think_tokens=2)
    assert_engines_load(out, family)
    model = AutoModelForImageTextToText.from_pretrained(out)
    head = load_file(backbone / "model.safetensors")["lm_head.weight"]
    if method == "explicit-cot":
        rows = min(len(head), len(model.lm_head.weight), 263)  # the tokens of the backbone
        assert torch.equal(model.lm_head.weight[:rows], head[:rows])
    else:
        assert torch.equal(model.lm_head.weight, model.get_input_embeddings().weight)


def test_a_backbone_whose_head_was_dropped_cannot_write(checkpoint, tmp_path):
    transformer = Transformer(str(checkpoint("qwen2_vl", tied=False)))
    modules = [transformer, Pooling(transformer.get_embedding_dimension(), pooling_mode="lasttoken"), Normalize()]
    TTEEncoder(modules=modules, device="cpu").save_pretrained(str(tmp_path / "copy"))
    with pytest.raises(CheckpointError, match="no output head to write with"):
        build(tmp_path / "out", backbone=tmp_path / "copy", method="explicit-cot")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_in_the_layout_of_before_gives_the_same_vectors(built, untrained, tmp_path, family):
    before = as_written_before(built("tte-flash", family), tmp_path / "before")
    encoder, now = TTEEncoder(str(before), device="cpu"), untrained("tte-flash", family)
    assert encoder.fingerprint == now.fingerprint
    assert np.array_equal(encoder.encode(ITEMS), now.encode(ITEMS))
    assert np.array_equal(SentenceTransformer(str(before), device="cpu").encode(ITEMS[:1]), now.encode(ITEMS[:1]))


def test_the_bundled_model_is_in_the_layout_of_before_and_copies_are_not(tmp_path):
    encoder = TTEEncoder("tte-flash-tiny", device="cpu")
    assert not [name for name in weight_names(Path(model_path("tte-flash-tiny"))) if name.startswith("model.")]
    encoder.save_pretrained(str(tmp_path / "copy"))
    assert_engines_load(tmp_path / "copy", "qwen3_vl")
    copy = TTEEncoder(str(tmp_path / "copy"), device="cpu")
    assert copy.fingerprint == encoder.fingerprint
    assert np.array_equal(copy.encode(ITEMS[:1]), encoder.encode(ITEMS[:1]))


def test_shards_and_their_index_have_the_names(built, untrained, tmp_path):
    shutil.copytree(built("tte-flash"), tmp_path / "sharded")
    (tmp_path / "sharded/model.safetensors").unlink()
    transformer = TTEEncoder(str(built("tte-flash")), device="cpu").transformer
    model = transformer.model
    with engine_layout(transformer), engine_layout(transformer):
        model.save_pretrained(tmp_path / "sharded", max_shard_size="50KB")
    index = json.loads((tmp_path / "sharded/model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(index.values())) > 2
    assert sorted(index) == weight_names(tmp_path / "sharded") == weight_names(built("tte-flash"))
    assert_engines_load(tmp_path / "sharded", "qwen3_vl")
    encoder = TTEEncoder(str(tmp_path / "sharded"), device="cpu")
    assert encoder.fingerprint == untrained("tte-flash").fingerprint
    model.save_pretrained(tmp_path / "after")
    assert not [name for name in weight_names(tmp_path / "after") if name.startswith("model.")]


def test_half_precision_keeps_names_and_dtype(built, tmp_path):
    half = TTEEncoder(str(built("direct", think_tokens=0)), device="cpu", model_kwargs={"dtype": "bfloat16"})
    half.save_pretrained(str(tmp_path / "half"))
    assert_engines_load(tmp_path / "half", "qwen3_vl")
    assert {tensor.dtype for tensor in load_file(tmp_path / "half/model.safetensors").values()} == {torch.bfloat16}
    again = TTEEncoder(str(tmp_path / "half"), device="cpu", model_kwargs={"dtype": "bfloat16"})
    assert np.array_equal(again.encode(ITEMS), half.encode(ITEMS))


@pytest.mark.parametrize("method", METHODS)
def test_a_conversation_that_ends_with_an_assistant_turn_is_refused(built, untrained, method):
    chat = [{"role": "user", "content": "a red circle"}, {"role": "assistant", "content": "blue"}]
    encoder = untrained(method, think_tokens=0 if method == "direct" else 4)
    with pytest.raises(TemplateError, match="ends with an assistant turn"):
        encoder.processor.apply_chat_template(chat, tokenize=False)
    with pytest.raises(InputError, match="ends with a message of the role 'assistant'"):
        encoder.encode([chat])
    assert np.isfinite(encoder.encode([[*chat, {"role": "user", "content": "and red"}]], think_budget=0)).all()


def test_a_build_from_a_build_without_thought_has_one_refusal(built, tmp_path):
    again = build(tmp_path / "plume", backbone=built("direct", think_tokens=0), method="plume")
    template = TTEEncoder(str(again), device="cpu").processor.chat_template
    assert template.count("ends with an assistant turn") == 1
