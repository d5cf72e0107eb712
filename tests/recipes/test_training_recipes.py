"""Every training config: it is read, runs for two steps, and, in the slow tests, at the widths of the real models."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sentence_transformers import SentenceTransformer
from transformers import AutoConfig, AutoModelForImageTextToText

from tte_retriever.backbones import load_backbone
from tte_retriever.cli import main as command_line
from tte_retriever.methods.table import METHODS
from tte_retriever.small_world.backbone import TinyShape, build_backbone
from tte_retriever.training.config_files import read_config

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "recipes/configs").glob("*/*.yaml"))
NAMES = {"tiny", "qwen2_vl_2b", "qwen3_vl_2b", "qwen3_vl_embedding_2b", "qwen3_5_2b", "wemm_embedding_2b"}
SIZES = {
    "tte-flash": NAMES,
    "direct": NAMES,
    "lame": {"tiny", "qwen2_vl_2b"},
    "explicit-cot": {"tiny"},
    "plume": {"tiny", "qwen2_vl_2b"},
}
SMALL = ("per_device_train_batch_size=2", "dataloader_num_workers=0", "disable_tqdm=true", "save_steps=1")


def shown(path):
    return path.relative_to(ROOT / "recipes/configs").with_suffix("").as_posix()


def stock(method, folder):
    """Load with SentenceTransformer, and with its flag only where the method needs custom code."""
    flag = METHODS[method].needs_custom_code
    return SentenceTransformer(str(folder), device="cpu", trust_remote_code=flag)


def overrides(*assignments):
    return [word for assignment in assignments for word in ("--set", assignment)]


@pytest.fixture
def command(monkeypatch, capsys):
    """``command(*words)`` runs ``tte-retriever train``; returns exit code, stdout, stderr."""
    entry = EntryPoint("train", "tte_retriever.cli.train:train", command_line.GROUP)
    monkeypatch.setattr(command_line, "entry_points", lambda **_: [entry])

    def call(*words):
        with pytest.raises(SystemExit) as ended:
            command_line.main(["train", *map(str, words)])
        return ended.value.code or 0, *capsys.readouterr()

    return call


def test_each_method_has_its_configs():
    found = {method: {path.stem for path in CONFIGS if path.parent.name == method} for method in METHODS}
    assert found == SIZES
    assert {path.parent.name for path in CONFIGS} == METHODS.keys()


@pytest.mark.parametrize("path", CONFIGS, ids=shown)
def test_every_config_is_read_and_can_be_capped(path, tmp_path):
    text = path.read_text()
    assert all(re.search(rf"^{key}:", text, re.MULTILINE) for key in ("output_dir", "seed", "max_steps"))
    config = read_config(path, ["max_steps=2", f"output_dir={tmp_path}"])
    assert (config.max_steps, config.output_dir) == (2, str(tmp_path))
    direct = path.parent.name == "direct"
    weights = {"direct": [1], "plume": [1]}  # no warm-up
    assert config.model.method == path.parent.name
    assert [stage.contrastive_weight for stage in config.stages] == weights.get(path.parent.name, [0, 1])
    assert all(stage.rationale_weight == (0 if direct else 1) for stage in config.stages)


def test_a_method_and_its_control_differ_in_the_thought_alone():
    for name in NAMES:
        flash, direct = (
            read_config(ROOT / f"recipes/configs/{method}/{name}.yaml") for method in ("tte-flash", "direct")
        )
        assert (flash.data, flash.lora, flash.freeze, flash.loss) == (
            direct.data,
            direct.lora,
            direct.freeze,
            direct.loss,
        )
        assert flash.trainer == direct.trainer
        assert flash.collator.prompts == direct.collator.prompts
        assert sum(stage.steps for stage in flash.stages) == sum(stage.steps for stage in direct.stages)


def test_lame_is_compared_with_tte_flash_at_equal_data_and_steps():
    for name in SIZES["lame"]:
        lame, flash = (read_config(ROOT / f"recipes/configs/{method}/{name}.yaml") for method in ("lame", "tte-flash"))
        assert (lame.data, lame.lora, lame.model.think_tokens) == (flash.data, flash.lora, flash.model.think_tokens)
        assert [stage.steps for stage in lame.stages] == [stage.steps for stage in flash.stages]
        assert vars(flash.loss).items() <= vars(lame.loss).items()
        assert flash.trainer.items() <= lame.trainer.items()


@pytest.mark.parametrize(
    "method", [name if name == "tte-flash" else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)
def test_the_tiny_configs_run(method, command, checkpoint, tmp_path):
    """With a tiny random backbone in place of ``tiny-backbone``, whose vocabulary takes a while to make."""
    config = ROOT / f"recipes/configs/{method}/tiny.yaml"
    words = overrides("max_steps=2", f"output_dir={tmp_path / 'out'}", f"model.backbone={checkpoint('qwen3_vl')}")
    small = overrides("trainer.per_device_train_batch_size=2", "trainer.disable_tqdm=true")
    code, said, _ = command(config, *words, *small)
    assert code == 0
    assert f'TTEEncoder("{tmp_path / "out/model"}")' in said
    assert (f'SentenceTransformer("{tmp_path / "out/model"}")' in said) == (not METHODS[method].needs_custom_code)
    assert np.isfinite(stock(method, tmp_path / "out/model").encode(["a red circle"])).all()
    code, _, complaint = command(config, *words, *small, "--set", "seed=1")
    assert code == 2
    assert "another config" in complaint


def test_the_command_refuses_a_bad_config(command, tmp_path):
    code, _, complaint = command(CONFIGS[0], "--set", "max_step=2")
    assert code == 2
    assert "max_step is no known key; did you mean 'max_steps'" in complaint
    code, _, complaint = command(tmp_path / "nowhere.yaml")
    assert code == 2
    assert "nowhere.yaml" in complaint


def test_the_command_is_registered():
    assert '\ntrain = "tte_retriever.cli.train:train"\n' in (ROOT / "pyproject.toml").read_text()


@pytest.fixture(scope="module")
def tiny_backbone(tmp_path_factory):
    """What the name ``tiny-backbone`` stands for, made once: its vocabulary takes most of a minute."""
    folder = tmp_path_factory.mktemp("tiny-backbone")
    build_backbone(TinyShape(), folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_tiny_configs_run_as_they_are(method, tiny_backbone, command, tmp_path):
    config = ROOT / f"recipes/configs/{method}/tiny.yaml"
    assert read_config(config).model.backbone == "tiny-backbone"
    words = overrides("max_steps=2", f"output_dir={tmp_path / 'out'}", f"model.backbone={tiny_backbone}")
    code, _, complaint = command(config, *words)
    assert code == 0, complaint
    assert stock(method, tmp_path / "out/model").encode("a red circle").shape == (128,)


@pytest.mark.slow
def test_a_config_runs_from_its_file_alone(tmp_path):
    """In a process of its own, in an empty folder, with the backbone that it names."""
    config = ROOT / "recipes/configs/direct/tiny.yaml"
    words = overrides("max_steps=1", "output_dir=out")
    subprocess.run([sys.executable, "-m", "tte_retriever", "train", config, *words], check=True, cwd=tmp_path)
    assert stock("direct", tmp_path / "out/model").encode("a red circle").shape == (128,)


VISION_3 = {"hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16, "out_hidden_size": 2048}
VISION_3 |= {"num_position_embeddings": 2304, "depth": 2, "deepstack_visual_indexes": [0, 1]}
TEXT_3 = {"hidden_size": 2048, "intermediate_size": 6144, "num_attention_heads": 16, "num_key_value_heads": 8}
TEXT_3 |= {"head_dim": 128, "rope": {"mrope_section": [24, 20, 20], "rope_theta": 5e6}}
TEXT_2 = {"hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12, "num_key_value_heads": 2}
TEXT_2 |= {"head_dim": 128, "rope": {"mrope_section": [16, 24, 24], "rope_theta": 1e6}}
TEXT_5 = {"hidden_size": 2048, "intermediate_size": 6144, "num_attention_heads": 8, "num_key_value_heads": 2}
TEXT_5 |= {"head_dim": 256, "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 16}
TEXT_5 |= {"linear_num_value_heads": 16, "linear_key_head_dim": 128, "linear_value_head_dim": 128}
TEXT_5 |= {"rope": {"mrope_section": [11, 11, 10], "rope_theta": 1e7, "partial_rotary_factor": 0.25}}
SHAPES = {
    "qwen2_vl": (TEXT_2, {"embed_dim": 1280, "hidden_size": 1536, "num_heads": 16, "mlp_ratio": 4, "depth": 2}),
    "qwen3_vl": (TEXT_3, VISION_3),
    "qwen3_5": (TEXT_5, {key: value for key, value in VISION_3.items() if key != "deepstack_visual_indexes"}),
}
"""Widths of the public 2B checkpoints; two layers instead of all, and 1024 rows of vocabulary."""


@pytest.fixture
def wide(checkpoint, tmp_path):
    """``wide(name)`` is a random model of the widths of a 2B config, a stock embedding model where that is asked for."""

    def make(name):
        family = "qwen3_5" if name.startswith("wemm") else next(each for each in SHAPES if name.startswith(each[:7]))
        folder = checkpoint(family)
        text, vision = (dict(part) for part in SHAPES[family])
        config = AutoConfig.from_pretrained(folder)
        config.text_config.rope_parameters |= text.pop("rope")
        few = {"num_hidden_layers": 2, "vocab_size": 1024, "layer_types": ["full_attention"] * 2}
        config.text_config.update(few | text)
        config.vision_config.update(vision)
        AutoModelForImageTextToText.from_config(config).save_pretrained(tmp_path / "wide")
        for file in folder.iterdir():
            if not (tmp_path / "wide" / file.name).exists() and file.suffix != ".safetensors":
                shutil.copy(file, tmp_path / "wide")
        if "embedding" not in name:
            return tmp_path / "wide"
        raw = load_backbone(tmp_path / "wide")
        SentenceTransformer(modules=[raw.transformer, *raw.head], device="cpu").save_pretrained(
            str(tmp_path / "stock")
        )
        return tmp_path / "stock"

    return make


def ume_rows(folder):
    """Four rows as UME-sft-train writes them, of two data sets, with pictures."""
    for index in range(4):
        Image.new("RGB", (56, 56), (60 * index, 30, 90)).save(folder / f"{index}.png")
    rows = [
        {
            "qry": {
                "conversations": [
                    {"from": "human", "value": f"<image>\nwhat is it? {index}\n<disc_emb>"},
                    {"from": "gpt", "value": f"<think>it looks {index}</think><answer>thing {index}</answer>"},
                ],
                "image": [f"{index}.png"],
            },
            "pos": {
                "conversations": [
                    {"from": "human", "value": f"thing {index}"},
                    {"from": "gpt", "value": f"<think>a thing</think><answer>thing {index}</answer>"},
                ]
            },
            "dataset_name": ("OK-VQA", "A.B")[index % 2],
        }
        for index in range(4)
    ]
    path = folder / "ume.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in CONFIGS if path.stem != "tiny"], ids=shown)
def test_the_2b_configs_run_at_full_width(path, wide, command, language_model, tmp_path):
    out = tmp_path / "out"
    small_decoder = [f"loss.decoder_model={language_model}"] if path.parent.name == "lame" else []
    words = overrides(
        "max_steps=2",
        f"output_dir={out}",
        f"model.backbone={wide(path.stem)}",
        f"data.0.path={ume_rows(tmp_path)}",
        f"data.0.media_root={tmp_path}",
        "loss.mini_batch_size=1",
        *small_decoder,
        "trainer.bf16=false",  # a processor without bfloat16 arithmetic would take minutes a step
        *(f"trainer.{each}" for each in SMALL),
    )
    code, _, complaint = command(path, *words)
    assert code == 0, complaint
    assert not (out / "quarantine.jsonl").exists()
    for stage in read_config(path).stages:
        log = json.loads((out / stage.name / "log.json").read_text())
        assert log["global_step"] == 2
    model = stock(path.parent.name, out / "model")
    assert np.isfinite(model.encode(["a thing"])).all()
    shutil.rmtree(tmp_path)  # gigabytes
