"""The original layout in, a folder that TTEEncoder loads out: layouts, settings, refusals."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from tests.checkpoints import assert_engines_load
from tte_retriever import TTEEncoder
from tte_retriever.errors import CheckpointError, InputError
from tte_retriever.importing import import_checkpoint
from tte_retriever.methods.plume import PlumeTransformer

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (45, 90, 3), np.uint8))
ITEMS = ["a red circle", {"image": IMAGE}, {"text": "what color?", "image": IMAGE}]


@pytest.fixture(scope="module")
def original(plume_original):
    return plume_original()


@pytest.fixture(scope="module")
def imported(original, tmp_path_factory):
    return import_checkpoint(original, tmp_path_factory.mktemp("imported") / "plume", origin="plume")


@pytest.fixture(scope="module")
def encoder(imported):
    return TTEEncoder(str(imported), device="cpu")


def older(weights):
    """Names from before transformers 4.52, which are those from after it, too."""
    return {
        name.replace("model.visual.", "visual.").replace("model.language_model.", "model."): tensor
        for name, tensor in weights.items()
    }


def wrapped(weights):
    """The adapter below a wrapper's name."""
    return {f"module.{name}" if "latent_moe" in name else name: tensor for name, tensor in weights.items()}


@pytest.mark.parametrize("edit", [older, wrapped])
def test_every_layout_of_names_is_the_same_model(plume_original, encoder, tmp_path, edit):
    assert set(edit({"model.visual.x": 0, "latent_moe_transition.y": 1})) != {
        "model.visual.x",
        "latent_moe_transition.y",
    }
    out = import_checkpoint(plume_original(edit), tmp_path / "out", origin="plume")
    assert TTEEncoder(str(out), device="cpu").fingerprint == encoder.fingerprint


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards_are_the_same_model(original, encoder, tmp_path, suffix):
    folder = shutil.copytree(original, tmp_path / "sharded")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    names, files = sorted(weights), [f"{stem}-{index}-of-00003.{suffix}" for index in (1, 2, 3)]
    shard_of = {name: files[index % 3] for index, name in enumerate(names)}
    for file in files:
        part = {name: weights[name] for name in names if shard_of[name] == file}
        save_file(part, folder / file) if suffix == "safetensors" else torch.save(part, folder / file)
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": shard_of}))
    out = import_checkpoint(folder, tmp_path / "out", origin="plume")
    assert TTEEncoder(str(out), device="cpu").fingerprint == encoder.fingerprint
    (folder / files[1]).unlink()
    with pytest.raises(CheckpointError, match=files[1]):
        import_checkpoint(folder, tmp_path / "again", origin="plume")


def test_stale_sizes_in_the_config_do_no_harm(original, encoder, tmp_path):
    folder = shutil.copytree(original, tmp_path / "stale")
    config = json.loads((folder / "config.json").read_text())
    config["vocab_size"] = config["text_config"]["vocab_size"] = 9999
    (folder / "config.json").write_text(json.dumps(config))
    out = import_checkpoint(folder, tmp_path / "out", origin="plume")
    assert np.array_equal(TTEEncoder(str(out), device="cpu").encode(ITEMS), encoder.encode(ITEMS))


def test_the_folder_says_all_and_loads_again(imported, encoder, tmp_path):
    settings = json.loads((imported / "sentence_bert_config.json").read_text())["plume"]
    assert {name: settings[name] for name in ("steps", "active_experts", "context", "positions", "experts")} == {
        "steps": 8,
        "active_experts": 2,
        "context": "disc",
        "positions": "kv",
        "experts": 4,
    }
    assert settings["suffix"] == "<eot></think>\n<gen_emb>"
    assert "PLUME" in (imported / "README.md").read_text()
    types = [module["type"] for module in json.loads((imported / "modules.json").read_text())]
    assert types[0] == "tte_retriever.methods.plume.PlumeTransformer"  # a format on disk: it never moves
    encoder.save_pretrained(str(tmp_path / "copy"))
    again = TTEEncoder(str(tmp_path / "copy"), device="cpu")
    for folder in (imported, tmp_path / "copy"):
        assert_engines_load(folder, "qwen2_vl")
    assert type(again[0]) is PlumeTransformer
    assert again.fingerprint == encoder.fingerprint
    assert np.array_equal(again.encode(ITEMS), encoder.encode(ITEMS))


def test_stock_sentence_transformer_with_the_flag_gives_the_same_vectors(imported, encoder):
    stock = SentenceTransformer(str(imported), device="cpu", trust_remote_code=True)
    for item in ITEMS:
        assert np.allclose(stock.encode([item]), encoder.encode([item]), atol=1e-6)
    assert np.allclose(stock.encode(ITEMS[:1], think_budget=3), encoder.encode(ITEMS[:1], think_budget=3), atol=1e-6)


@pytest.mark.parametrize(
    "setting",
    [
        {"steps": 5},
        {"active_experts": 1},
        {"context": "none"},
        {"context": "prefix_last"},
        {"positions": "mrope"},
        {"prefix": "<bot>"},
        {"suffix": "<eot></think><gen_emb>"},
        {"readout": "disc"},
    ],
)
def test_every_setting_is_kept_and_changes_the_vectors(original, encoder, tmp_path, setting):
    out = import_checkpoint(original, tmp_path / "out", origin="plume", **setting)
    other = TTEEncoder(str(out), device="cpu")
    assert np.abs(other.encode(ITEMS) - encoder.encode(ITEMS)).max(1).min() > 1e-4
    assert other.fingerprint != encoder.fingerprint


def without(name):
    return lambda weights: {key: tensor for key, tensor in weights.items() if name not in key}


def with_one_more(name):
    return lambda weights: {**weights, name: torch.zeros(1)}


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (without("latent_moe_transition"), "no adapter"),
        (without("experts.2.fc1.bias"), "experts.2.fc1.bias is missing"),
        (without("router.weight"), "router.weight"),
        (without("visual.merger.ln_q.bias"), "visual.merger.ln_q.bias is missing"),
        (with_one_more("latent_moe_transition.experts.4.fc1.bias"), "experts.4.fc1.bias is not expected"),
        (with_one_more("model.visual.extra"), "visual.extra is not expected"),
        (
            lambda weights: {**weights, "latent_moe_transition.ln.bias": torch.zeros(7)},
            r"ln.bias is \(7,\) instead of \(32,\)",
        ),
    ],
)
def test_a_weight_that_is_missing_or_unexpected_is_named(plume_original, tmp_path, edit, complaint):
    with pytest.raises(CheckpointError, match=complaint):
        import_checkpoint(plume_original(edit), tmp_path / "out", origin="plume")
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_without_the_tokens_is_refused(plume_original, tmp_path):
    with pytest.raises(CheckpointError, match="lacks <disc_emb>, <ct>"):
        import_checkpoint(plume_original(marks=["<gen_emb>", "<bot>", "<eot>"]), tmp_path / "out", origin="plume")


@pytest.mark.parametrize("file", ["model.safetensors", "chat_template.jinja", "processor_config.json"])
def test_a_missing_file_is_one_sentence(original, tmp_path, file):
    folder = shutil.copytree(original, tmp_path / "partial")
    (folder / file).unlink()
    with pytest.raises(CheckpointError) as caught:
        import_checkpoint(folder, tmp_path / "out", origin="plume")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ({"context": "dics"}, "disc or prefix_last or none"),
        ({"positions": "absolute"}, "kv or mrope"),
        ({"readout": "last"}, "gen or disc"),
        ({"suffix": ""}, "suffix is empty"),
        ({"steps": 33}, "from 0 to 32"),
        ({"active_experts": 5}, "from 1 to 4"),
        ({"think_tokens": 4}, "no setting think_tokens"),
    ],
)
def test_a_bad_setting_is_refused(original, tmp_path, setting, complaint):
    with pytest.raises(InputError, match=complaint):
        import_checkpoint(original, tmp_path / "out", origin="plume", **setting)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_another_family_is_refused(original, tmp_path):
    folder = shutil.copytree(original, tmp_path / "bert")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(CheckpointError, match="bert"):
        import_checkpoint(folder, tmp_path / "out", origin="plume")


def test_an_unknown_origin_and_an_occupied_folder_are_refused(original, tmp_path):
    with pytest.raises(InputError, match="plume"):
        import_checkpoint(original, tmp_path / "out", origin="plum")
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(InputError, match="not an empty folder"):
        import_checkpoint(original, tmp_path, origin="plume")


def test_an_adapter_file_that_is_missing_or_another_is_refused(imported, tmp_path):
    folder = shutil.copytree(imported, tmp_path / "copy")
    weights = load_file(folder / "plume_adapter.safetensors")
    save_file(without("router")(weights), folder / "plume_adapter.safetensors")
    with pytest.raises(CheckpointError, match="not the adapter"):
        TTEEncoder(str(folder), device="cpu")
    (folder / "plume_adapter.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no plume_adapter"):
        TTEEncoder(str(folder), device="cpu")
