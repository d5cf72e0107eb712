"""Whole runs of PLUME: the curriculum, stopped runs, what is saved and what is logged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tte_retriever import TTEEncoder, build
from tte_retriever.errors import InputError
from tte_retriever.training.plume.collator import PlumeCollator
from tte_retriever.training.run import train

PLUME = (
    "model.method=plume",
    "model.think_tokens=4",
    "model.instruction=",
    "curriculum={ratios: [0, 0.5, 1], segments: 4}",
    "stages=[{name: curriculum, steps: 8, learning_rate: 1e-3}]",
)


@pytest.fixture
def plume(configured, monkeypatch, tmp_path):
    """``plume(*overrides)`` is a config of eight steps that starts from a checkpoint with think tokens."""
    monkeypatch.chdir(tmp_path)
    return lambda *overrides: configured(*PLUME, *overrides)


def weights(folder):
    return load_file(Path(folder) / "model.safetensors") | load_file(Path(folder) / "plume_adapter.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def logged(run):
    history = json.loads(Path(run, "curriculum/log.json").read_text())["log_history"]
    return [{key: entry[key] for key in entry if not key.startswith("train_")} for entry in history]


def test_a_run_goes_from_written_to_latent_and_gives_a_model_that_loads(plume, states):
    out = train(plume())
    assert [index for index, count in enumerate(states) if not count] == [0]  # moments are kept
    steps = [entry.get("latent_steps", 0) for entry in logged("out") if "loss" in entry]
    assert steps == [0, 0, 2, 2, 4, 4, 4, 4]
    for entry in logged("out"):
        if entry.get("latent_steps"):
            assert {"contrastive", "disc", "rationale", "balance", "routing_entropy", "largest_load"} <= entry.keys()
    encoder = TTEEncoder(str(out), device="cpu")
    assert encoder.max_budget == 4
    assert "think_" not in encoder.processor.chat_template
    assert np.isfinite(encoder.encode(["a red circle"])).all()
    assert not same(weights(out), weights("out/start"))
    assert "0 to 4" in (out / "README.md").read_text()


@pytest.mark.slow
def test_a_run_that_was_stopped_has_the_same_result(plume, monkeypatch):
    """Stopped between two ratios, whose batches its loader had made before."""
    straight = weights(train(plume("output_dir=straight")))
    made, collate = [], PlumeCollator.__call__

    def call(self, features):
        made.append(1)
        if len(made) == 5:
            raise KeyboardInterrupt
        return collate(self, features)

    with monkeypatch.context() as patch:
        patch.setattr(PlumeCollator, "__call__", call)
        with pytest.raises(KeyboardInterrupt):
            train(plume())
    assert not Path("out/model").exists()
    assert same(weights(train(plume())), straight)
    assert logged("out") == logged("straight")


@pytest.fixture
def states(monkeypatch):
    """Number of parameters with moments, before each step of AdamW."""
    seen = []
    step = torch.optim.AdamW.step

    def watch(self, *args, **kwargs):
        seen.append(len(self.state))
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", watch)
    return seen


@pytest.mark.slow
def test_moments_are_reset_with_each_ratio_where_the_curriculum_says_so(plume, states):
    train(plume("curriculum={ratios: [0, 0.5, 1], segments: 4, reset_moments: true}"))
    assert [index for index, count in enumerate(states) if not count] == [0, 2, 4]


@pytest.mark.slow
@pytest.mark.parametrize(
    "saving",
    [
        ("trainer.bf16=true", "loss.mini_batch_size=2"),
        ("lora={rank: 2, alpha: 4}", "model.dtype=bfloat16"),
        ("loss.balance=step", "stages.0.balance_weight=0.1", "loss.matryoshka_dims=[8, 32]"),
    ],
    ids=["bf16", "lora", "original-balance"],
)
def test_bf16_lora_and_the_original_balance_train(plume, saving):
    out = train(plume(*saving, "max_steps=3"))  # one for each ratio
    before, after = (weights(folder) for folder in ("out/start", out))
    assert all(tensor.isfinite().all() for tensor in after.values())
    changed = {name for name in after if not torch.equal(before[name].to(after[name].dtype), after[name])}
    assert "router.weight" in changed
    assert any(name.endswith("embed_tokens.weight") for name in changed)


@pytest.mark.slow
def test_a_plume_can_be_trained_further(plume, checkpoint, tmp_path):
    folder = build(tmp_path / "m", backbone=checkpoint("qwen2_vl"), method="plume", think_tokens=4)
    settings = (f"model.backbone={folder}", "max_steps=1", "output_dir=again")
    out = train(plume(*settings, "model.think_tokens=null"))
    assert "summarize the entire input" in TTEEncoder(str(out), device="cpu").processor.chat_template
    with pytest.raises(InputError, match="of the method plume already"):
        train(plume(*settings, "output_dir=other"))
    with pytest.raises(InputError, match="8 latent steps"):
        train(plume(*settings, "model.think_tokens=null", "curriculum={}", "output_dir=third"))
