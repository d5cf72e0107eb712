"""The study of methods: every arm's config can be read, arms are trained and scored, and nothing is done twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tte_retriever import model_path

RECIPE = Path(__file__).parents[2] / "recipes/study_methods.py"
CONFIG = RECIPE.parent / "configs/study_methods/tiny.yaml"


def study(out, *arguments):
    settings = [f"output_dir={out}", f"reader={model_path('tte-flash-tiny')}", "queries=14", "base.max_steps=1"]
    options = [
        option for value in [*settings, "base.trainer.per_device_train_batch_size=4"] for option in ("--set", value)
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(RECIPE), str(CONFIG), *options, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.slow
def test_every_arm_is_trained_and_scored(tmp_path):
    run = study(tmp_path / "study", "--seeds", "3")
    assert run.returncode == 0, run.stderr
    results = sorted((tmp_path / "study").glob("*-3.json"))
    names = ["contrastive-only", "direct", "explicit-cot", "lame", "lame-unfrozen", "plume", "tte-flash"]
    assert [result.name for result in results] == [f"{name}-3.json" for name in names]
    for result in results:
        record = json.loads(result.read_text())
        assert len(record["tasks"]) == 12
        assert record["training_seed"] == 3
        assert sum(record["steps"].values()) == 1200


def test_what_is_done_is_not_done_again(tmp_path):
    first = study(tmp_path / "study", "--arms", "direct", "--seeds", "0")
    assert first.returncode == 0, first.stderr
    result = tmp_path / "study/direct-0.json"
    stamp = result.stat().st_mtime_ns
    again = study(tmp_path / "study", "--arms", "direct", "--seeds", "0")
    assert again.stdout.strip().endswith("direct-0.json")
    assert result.stat().st_mtime_ns == stamp


def test_an_unknown_arm_is_refused(tmp_path):
    run = study(tmp_path / "study", "--arms", "telepathy")
    assert run.returncode != 0
    assert "no arm 'telepathy'" in run.stderr
    assert not (tmp_path / "study").exists()
