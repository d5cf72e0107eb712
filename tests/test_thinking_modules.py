"""The seam for methods that think by code of their own: how their modules load, and how a budget reaches them."""

from __future__ import annotations

import json
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer

from tte_retriever import TTEEncoder, model_path
from tte_retriever.errors import InputError

HOME = "tte_retriever.methods.turning"


class Turning(Transformer):
    """Its thought turns the vector: by so many steps of a tenth of a radian."""

    config_keys = [*Transformer.config_keys, "max_budget"]  # noqa: RUF012  (as stock modules have it)
    forward_kwargs = {"think_budget"}  # noqa: RUF012

    def __init__(self, *args, max_budget=3, **kwargs):
        super().__init__(*args, **kwargs)
        self.max_budget = max_budget

    @property
    def added_token_ids(self):
        return []

    def forward(self, features, think_budget=None, **kwargs):
        default = torch.tensor(self.max_budget if think_budget is None else think_budget)
        angle = features.get("think_budget", default) / 10
        output = super().forward(features, **kwargs)
        x, y, *_ = output["token_embeddings"].unbind(-1)
        cos, sin = angle.cos().reshape(-1, 1), angle.sin().reshape(-1, 1)
        output["token_embeddings"][..., :2] = torch.stack([cos * x - sin * y, sin * x + cos * y], -1)
        return output


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint whose first module is of a class that stands among our methods."""
    module, usual = ModuleType(HOME), Turning.__module__
    module.Turning, Turning.__module__ = Turning, HOME
    sys.modules[HOME] = module
    out = tmp_path_factory.mktemp("turning") / "model"
    stock = SentenceTransformer(model_path("tte-flash-tiny"), device="cpu")
    first = Turning(model_path("tte-flash-tiny"), unpad_inputs=False)
    template = first.processor.chat_template.replace("think_budget", "no_such_variable")  # 8 think tokens, always
    first.processor.chat_template = first.tokenizer.chat_template = template
    SentenceTransformer(modules=[first, *list(stock)[1:]], device="cpu").save_pretrained(str(out))
    yield out
    del sys.modules[HOME]
    Turning.__module__ = usual


@pytest.fixture(scope="module")
def encoder(folder):
    return TTEEncoder(str(folder), device="cpu")


def turns(vector, start):
    """By how many tenths of a radian the first two components are turned."""
    angle = np.arctan2(vector[1], vector[0]) - np.arctan2(start[1], start[0])
    return round(float(angle % (2 * np.pi)) * 10, 3)


def test_modules_of_our_methods_load_without_a_flag(folder, encoder):
    assert type(encoder[0]) is Turning
    assert np.isfinite(encoder.encode("a red circle")).all()


def test_stock_loads_them_with_the_flag_only(folder, encoder):
    with pytest.raises(ValueError, match="trust_remote_code"):
        SentenceTransformer(str(folder), device="cpu")
    stock = SentenceTransformer(str(folder), device="cpu", trust_remote_code=True)
    for budget in (None, 1):
        given = {} if budget is None else {"think_budget": budget}
        assert np.allclose(stock.encode(["two"], **given), encoder.encode(["two"], **given), atol=1e-6)


@pytest.mark.parametrize("stranger", ["tte_retriever_evil.Module", "tte_retriever.tokens.Module", "evil.Module"])
def test_no_other_code_is_loaded(folder, tmp_path, stranger):
    (tmp_path / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": stranger}]))
    with pytest.raises(ValueError, match="trust_remote_code"):
        TTEEncoder(str(tmp_path), device="cpu")


def test_the_budget_reaches_the_module(encoder):
    start = encoder.encode("a red circle", think_budget=0)
    assert [turns(encoder.encode("a red circle", think_budget=n), start) for n in (1, 2, 3)] == [1, 2, 3]
    assert turns(encoder.encode("a red circle"), start) == 3


def test_every_row_has_its_own_budget_in_encode_and_in_a_stream(encoder):
    chats = [
        [{"role": "user", "content": text, "think_budget": n}] for n, text in enumerate(["one red", "two", "three"])
    ]
    items = [*chats, "four"]
    start = encoder.encode(["one red", "two", "three", "four"], think_budget=0)
    for vectors in (encoder.encode(items, think_budget=3), np.stack(list(encoder.embed(items)))):
        assert [turns(*pair) for pair in zip(vectors, start, strict=True)] == [0, 1, 2, 3]


@pytest.mark.parametrize("budget", [-1, 4, 1.5, True])
def test_a_budget_beyond_the_module_is_refused(encoder, budget):
    with pytest.raises(InputError, match="from 0 to 3"):
        encoder.encode("two", think_budget=budget)


def test_the_fingerprint_knows_the_settings_of_the_module(folder, encoder):
    assert TTEEncoder(str(folder), device="cpu").fingerprint == encoder.fingerprint
    other = TTEEncoder(str(folder), device="cpu")
    other[0].max_budget = 2
    assert other.fingerprint != encoder.fingerprint
