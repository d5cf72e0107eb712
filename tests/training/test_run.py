"""Whole runs on a tiny model: stages, stopped runs, adapters, frozen parts, the finished checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from tests.checkpoints import assert_engines_load
from tte_retriever import TTEEncoder
from tte_retriever.errors import InputError
from tte_retriever.training.run import train
from tte_retriever.training.trainer import newest_checkpoint
from tte_retriever.training.tte_flash.collator import TTECollator

LORA = "lora={rank: 2, alpha: 4, dropout: 0.1}"


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def logged(stage):
    history = json.loads((Path(stage) / "log.json").read_text())["log_history"]
    return [{key: entry[key] for key in entry if not key.startswith("train_")} for entry in history]


def stop_at(monkeypatch, batch):
    """Ctrl-C while this batch, counted from now on over all stages, is made."""
    made, collate = [], TTECollator.__call__

    def call(self, features):
        made.append(1)
        if len(made) == batch:
            raise KeyboardInterrupt
        return collate(self, features)

    monkeypatch.setattr(TTECollator, "__call__", call)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [(), (LORA,)], ids=["full", "lora"])
def test_a_run_that_was_stopped_twice_has_the_same_result(configured, tmp_path, monkeypatch, lora):
    """Stopped in each of its stages."""
    config = configured(*lora, "collator.nested_budgets=true")
    for run in ("straight", "stopped"):
        (tmp_path / run).mkdir()
    monkeypatch.chdir(tmp_path / "straight")
    train(config)
    monkeypatch.chdir(tmp_path / "stopped")
    for stage, batch in {"warm-up": 4, "joint": 6}.items():  # the second run begins at batch 3
        with monkeypatch.context() as patch:
            stop_at(patch, batch)
            with pytest.raises(KeyboardInterrupt):
                train(config)
        assert newest_checkpoint(Path("out", stage)).name == "checkpoint-2"
        assert not Path("out", stage, "model").exists()
    train(config)
    straight = tmp_path / "straight" / "out"
    for stage in ("warm-up", "joint"):
        assert same(weights(f"out/{stage}/model"), weights(straight / stage / "model"))
        assert same(load_file(f"out/{stage}/loss.safetensors"), load_file(straight / stage / "loss.safetensors"))
        assert logged(f"out/{stage}") == logged(straight / stage)
    assert same(weights("out/model"), weights(straight / "model"))
    start = config.model.backbone
    assert not same(weights("out/warm-up/model"), weights(start))
    assert not same(weights("out/joint/model"), weights("out/warm-up/model"))


@pytest.mark.slow
def test_a_run_that_was_stopped_after_its_last_step_only_saves(configured, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = configured("max_steps=3")
    finished = weights(train(config))
    for folder in ("out/model", "out/joint/model"):
        shutil.rmtree(folder)
    assert same(weights(train(config)), finished)
    assert logged("out/joint")[-1]["step"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("lora", [(), (LORA, "model.dtype=bfloat16")], ids=["full", "lora"])
def test_bf16_and_gradient_checkpointing(configured, tmp_path, monkeypatch, lora):
    monkeypatch.chdir(tmp_path)
    saving = ("trainer.bf16=true", "trainer.gradient_checkpointing=true", "loss.mini_batch_size=2")
    config = configured(*lora, *saving, "stages=[{name: joint, steps: 2, learning_rate: 1e-3}]")
    before, after = weights(config.model.backbone), weights(train(config))
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16 if lora else torch.float32}
    assert all(tensor.isfinite().all() for tensor in after.values())
    assert not all(torch.equal(before[name].to(after[name].dtype), after[name]) for name in before)


JOINT = "name: joint, steps: 1, learning_rate: 1e-3"


@pytest.fixture(scope="module")
def base(configured, tmp_path_factory):
    """Weights after a step in each stage, with the default of every flag."""
    return weights(train(configured("max_steps=1", f"output_dir={tmp_path_factory.mktemp('base')}")))


@pytest.mark.slow
@pytest.mark.parametrize(
    "override",
    [
        "loss.rationale_from=query+thought",
        "loss.decoder=kv",
        "loss.stop_gradient=true",
        "loss.matryoshka_dims=[8, 32]",
        "loss.symmetric=true",
        f"stages=[{{{JOINT}}}]",  # joint only
        f"stages=[{{{JOINT}, rationale_weight: 0}}]",  # think tokens, and nothing that supervises them
    ],
)
def test_every_open_question_is_one_flag(configured, base, tmp_path, monkeypatch, override):
    monkeypatch.chdir(tmp_path)
    assert not same(weights(train(configured("max_steps=1", override))), base)


@pytest.mark.slow
def test_hard_negatives_and_media_go_through_the_trainer(configured, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for index in range(4):
        Image.new("RGB", (64, 64), (60 * index, 0, 0)).save(f"{index}.png")
    rows = [
        {"anchor": f"shade {i}", "positive": {"image": f"{i}.png"}, "negative_1": {"image": f"{3 - i}.png"}}
        for i in range(4)
    ]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain = configured("max_steps=1", "data.0.path=pairs.jsonl", f"stages=[{{{JOINT}, rationale_weight: 0}}]")
    train(plain)
    entry = next(entry for entry in logged("out/joint") if "contrastive" in entry)
    assert entry["contrastive"] > 0
    assert "rationale" not in entry


def test_stages_train_the_weighted_parts_and_keep_the_temperature(configured, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = configured("stages.1.name=contrast", "stages.1.rationale_weight=0", "stages.0.contrastive_weight=1")
    train(config)
    first, second = (load_file(f"out/{name}/loss.safetensors") for name in ("warm-up", "contrast"))
    begun = load_file("out/contrast/checkpoint-2/trained.safetensors")["loss.log_scale"]
    assert first["log_scale"] != torch.tensor(1 / config.loss.temperature).log()
    assert abs(begun - first["log_scale"]) < 3e-3  # two steps of Adam at a rate of 1e-3
    assert second["log_scale"] != first["log_scale"]
    entries = [entry for entry in logged("out/warm-up") if "loss" in entry]
    assert len(entries) == 4
    for entry in entries:
        assert entry["loss"] == pytest.approx(entry["contrastive"] + entry["rationale"], abs=1e-3)
    assert all("rationale" not in entry for entry in logged("out/contrast"))


@pytest.mark.slow
def test_the_result_is_plain_and_loads_anywhere(configured, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = train(configured(LORA, "max_steps=1"))
    assert result == Path("out/model")
    vectors = TTEEncoder(str(result), device="cpu").encode(["a", "b"])
    assert np.array_equal(SentenceTransformer(str(result), device="cpu").encode(["a", "b"]), vectors)
    assert weights(result).keys() == weights(configured().model.backbone).keys()
    assert_engines_load(result, "qwen3_vl")
    card = (result / "README.md").read_text()
    assert "LoRA, rank 2" in card
    assert "| joint | 1 |" in card
    assert str(tmp_path) not in card
    assert not [path for path in result.rglob("*") if "adapter" in path.name or "loss" in path.name]


@pytest.mark.slow
def test_epochs_are_counted_and_capped(configured, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = configured(
        "stages.0.steps=null", "stages.0.epochs=0.5", "stages.1.steps=100", "max_steps=3", "data.0.rows=9"
    )
    train(config)
    # nine rows in batches of four are three batches
    assert [json.loads(Path(f"out/{s}/log.json").read_text())["global_step"] for s in ("warm-up", "joint")] == [2, 3]


@pytest.mark.parametrize(
    ("part", "prefix"),
    [
        ("merger", "merger"),
        pytest.param("vision", "visual.", marks=pytest.mark.slow),
        pytest.param("language", "language_model.", marks=pytest.mark.slow),
    ],
)
def test_a_frozen_part_does_not_change(configured, tmp_path, monkeypatch, part, prefix):
    monkeypatch.chdir(tmp_path)
    rows = [{"anchor": {"image": f"{i}.png"}, "positive": f"thing {i}", "anchor_rationale": "seen"} for i in range(4)]
    for index in range(4):
        Image.new("RGB", (64, 64), (60 * index, 0, 0)).save(f"{index}.png")
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = configured(f"freeze=[{part}]", "data.0.path=pairs.jsonl", f"stages=[{{{JOINT}}}]")
    before, after = weights(config.model.backbone), weights(train(config))
    changed = {name for name in before if not torch.equal(before[name], after[name])}

    def belongs(name):
        return "merger" in name if part == "merger" else prefix in name and "merger" not in name

    assert any(belongs(name) for name in before)
    assert not any(belongs(name) for name in changed)
    for other in {"visual.", "language_model.", "merger"} - {prefix}:
        assert any(other in name for name in changed), other


def test_lora_trains_only_adapters_and_token_rows(configured, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = configured(LORA, "stages=[{name: joint, steps: 2, learning_rate: 1e-3}]")
    before, after = weights(config.model.backbone), weights(train(config))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert all(name.endswith(("_proj.weight", "embed_tokens.weight")) for name in changed)
    assert any("q_proj" in name for name in changed)
    thought = TTEEncoder(config.model.backbone, device="cpu").thought
    (matrix,) = [name for name in before if name.endswith("embed_tokens.weight")]
    rows = (before[matrix] != after[matrix]).any(1).nonzero()[:, 0].tolist()
    assert rows == [*thought.think_ids, thought.embed_id]


@pytest.mark.slow
def test_a_run_of_another_config_is_refused(configured, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = train(configured("max_steps=1"))
    kept = weights(result)
    assert train(configured("max_steps=1")) == result  # nothing left to do
    with pytest.raises(InputError, match=r"another config.*max_steps"):
        train(configured("max_steps=2"))
    assert same(kept, weights(result))


@pytest.mark.slow
def test_a_run_that_never_began_leaves_its_folder_free(configured, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="nowhere"):
        train(configured("max_steps=1", "data.0.path=nowhere.jsonl"))
    assert train(configured("max_steps=1")) == Path("out/model")


def test_data_that_fills_no_batch_is_reported(configured, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    full = "trainer.dataloader_drop_last=true"
    with pytest.raises(InputError, match="no full batch of 4 rows"):
        train(configured(full, "data.0.rows=3"))
    assert "nothing of mine is trained on" in caplog.text


def test_an_incomplete_checkpoint_is_skipped(tmp_path):
    for step, state in ((2, "{}"), (10, "{}"), (12, '{"global_'), (14, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if state is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    assert newest_checkpoint(tmp_path).name == "checkpoint-10"
    assert newest_checkpoint(tmp_path / "nothing") is None


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.backbone=no/such-model", "no/such-model"),
        ("model.think_tokens=3", "has 2 think tokens already"),
        ("lora.targets=nothing", "cannot be adapted"),
        ("data.0.path=nowhere.jsonl", "nowhere"),
        ("stages.0.schedule=zigzag", "zigzag"),
        ("trainer.optim=sgdd", "sgdd"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(configured, tmp_path, monkeypatch, override, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=said):
        train(configured(override))
