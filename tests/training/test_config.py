"""Configs are read strictly, before anything is loaded; errors name the place and what is allowed."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tte_retriever import TTEEncoder
from tte_retriever.errors import InputError
from tte_retriever.training import config as config_module
from tte_retriever.training import config_files
from tte_retriever.training.config import ModelConfig, TrainConfig
from tte_retriever.training.config_files import read_config
from tte_retriever.training.model import load_model

CONFIGS = Path(__file__).parents[2] / "recipes" / "configs"

TEXT = """
output_dir: runs/x
model: {backbone: tte-flash-tiny}
data: [{name: mine, path: pairs.jsonl}]
stages:
  - {name: warm-up, steps: 100, learning_rate: 5e-5, contrastive_weight: 0}
  - {name: joint, epochs: 1, learning_rate: 5e-5}
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(TEXT)
    return file


def test_values_and_overrides_are_read(path):
    config = read_config(path, ["max_steps=2", "loss.stop_gradient=true", "stages.1.epochs=0.5", "lora.rank=8"])
    assert (config.seed, config.max_steps, config.loss.stop_gradient, config.lora.rank) == (0, 2, True, 8)
    assert config.stages[0].learning_rate == 5e-5  # which YAML 1.1 reads as text
    assert config.stages[1].epochs == 0.5
    assert read_config(path).lora is None


def test_what_is_written_is_read_back(path, tmp_path):
    config = read_config(path, ["loss.matryoshka_dims=[16, 32]", "freeze=[vision]", "lora={}"])
    (tmp_path / "copy.yaml").write_text(config.to_yaml())
    assert read_config(tmp_path / "copy.yaml") == config


@pytest.mark.parametrize("method", ["plume", "explicit-cot"])
@pytest.mark.parametrize(
    "override",
    ["loss.rationale_from=thought", "loss.decoder=kv", "loss.stop_gradient=true", "collator.nested_budgets=true"],
)
def test_a_method_without_think_tokens_has_no_options_about_them(method, override):
    key = override.split("=")[0]
    with pytest.raises(InputError, match=f"{re.escape(key)} is no known key"):
        read_config(CONFIGS / method / "tiny.yaml", [override])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("los.stop_gradient=true", "los is no known key; did you mean 'loss'"),
        ("loss.stop_gradients=true", r"loss\.stop_gradients is no known key; did you mean 'stop_gradient'"),
        ("stages.0.step=1", r"stages\.0\.step is no known key; did you mean 'steps'"),
        ("trainer.bf61=true", r"trainer\.bf61 is no known key; did you mean 'bf16'"),
        ("trainer.learning_rate=1", "use stages"),
        ("trainer.seed=1", "at the top"),
        ("seed=a", "seed is 'a'; give a whole number"),
        ("max_steps=true", "give a whole number"),
        ("max_steps=0", "above 0"),
        ("loss.temperature=.nan", "above 0"),
        ("model.method=telepathy", "model.method is 'telepathy'; it can be direct or tte-flash"),
        ("model.method=[lame]", "it can be direct or"),
        ("model.backbone=null", r"model\.backbone is None; give a text"),
        ("freeze=vision", "give a list"),
        ("freeze=[eyes]", r"freeze\.0 is 'eyes'; it can be vision or merger or language"),
        ("stages.1.freeze=[eyes]", r"stages\.1\.freeze\.0 is 'eyes'"),
        ("stages=[]", "stages has the names"),
        ("stages.1.name=warm-up", "no two alike"),
        ("stages.0.name=a/b", "letters"),
        ("stages.0.name=model", "not 'model'"),
        ("stages.0.epochs=1", "give one of them"),
        ("stages.0.rationale_weight=0", "learns nothing"),
        ("model.method=direct", "direct has no thought"),
        ("data.0.name=a.b", r"data\.0\.name"),
        ("stages.7.steps=1", "not an index"),
        ("model.backbone.x=1", "inside a single value"),
        ("nothing", "write key=value"),
        ("seed=[", "cannot be read"),
    ],
)
def test_an_unusable_value_is_refused(path, override, said):
    with pytest.raises(InputError, match=said):
        read_config(path, [override])


def test_a_missing_key_and_a_missing_file_are_named(path, tmp_path):
    path.write_text(TEXT.replace("output_dir: runs/x", ""))
    with pytest.raises(InputError, match="output_dir is missing"):
        read_config(path)
    with pytest.raises(InputError, match=r"nowhere\.yaml"):
        read_config(tmp_path / "nowhere.yaml")
    path.write_text("- a list")
    with pytest.raises(InputError, match="give a mapping"):
        read_config(path)


def test_without_the_extra_it_says_what_to_install(path, monkeypatch):
    monkeypatch.setattr(config_files, "find_spec", lambda name: None if name == "peft" else object())
    with pytest.raises(InputError, match=r"needs peft.*tte-retriever\[train\]"):
        read_config(path)


def test_reading_loads_nothing_heavy(path):
    code = (
        "import sys; from tte_retriever.training.config_files import read_config; read_config(sys.argv[1]);"
        "print(*{'torch', 'transformers', 'datasets', 'peft'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


def test_every_attribute_is_explained():
    for kind in (config_module.ModelConfig, config_module.DataConfig, config_module.StageConfig, TrainConfig):
        for name in kind.__dataclass_fields__:
            assert f"\n    {name}: " in inspect.getdoc(kind), (kind, name)


def test_a_pixel_limit_is_saved_with_the_model(tmp_path):
    model = load_model("tte-flash-tiny", ModelConfig("tte-flash-tiny", max_pixels=4096))
    model.save_pretrained(str(tmp_path / "model"))
    assert TTEEncoder(str(tmp_path / "model"), device="cpu").processor.image_processor.size["longest_edge"] == 4096
