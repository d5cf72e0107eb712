"""How commands meet a model that cannot be had."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from tte_retriever import TTEEncoder
from tte_retriever.cli.loading import load_encoder, load_model
from tte_retriever.errors import CheckpointError, InputError
from tte_retriever.options import ModelOptions


def test_a_bundled_name_loads():
    assert load_encoder(ModelOptions("tte-flash-tiny")).thought.max_budget == 8


def test_our_backbones_get_our_encoder_and_other_models_stay_as_they_are(tmp_path, checkpoint, built):
    words = Tokenizer(WordLevel({"[UNK]": 0, "red": 1}, unk_token="[UNK]"))
    SentenceTransformer(modules=[StaticEmbedding(words, embedding_dim=4)], device="cpu").save(str(tmp_path))
    assert type(load_model(ModelOptions(str(tmp_path)))) is SentenceTransformer
    assert type(load_model(ModelOptions("tte-flash-tiny"))) is TTEEncoder
    assert type(load_model(ModelOptions(str(built("tte-flash"))))) is TTEEncoder
    with pytest.raises(CheckpointError, match="not an embedding model"):
        load_model(ModelOptions(str(checkpoint("qwen2_vl"))))


@pytest.mark.parametrize("load", [load_encoder, load_model])
@pytest.mark.parametrize("name", ["no-such-model", "nobody/no-such-model", "{tmp}", "{tmp}/missing"])
def test_what_is_no_model_is_named_in_one_sentence(load, name, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="cannot be loaded") as caught:
        load(ModelOptions(name.format(tmp=tmp_path)))
    assert "tte-flash-tiny" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_reach_the_model():
    options = ModelOptions("tte-flash-tiny", device="cpu", dtype="bfloat16", attention="eager", max_pixels=4096)
    model = load_model(replace(options, think_budget=2, batch_tokens=99))
    assert type(model) is TTEEncoder
    assert next(model.parameters()).dtype is torch.bfloat16
    assert model.transformer.model.config._attn_implementation == "eager"
    assert (model.max_pixels, model.think_budget, model.batch_tokens) == (4096, 2, 99)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dtype": "int8"}, "float32 or bfloat16 or float16"),
        ({"max_pixels": 0}, "1 or more"),
        ({"think_budget": -1}, "0 or more"),
        ({"batch_tokens": 0}, "1 or more"),
    ],
)
def test_options_out_of_range_are_refused_before_anything_is_loaded(options, said):
    with pytest.raises(InputError, match=said):
        ModelOptions("tte-flash-tiny", **options)


@pytest.mark.parametrize("options", [{"think_budget": 9}, {"max_pixels": 1}])
def test_options_that_do_not_fit_the_model_are_refused(options):
    with pytest.raises(InputError, match="this model"):
        load_encoder(ModelOptions("tte-flash-tiny", **options))


def test_other_models_have_no_think_budget(tmp_path):
    words = Tokenizer(WordLevel({"[UNK]": 0, "red": 1}, unk_token="[UNK]"))
    SentenceTransformer(modules=[StaticEmbedding(words, embedding_dim=4)], device="cpu").save(str(tmp_path))
    with pytest.raises(InputError, match="think_budget"):
        load_model(ModelOptions(str(tmp_path), think_budget=2))
