"""The benchmark through its command: every figure with its shape, and the promises that do not depend on the clock."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tte_retriever.bench import run
from tte_retriever.bench.measurement import ratio
from tte_retriever.bench.workloads import WORKLOADS, draw
from tte_retriever.options import ModelOptions
from tte_retriever.training.data import content_id


@pytest.mark.slow
def test_the_command_measures_every_part(tmp_path):
    file = tmp_path / "bench.jsonl"
    command = [sys.executable, "-m", "tte_retriever", "bench", "--quick", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    measurements = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert {each["part"] for each in measurements} == {"streaming", "packing", "memory", "thinking"}
    assert len([line for line in done.stdout.splitlines() if " · " in line]) == len(measurements)
    for each in measurements:
        assert each["low"] <= each["value"] <= each["high"]
        assert each["model"]
        assert each["shape"]
        if each["quantity"] == "least cosine":
            assert each["value"] >= 0.99999
        if each["wanted"] == "≤ 1024":
            assert each["value"] <= 1024
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "does not exist yet" in again.stderr


@pytest.mark.parametrize("workload", WORKLOADS)
def test_items_do_not_depend_on_how_many_are_drawn(workload):
    few, many = list(draw(workload, 3)), list(draw(workload, 6))
    assert list(map(content_id, few)) == list(map(content_id, many[:3]))
    assert len(set(map(content_id, many))) == 6


def test_a_ratio_pairs_the_rounds():
    assert ratio([2.0, 9.0, 4.0], [1.0, 3.0, 4.0]) == (2.0, 1.0, 3.0)


def test_a_model_is_measured_with_its_options():
    measured = list(run(quick=True, model=ModelOptions("tte-flash-tiny", device="cpu", think_budget=0)))
    assert [each.part for each in measured] == ["speed"] * len(WORKLOADS)
    assert all(each.value > 0 and each.shape.endswith("cpu") for each in measured)
