"""The recipe of the bundled model, two steps long: a checkpoint, its training record, its card."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.mark.slow
def test_build_and_score(tmp_path):
    out = tmp_path / "tiny"
    for recipe in (
        ["build_tiny_model.py", "--out", out, "--max-steps", 2],
        ["build_tiny_model.py", "--out", out, "--max-steps", 1, "--start-at", "finish"],
        ["score_tiny_model.py", out, "--queries", 8],
    ):
        command = [sys.executable, *map(str, [RECIPES / recipe[0], *recipe[1:]])]
        subprocess.run(command, check=True, cwd=tmp_path)
    assert np.isfinite(SentenceTransformer(str(out), device="cpu").encode(["a red circle"])).all()
    assert set(json.loads((out / "training.json").read_text())["cpu_seconds"]) == {
        "transcription",
        "warm_up",
        "joint",
        "finish",
    }
    card = (out / "README.md").read_text()
    for promised in ("knows that world and nothing else", "untrained", "chance", "held-out", "CPU minutes"):
        assert promised in card
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
