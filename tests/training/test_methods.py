"""The table of methods: every name in it can be imported; and stages freeze parts for themselves."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sentence_transformers.base.modules import Transformer

from tte_retriever.methods.table import METHODS
from tte_retriever.training.cached_contrastive import CachedContrastiveLoss
from tte_retriever.training.collator import PairCollator
from tte_retriever.training.config import TrainConfig
from tte_retriever.training.run import train


@pytest.mark.parametrize("name", METHODS)
def test_an_entry_holds_classes_of_the_right_kind(name):
    method = METHODS[name]
    assert issubclass(method.resolve("config"), TrainConfig)
    assert issubclass(method.resolve("loss"), CachedContrastiveLoss)
    assert issubclass(method.resolve("collator"), PairCollator)
    assert issubclass(method.resolve("module_class"), Transformer)
    assert callable(method.resolve("build"))


@pytest.mark.slow
def test_a_stage_freezes_for_itself_and_the_run_for_all(configured, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for index in range(4):
        Image.new("RGB", (64, 64), (60 * index, 0, 0)).save(f"{index}.png")
    rows = [{"anchor": {"image": f"{i}.png"}, "positive": f"thing {i}", "anchor_rationale": "seen"} for i in range(4)]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = configured(
        "max_steps=1",
        "data.0.path=pairs.jsonl",
        "freeze=[merger]",
        "stages.0.freeze=[language]",
        "stages.1.freeze=[vision]",
    )
    start = config.model.backbone
    train(config)
    folders = (start, "out/warm-up/model", "out/joint/model")
    states = [load_file(f"{folder}/model.safetensors") for folder in folders]
    changed = [
        {name for name in before if not torch.equal(before[name], after[name])} for before, after in pairwise(states)
    ]
    assert changed[0]
    assert all("visual" in name and "merger" not in name for name in changed[0])
    assert changed[1]
    assert not any("visual" in name for name in changed[1])
