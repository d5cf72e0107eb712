"""Mixed precision holds in every stage, not only in the first that a process trains."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tte_retriever.training.run import train


@pytest.mark.slow
def test_a_stage_is_the_same_after_another_as_in_a_process_of_its_own(configured, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = configured("trainer.bf16=true")
    weights = (train(config) / "model.safetensors").read_bytes()
    for lost in ("out/model", "out/joint"):
        shutil.rmtree(Path(lost))
    assert (train(config) / "model.safetensors").read_bytes() == weights
