"""The measurement of the trainer's overhead, with few steps. Its result needs a quiet machine and is not asserted."""

from __future__ import annotations

import logging
import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_it_compares_equally_many_steps(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    small = ["--set", "trainer.per_device_train_batch_size=2", "--set", "trainer.bf16=false"]
    words = ["trainer_overhead.py", ROOT / "recipes/configs/tte-flash/tiny.yaml", "--steps", 5, "--rounds", 1, *small]
    monkeypatch.setattr(sys, "argv", list(map(str, words)))
    runpy.run_path(str(ROOT / "recipes/trainer_overhead.py"), run_name="__main__")
    counted = re.findall(
        r"^(trainer|loop): median \d+, mean \d+ CPU ms a step, (\d+) steps$", "\n".join(caplog.messages), re.MULTILINE
    )
    assert counted == [("trainer", "1"), ("loop", "1")]
    assert any(re.fullmatch(r"median of trainer / loop: \d\.\d+", message) for message in caplog.messages)
