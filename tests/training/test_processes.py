"""Two real processes over gloo: what each ends with, and what is saved."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

# Its first steps leave the adapter out, which DDP has to put up with.
PLUME = ("model.method=plume", "model.think_tokens=4", "curriculum={ratios: [0, 1], segments: 4}")

# Trains and then leaves what this process trained.
SCRIPT = """
import os, sys, torch
from tte_retriever.training import run
from tte_retriever.training.config_files import read_config
models, load = [], run.load_model
run.load_model = lambda *args: models.append(load(*args)) or models[-1]
losses, own_state = [], run.own_state
run.own_state = lambda loss: losses.append(own_state(loss)) or losses[-1]
run.train(read_config(sys.argv[1], sys.argv[2:]))
loss = {f"loss.{name}": tensor for name, tensor in losses[-1].items()}
torch.save({**models[-1].state_dict(), **loss}, f"rank{os.environ['RANK']}.pt")
"""


def trained_by_two(values, folder):
    """What each of two processes has trained, which has to be the same."""
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    (folder / "script.py").write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "script.py"]
    run = [*launch, "config.yaml"]
    done = subprocess.run(run, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(folder / f"rank{rank}.pt") for rank in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    return first


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [(), ("lora={rank: 2, dropout: 0.1}",), ("model.method=lame",), PLUME],
    ids=["full", "lora", "lame", "plume"],
)
def test_two_processes_end_with_the_same_weights(configured, tmp_path, options):
    """Also the case where one process meets a data set that the other does not, which must not tear their log apart.

    The loss's own weights are among them.
    """
    config = configured(*options, "loss.gather_across_devices=true", "loss.mini_batch_size=2", "max_steps=3")
    values = yaml.safe_load(config.to_yaml())
    values["data"].append({**values["data"][0], "name": "other"})
    first = trained_by_two(values, tmp_path)
    assert any(name.startswith("loss.light_decoder") for name in first) == (config.model.method == "lame")
    saved = load_file(tmp_path / "out/model/model.safetensors")
    before = load_file(Path(config.model.backbone) / "model.safetensors")
    assert any(not torch.equal(saved[name], before[name]) for name in saved)
    assert all(torch.equal(tensor, first[f"0.{name}"]) for name, tensor in saved.items())
    log = json.loads((tmp_path / "out/joint/log.json").read_text())["log_history"]
    named = {key for entry in log for key in entry}
    generation = "reconstruction" if config.model.method == "lame" else "rationale"
    assert {f"{name}_{part}" for name in ("mine", "other") for part in ("contrastive", generation)} <= named


@pytest.mark.slow
def test_rationales_in_the_sequence_are_learnt_by_two_processes(configured, checkpoint, tmp_path):
    shared = ("loss.gather_across_devices=true", "loss.mini_batch_size=2", "max_steps=2")
    backbone = checkpoint("qwen2_vl")
    config = configured("model.method=explicit-cot", f"model.backbone={backbone}", *shared)
    trained_by_two(yaml.safe_load(config.to_yaml()), tmp_path)
    log = json.loads((tmp_path / "out/joint/log.json").read_text())["log_history"]
    assert {"contrastive", "rationale", "disc"} <= log[0].keys()


@pytest.mark.slow
def test_accelerate_launches_the_command_in_two_processes(configured, tmp_path):
    config = configured("stages=[{name: joint, epochs: 2, learning_rate: 1e-3}]")
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    # Without --multi_gpu, accelerate starts one process on a machine without several GPUs.
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2"]
    launch += ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"]
    words = [*launch, "-m", "tte_retriever", "train", "config.yaml"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("out/model: trained.") == 1
    assert (tmp_path / "out/model/modules.json").is_file()
    state = json.loads((tmp_path / "out/joint/log.json").read_text())
    assert state["global_step"] == 2  # an epoch is 8 rows: a batch of 4 for each of two processes
