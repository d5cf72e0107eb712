"""The study of methods: arms differ in what they say and nothing else, are trained and scored, and not done twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from studies.thinking.results import SAME_TIME
from studies.thinking.study import StudyConfig
from tte_retriever import model_path
from tte_retriever.errors import InputError
from tte_retriever.training.config_files import read_config, read_values
from tte_retriever.training.parsing import from_mapping

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / "studies/thinking/config.yaml"
VALUES = read_values(CONFIG)
BASE = "tte-flash"


def study(out, *arguments):
    settings = [f"output_dir={out}", f"results_dir={out}/results", f"reader={model_path('tte-flash-tiny')}"]
    settings += ["queries=14", "base.max_steps=1", "base.trainer.per_device_train_batch_size=4"]
    options = [option for value in settings for option in ("--set", value)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "studies.thinking.run", str(CONFIG), *options, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, cwd=ROOT)


@pytest.fixture(scope="module")
def study_config():
    return from_mapping(StudyConfig, VALUES)


@pytest.fixture
def resolved(study_config, tmp_path):
    """The whole training config of an arm, every default written out, as dotted key → value."""

    def read(name):
        file = tmp_path / f"{name}.yaml"
        values = study_config.config(name) | {"output_dir": "x"}
        values["model"]["backbone"] = "y"
        file.write_text(yaml.safe_dump(values))
        return dict(flat(yaml.safe_load(read_config(file).to_yaml())))

    return read


def flat(value, path=""):
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from flat(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for index, inner in enumerate(value):
            yield from flat(inner, f"{path}.{index}")
    else:
        yield path, value


@pytest.mark.parametrize("name", [name for name in VALUES["arms"] if name != BASE])
def test_an_arm_differs_from_its_neighbour_in_what_it_says_and_nothing_else(name, study_config, resolved):
    arm = study_config.arm(name)
    assert arm.what
    own, neighbour = resolved(name), resolved(arm.like)
    # A method's config has keys that another's has not, such as the weight of PLUME's second contrastive loss. At their
    # defaults they are the method.
    differ = {key for key in neighbour if key not in own or own[key] != neighbour[key]}
    assert {key for key in differ if not key.startswith(tuple(arm.set))} == set()
    for path in ["model.method"] if "model.method" in arm.set else arm.set:
        assert any(key.startswith(path) and own[key] != neighbour.get(key) for key in own), f"{path} changes nothing"


def test_all_arms_see_the_same_data_in_the_same_steps(resolved):
    base = resolved(BASE)
    for name in VALUES["arms"]:
        own = resolved(name)
        steps = sum(value for key, value in own.items() if key.startswith("stages.") and key.endswith(".steps"))
        whole = base["stages.0.steps"]
        assert steps < whole if name.endswith(SAME_TIME) else steps == whole, name
        for key in base:
            if key.startswith(("data.", "trainer.")) or key in ("seed", "model.attention", "model.dtype"):
                assert own[key] == base[key], (name, key)


@pytest.mark.slow
def test_every_arm_is_trained_and_scored(tmp_path):
    run = study(tmp_path / "study", "--seeds", "3", "--jobs", "2")
    assert run.returncode == 0, run.stderr
    results = tmp_path / "study/results"
    kinds = json.loads((results / "kinds.json").read_text())
    budgets = {f"{name}@{budget}" for name, arm in VALUES["arms"].items() for budget in arm.get("budgets", ())}
    assert {file.stem for file in results.glob("*-3.json")} == {f"{name}-3" for name in {*VALUES["arms"], *budgets}}
    for file in results.glob("*-3.json"):
        record = json.loads(file.read_text())
        assert record["training_seed"] == 3
        arm = VALUES["arms"][file.stem.removesuffix("-3").split("@")[0]]
        assert sum(record["steps"].values()) == arm.get("set", {}).get("stages.0.steps", 800)
        assert [task["name"] for task in record["tasks"]] == list(record["per_query"]) == list(kinds)
        for task in record["tasks"]:
            values = record["per_query"][task["name"]]
            assert sum(values) / len(values) == pytest.approx(task["score"], abs=1e-4)
            assert len(values) == len(kinds[task["name"]]) == 14


@pytest.mark.slow
def test_what_is_done_is_not_done_again_and_would_come_out_the_same(tmp_path):
    first = study(tmp_path / "study", "--arms", "contrastive-only", "--seeds", "0")
    assert first.returncode == 0, first.stderr
    result = tmp_path / "study/results/contrastive-only-0.json"
    stamp = result.stat().st_mtime_ns
    again = study(tmp_path / "study", "--arms", "contrastive-only", "--seeds", "0")
    assert again.stdout.strip().endswith("contrastive-only-0.json")
    assert result.stat().st_mtime_ns == stamp
    study(tmp_path / "other", "--arms", "contrastive-only", "--seeds", "0")
    one, other = (
        json.loads((tmp_path / each / "results/contrastive-only-0.json").read_text()) for each in ("study", "other")
    )
    assert one["fingerprint"] == other["fingerprint"]
    assert one["per_query"] == other["per_query"]


@pytest.mark.slow
def test_results_of_other_settings_are_not_taken_for_those_asked_for(tmp_path):
    done = study(tmp_path / "study", "--arms", "contrastive-only", "--seeds", "0")
    assert done.returncode == 0, done.stderr
    for setting, given in (
        ("split=validation", "split iid"),
        ("queries=16", "14 queries"),
        ("base.stages.0.steps=5", "{'joint': 800}"),
    ):
        other = study(tmp_path / "study", "--arms", "contrastive-only", "--seeds", "0", "--set", setting)
        assert other.returncode != 0
        assert given in other.stderr
        assert "give another results_dir" in other.stderr


def test_an_unknown_arm_is_refused(tmp_path):
    run = study(tmp_path / "study", "--arms", "telepathy")
    assert run.returncode != 0
    assert "no arm 'telepathy'" in run.stderr
    assert not (tmp_path / "study").exists()


def test_arms_that_come_from_each_other_are_refused(study_config):
    arms = {"a": {"what": "", "like": "b"}, "b": {"what": "", "like": "c"}, "c": {"what": "", "like": "b"}}
    with pytest.raises(InputError, match="a is like b is like c is like b"):
        replace(study_config, arms=arms).config("a")
