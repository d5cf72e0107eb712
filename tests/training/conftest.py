"""Tiny runs: a random think-token checkpoint, a file of text pairs with rationales, and the config that trains it."""

from __future__ import annotations

import json

import pytest
import yaml

from tte_retriever import build
from tte_retriever.training.config_files import read_config

COLORS = ("red", "green", "blue", "black", "white", "brown", "pink", "gray")


@pytest.fixture(scope="session")
def thinker(checkpoint, tmp_path_factory):
    """A built Qwen3-VL with two think tokens."""
    return build(tmp_path_factory.mktemp("thinker") / "m", backbone=checkpoint("qwen3_vl"), think_tokens=2)


@pytest.fixture(scope="session")
def pairs_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [
        {"anchor": f"q {color}", "positive": f"{color} thing", "anchor_rationale": f"it is {color}"}
        for color in COLORS
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def configured(thinker, pairs_file, tmp_path_factory):
    """``configured(*overrides)`` is a config of two stages, four steps each, that runs in seconds."""
    values = {
        "output_dir": "out",  # below the working directory, so that two runs can have equal configs
        "model": {"backbone": str(thinker)},
        "data": [{"name": "mine", "path": str(pairs_file)}],
        "stages": [
            {"name": "warm-up", "steps": 4, "learning_rate": 1e-3, "contrastive_weight": 0},
            {"name": "joint", "steps": 4, "learning_rate": 1e-3},
        ],
        "trainer": {
            "per_device_train_batch_size": 4,
            "logging_steps": 1,
            "save_steps": 2,
            "disable_tqdm": True,
            "use_cpu": True,
        },
    }

    def config(*overrides):
        path = tmp_path_factory.mktemp("config") / "config.yaml"
        path.write_text(yaml.safe_dump(values))
        return read_config(path, overrides)

    return config
