"""The study: arms differ in what the config says and nothing else, are trained and scored, and are not scored twice."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from studies.thinking import run
from studies.thinking.records import ResultsFile
from studies.thinking.results import SAME_TIME
from studies.thinking.study import StudyConfig, launch_study
from tte_retriever import model_path
from tte_retriever.errors import InputError
from tte_retriever.training.config_files import read_config, read_values
from tte_retriever.training.parsing import from_mapping

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / "studies/thinking/config.yaml"
VALUES = read_values(CONFIG)
BASE = "tte-flash"
OF_THINK_TOKENS = {
    "loss.rationale_from": "thought",
    "loss.decoder": "soft-prompt",
    "loss.stop_gradient": False,
    "collator.nested_budgets": False,
}
"""Options that only methods with think tokens have, at their defaults."""


def study(out, *arguments):
    settings = [f"output_dir={out}", f"results_file={out}/results.jsonl", f"reader={model_path('tte-flash-tiny')}"]
    settings += ["queries=14", "base.max_steps=1", "base.trainer.per_device_train_batch_size=4"]
    settings += ["base.trainer.bf16=false"]  # ten times faster on a processor without bfloat16 arithmetic
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
    # A method's config has keys that another's has not, such as the weight of PLUME's second contrastive loss or what the
    # think tokens are decoded by. At their defaults they are the method.
    differ = {key for key in neighbour if own.get(key, OF_THINK_TOKENS.get(key)) != neighbour[key]}
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


def records_of(out, record_type="run"):
    return [record for record in ResultsFile(out / "results.jsonl").read() if record["record"] == record_type]


@pytest.mark.slow
def test_every_arm_is_trained_and_scored(tmp_path):
    done = study(tmp_path, "--seeds", "3", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    (tasks,) = records_of(tmp_path, "tasks")
    kinds = {task["name"]: task["kinds"] for task in tasks["tasks"]}
    budgets = {f"{name}@{budget}" for name, arm in VALUES["arms"].items() for budget in arm.get("budgets", ())}
    runs = records_of(tmp_path)
    assert {record["arm"] for record in runs} == {*VALUES["arms"], *budgets}
    for record in runs:
        assert record["training_seed"] == 3
        arm = VALUES["arms"][record["arm"].split("@")[0]]
        assert sum(record["steps"].values()) == arm.get("set", {}).get("stages.0.steps", 800)
        assert list(record["scores"]) == list(record["per_query"]) == list(kinds)
        for name, (score, low, high) in record["scores"].items():
            values = record["per_query"][name]
            assert low <= score <= high
            assert sum(values) / len(values) == pytest.approx(score, abs=1e-4)
            assert len(values) == len(kinds[name]) == 14


@pytest.mark.slow
def test_a_run_that_is_scored_is_skipped_and_would_have_the_same_scores(tmp_path):
    one_arm = ("--arms", "contrastive-only", "--seeds", "0")
    first = study(tmp_path / "study", *one_arm)
    assert first.returncode == 0, first.stderr
    file = tmp_path / "study/results.jsonl"
    stamp = file.stat().st_mtime_ns
    again = study(tmp_path / "study", *one_arm)
    assert again.stdout.strip().endswith("contrastive-only-0")
    assert file.stat().st_mtime_ns == stamp
    study(tmp_path / "other", *one_arm)
    (one,), (other,) = (records_of(tmp_path / each) for each in ("study", "other"))
    assert one["fingerprint"] == other["fingerprint"]
    assert {task: values.tolist() for task, values in one["per_query"].items()} == {
        task: values.tolist() for task, values in other["per_query"].items()
    }


RUN = {"condition": "", "arm": "direct", "training_seed": 0}
SETTING = {"split": "iid", "seed": 0, "queries": 14, "steps": {"joint": 800}}


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ({"split": "validation"}, "split iid"),
        ({"queries": 16}, "queries 14"),
        ({"steps": {"joint": 5}}, "{'joint': 800}"),
    ],
)
def test_a_run_with_other_settings_is_refused(study_config, tmp_path, setting, named):
    file = ResultsFile(tmp_path / "results.jsonl")
    study = replace(study_config, results_file=str(file.path))
    assert not run.is_scored(study, RUN | SETTING)
    file.put({"record": "run", **RUN, **SETTING, "scores": {}, "fingerprint": "f"})
    assert run.is_scored(study, RUN | SETTING)
    assert not run.is_scored(study, RUN | SETTING | {"condition": "held-out"})
    with pytest.raises(InputError, match="give another condition or results_file") as error:
        run.is_scored(study, RUN | SETTING | setting)
    assert f"direct-0 in '{file.path}' has" in str(error.value)
    assert named in str(error.value)


@pytest.mark.slow
def test_the_command_refuses_a_run_with_other_settings(tmp_path):
    one_arm = ("--arms", "contrastive-only", "--seeds", "0")
    done = study(tmp_path, *one_arm)
    assert done.returncode == 0, done.stderr
    other = study(tmp_path, *one_arm, "--set", "split=validation")
    assert other.returncode != 0
    assert "split iid and not validation" in other.stderr


def test_an_unknown_arm_is_refused(tmp_path, monkeypatch):
    out = tmp_path / "study"
    options = ["--set", f"output_dir={out}", "--set", f"results_file={out}/results.jsonl", "--arms", "telepathy"]
    monkeypatch.setattr(sys, "argv", ["run", str(CONFIG), *options])
    with pytest.raises(InputError, match="no arm 'telepathy'"):
        next(launch_study("", run.run_arm, run.prepare))
    assert not out.exists()


def test_arms_that_are_derived_from_each_other_are_refused(study_config):
    arms = {"a": {"what": "", "like": "b"}, "b": {"what": "", "like": "c"}, "c": {"what": "", "like": "b"}}
    with pytest.raises(InputError, match="a is like b is like c is like b"):
        replace(study_config, arms=arms).config("a")
