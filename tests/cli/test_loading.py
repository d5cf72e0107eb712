"""How commands meet a model that cannot be had."""

from __future__ import annotations

import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from tte_retriever import TTEEncoder
from tte_retriever.cli.loading import load_encoder, load_model
from tte_retriever.errors import CheckpointError, InputError


def test_a_bundled_name_loads():
    assert load_encoder("tte-flash-tiny").thought.max_budget == 8


def test_our_backbones_get_our_encoder_and_other_models_stay_as_they_are(tmp_path, checkpoint, built):
    words = Tokenizer(WordLevel({"[UNK]": 0, "red": 1}, unk_token="[UNK]"))
    SentenceTransformer(modules=[StaticEmbedding(words, embedding_dim=4)], device="cpu").save(str(tmp_path))
    assert type(load_model(str(tmp_path))) is SentenceTransformer
    assert type(load_model("tte-flash-tiny")) is TTEEncoder
    assert type(load_model(str(built("tte-flash")))) is TTEEncoder
    with pytest.raises(CheckpointError, match="not an embedding model"):
        load_model(str(checkpoint("qwen2_vl")))


@pytest.mark.parametrize("load", [load_encoder, load_model])
@pytest.mark.parametrize("name", ["no-such-model", "nobody/no-such-model", "{tmp}", "{tmp}/missing"])
def test_what_is_no_model_is_named_in_one_sentence(load, name, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="cannot be loaded") as caught:
        load(name.format(tmp=tmp_path))
    assert "tte-flash-tiny" in str(caught.value)
    assert "\n" not in str(caught.value)
