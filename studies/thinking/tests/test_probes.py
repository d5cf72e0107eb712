"""The probes of the study: one file for each checkpoint, with what it can tell, and nothing done twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from studies.thinking.study import StudyConfig
from tte_retriever import build, model_path
from tte_retriever.small_world import FAMILIES
from tte_retriever.small_world.backbone import bare_backbone
from tte_retriever.training.config_files import read_values
from tte_retriever.training.parsing import from_mapping

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / "studies/thinking/config.yaml"
QUERIES = 8


def probes(out, *arguments):
    settings = [f"output_dir={out}", f"results_dir={out}/results", f"probe_queries={QUERIES}"]
    options = [option for value in settings for option in ("--set", value)]
    command = [sys.executable, "-m", "studies.thinking.probe", str(CONFIG), *options, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, cwd=ROOT)


@pytest.fixture(scope="module")
def untrained_study(tmp_path_factory):
    """Two arms as they were before their first step, where the study would have left them after its last."""
    out = tmp_path_factory.mktemp("study")
    bare_backbone(model_path("tte-flash-tiny"), out / "reader")
    study = from_mapping(StudyConfig, read_values(CONFIG, [f"output_dir={out}"]))
    for name in ("tte-flash", "explicit-cot"):
        values = study.config(name) | {"output_dir": str(study.folder((0, name)))}
        options = {"method": values["model"]["method"], "think_tokens": values["model"]["think_tokens"]}
        build(study.folder((0, name)) / "model", backbone=out / "reader", **options)
        (study.folder((0, name)) / "config.yaml").write_text(yaml.safe_dump(values))
    return out


@pytest.mark.slow
def test_two_arms_are_probed_and_one_that_is_not_trained_is_left_out(untrained_study):
    run = probes(untrained_study, "--arms", "tte-flash", "direct", "explicit-cot", "--seeds", "0")
    assert run.returncode == 0, run.stderr
    assert "direct is not trained with seed 0 yet" in run.stderr
    files = sorted((untrained_study / "results/probes").glob("*.json"))
    assert [file.name for file in files] == ["explicit-cot-0.json", "tte-flash-0.json"]
    written, latent = (json.loads(file.read_text()) for file in files)
    assert list(written) == list(latent)
    assert (latent["arm"], latent["training_seed"], latent["think_tokens"]) == ("tte-flash", 0, 8)
    replaced = {"tte-flash": ["none", "swap", "shuffle", "zero", "mean"]}
    replaced["explicit-cot"] = ["none", "swap", "shuffle", "empty", "gold"]
    for record in (written, latent):
        rows = record["interventions"]
        asked = [(family, name) for family in FAMILIES for name in replaced[record["arm"]]]
        assert [(row["family"], row["intervention"]) for row in rows] == asked
        for row in rows:
            low, high = row["hit@1_ci95"]
            assert row["n"] == QUERIES
            assert 0 <= low <= row["hit@1"] <= high <= 1
            assert (row["cosine"] == pytest.approx(1, abs=1e-4)) or row["intervention"] != "none"
        assert [row["family"] for row in record["decoding"]] == list(FAMILIES)
        assert [row["family"] for row in record["answers"]] == ["question", "page-question", "moment-question"]
        assert 1 <= record["effective_rank_embeddings"] <= 128
        assert [row["family"] for row in record["similarity"]] == list(FAMILIES)
    assert all(-1 <= row["within"] <= 1 for row in latent["similarity"])
    assert all(row["within"] is row["between"] is None for row in written["similarity"])
    assert 1 <= latent["effective_rank_thought"] <= 128
    assert written["effective_rank_thought"] is None
    stamps = [file.stat().st_mtime_ns for file in files]
    again = probes(untrained_study, "--arms", "tte-flash", "explicit-cot", "--seeds", "0")
    assert again.stdout.split() == [str(file) for file in reversed(files)]
    assert [file.stat().st_mtime_ns for file in files] == stamps


def test_an_arm_that_the_study_does_not_have_is_refused(tmp_path):
    run = probes(tmp_path, "--arms", "telepathy")
    assert run.returncode != 0
    assert "no arm 'telepathy'" in run.stderr
    assert not (tmp_path / "results").exists()
