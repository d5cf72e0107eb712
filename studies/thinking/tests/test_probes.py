"""The probes of the study: one record for each checkpoint, which is not probed twice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from studies.thinking import probe
from studies.thinking.records import ResultsFile
from studies.thinking.study import StudyConfig, launch_study
from tte_retriever import build, model_path
from tte_retriever.errors import InputError
from tte_retriever.small_world import FAMILIES
from tte_retriever.small_world.backbone import bare_backbone
from tte_retriever.training.config_files import read_values
from tte_retriever.training.parsing import from_mapping

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / "studies/thinking/config.yaml"
QUERIES = 8


def probes(out, *arguments):
    settings = [f"output_dir={out}", f"results_file={out}/results.jsonl", f"probe_queries={QUERIES}"]
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
    results = ResultsFile(untrained_study / "results.jsonl")
    written, latent = results.read()
    assert (written["arm"], latent["arm"]) == ("explicit-cot", "tte-flash")
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
    stamp = results.path.stat().st_mtime_ns
    again = probes(untrained_study, "--arms", "tte-flash", "explicit-cot", "--seeds", "0")
    assert again.stdout.split() == ["tte-flash-0", "explicit-cot-0"]
    assert results.path.stat().st_mtime_ns == stamp


def test_an_arm_that_the_study_does_not_have_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["probe", str(CONFIG), "--set", f"output_dir={tmp_path}", "--arms", "telepathy"])
    with pytest.raises(InputError, match="no arm 'telepathy'"):
        next(launch_study("", probe.probe_arm, ready=probe.is_trained))
