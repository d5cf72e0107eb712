"""The measurement of the trainer's overhead, in small. What it finds is for a quiet machine, and not asserted."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

RECIPES = Path(__file__).parents[2] / "recipes"


def test_it_compares_equally_many_steps(tmp_path):
    words = ["recipes/trainer_overhead.py", "recipes/configs/tte-flash/tiny.yaml", "--steps", 6, "--rounds", 1]
    small = ["--set", "trainer.per_device_train_batch_size=4"]
    command = [sys.executable, *map(str, [*words, *small])]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=RECIPES.parent)
    counted = re.findall(
        r"^(trainer|loop): median \d+, mean \d+ CPU ms a step, (\d+) steps$", done.stderr, re.MULTILINE
    )
    assert counted == [("trainer", "2"), ("loop", "2")]
    assert re.search(r"^median of trainer / loop: \d\.\d+$", done.stderr, re.MULTILINE)
