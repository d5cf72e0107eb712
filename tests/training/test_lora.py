"""Adapters: what they change, and that merging changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from tte_retriever import TTEEncoder, build
from tte_retriever.errors import InputError
from tte_retriever.training.config import LoraConfig
from tte_retriever.training.lora import add_lora, merge_lora

ITEMS = ["a red circle", "something else"]


@pytest.mark.parametrize(
    ("family", "think_tokens"), [("qwen2_vl", 2), ("qwen2_5_vl", 2), ("qwen3_vl", 2), ("qwen3_vl", 0), ("qwen3_5", 2)]
)
def test_merged_vectors_equal_adapted_vectors_and_load_anywhere(checkpoint, tmp_path, family, think_tokens):
    method = "tte-flash" if think_tokens else "direct"
    folder = build(tmp_path / "start", backbone=checkpoint(family), method=method, think_tokens=think_tokens)
    model = TTEEncoder(str(folder), device="cpu")
    names, before = set(model.state_dict()), model.encode(ITEMS)
    adapted = add_lora(model, LoraConfig(rank=4, alpha=8))
    assert np.array_equal(model.encode(ITEMS), before)  # a new adapter does nothing
    torch.manual_seed(0)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or "token_adapter" in name for name in trained)
    assert any("token_adapter" in name for name in trained)
    for parameter in trained.values():
        parameter.data += 0.05 * torch.randn_like(parameter)
    during = model.encode(ITEMS)
    assert np.abs(during - before).max() > 1e-3
    merge_lora(adapted)
    assert set(model.state_dict()) == names
    assert np.abs(model.encode(ITEMS) - during).max() < 1e-5
    model.save_pretrained(str(tmp_path / "merged"), create_model_card=False)
    plain = SentenceTransformer(str(tmp_path / "merged"), device="cpu")
    assert np.abs(plain.encode(ITEMS) - during).max() < 1e-5


def test_targets_that_name_nothing_are_refused(thinker):
    with pytest.raises(InputError, match=r"lora\.targets 'nothing'"):
        add_lora(TTEEncoder(str(thinker), device="cpu"), LoraConfig(targets="nothing"))
