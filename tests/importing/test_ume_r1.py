"""A checkpoint as UME-R1's trainer saves it in, a folder that TTEEncoder loads out."""

from __future__ import annotations

import shutil
from importlib.metadata import EntryPoint

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from tte_retriever import TTEEncoder
from tte_retriever.cli import main as command_line
from tte_retriever.errors import CheckpointError, InputError
from tte_retriever.explain import read_rationale
from tte_retriever.importing import import_checkpoint

PROMPT = (
    "Represent the above input text, images, videos, or any combination of the three as embeddings. First output the "
    "thinking process in <think> </think> tags and then summarize the entire input in a word or sentence. Finally, use "
    "the <gen_emb> tag to represent the entire input."
)
IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (45, 90, 3), np.uint8))
ITEMS = ["a red circle", {"image": IMAGE}, {"text": "what color?", "image": IMAGE}]


@pytest.fixture(scope="module")
def original(checkpoint, tmp_path_factory):
    """``original(tied=True, edit=…)`` is a Qwen2-VL checkpoint with UME-R1's tokens; ``edit`` changes its weights."""

    def make(tied=True, edit=lambda weights: weights):
        folder = shutil.copytree(checkpoint("qwen2_vl", tied=tied), tmp_path_factory.mktemp("original") / "UME-R1-2B")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.add_tokens(["<gen_emb>", "<disc_emb>"])
        tokenizer.save_pretrained(folder)
        weights = edit(load_file(folder / "model.safetensors"))
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return make


@pytest.fixture(scope="module")
def encoder(original, tmp_path_factory):
    out = tmp_path_factory.mktemp("imported") / "ume-r1"
    return TTEEncoder(str(import_checkpoint(original(), out, origin="ume-r1", most_tokens=9)), device="cpu")


def test_the_prompt_is_that_of_its_authors(encoder):
    ids = encoder.preprocess([ITEMS[2], "a red circle"])["input_ids"]
    shown, text = (encoder.tokenizer.decode(row).removeprefix("<|endoftext|>" * len(row)) for row in ids)
    pads = "<|image_pad|>" * shown.count("<|image_pad|>")
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    asked = f"\n<disc_emb>\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n"
    media_first = f"<|vision_start|>{pads}<|vision_end|>what color?"
    assert shown == f"{system}{media_first}{asked}"
    assert text.replace("<|endoftext|>", "") == f"{system}a red circle{asked}"


def test_the_weights_are_unchanged_and_both_modes_embed(original, encoder, tmp_path):
    source = original()
    weights = load_file(source / "model.safetensors")
    matrix = encoder.transformer.model.get_input_embeddings().weight
    assert torch.equal(matrix, next(tensor for name, tensor in weights.items() if "embed_tokens" in name))
    rationales = read_rationale(encoder, ITEMS)
    assert encoder.max_budget == 9
    assert max(len(rationale.token_ids) for rationale in rationales) == 9
    disc = TTEEncoder(str(import_checkpoint(source, tmp_path / "disc", origin="ume-r1", mode="disc")), device="cpu")
    assert disc.max_budget == 4096
    assert np.abs(disc.encode(ITEMS) - encoder.encode(ITEMS)).max(1).min() > 1e-3
    assert disc.fingerprint != encoder.fingerprint


def test_older_names_of_weights_are_the_same_model(original, encoder, tmp_path):
    def older(weights):
        return {
            name.replace("model.visual.", "visual.").replace("model.language_model.", "model."): tensor
            for name, tensor in weights.items()
        }

    out = import_checkpoint(original(edit=older), tmp_path / "out", origin="ume-r1", most_tokens=9)
    assert TTEEncoder(str(out), device="cpu").fingerprint == encoder.fingerprint


def test_an_untied_head_is_kept(original, tmp_path):
    source = original(tied=False)
    encoder = TTEEncoder(str(import_checkpoint(source, tmp_path / "out", origin="ume-r1")), device="cpu")
    head = load_file(source / "model.safetensors")["lm_head.weight"]
    assert torch.equal(encoder.transformer.model.get_output_embeddings().weight, head)
    assert not torch.equal(encoder.transformer.model.get_input_embeddings().weight, head)


def without(part):
    return lambda weights: {name: tensor for name, tensor in weights.items() if part not in name}


@pytest.mark.parametrize(
    ("tied", "edit", "complaint"),
    [
        (True, without("layers.1.mlp.up_proj"), "layers.1.mlp.up_proj.weight is missing"),
        (False, without("lm_head"), "lm_head.weight is missing"),
        (True, lambda weights: {**weights, "latent_moe_transition.ln.weight": torch.zeros(3)}, "not expected"),
    ],
)
def test_weights_that_are_not_its_own_are_refused(original, tmp_path, tied, edit, complaint):
    with pytest.raises(CheckpointError, match=complaint):
        import_checkpoint(original(tied, edit), tmp_path / "out", origin="ume-r1")
    assert not (tmp_path / "out").exists()


def test_other_checkpoints_and_settings_are_refused(original, checkpoint, tmp_path):
    with pytest.raises(CheckpointError, match="lacks <gen_emb>, <disc_emb>"):
        import_checkpoint(checkpoint("qwen2_vl"), tmp_path / "out", origin="ume-r1")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"config\.json"):
        import_checkpoint(tmp_path / "empty", tmp_path / "out", origin="ume-r1")
    refused = {"mode": "gen or disc", "most_tokens": "positive", "steps": "no setting"}
    for name, complaint in refused.items():
        with pytest.raises(InputError, match=complaint):
            import_checkpoint(original(), tmp_path / "out", origin="ume-r1", **{name: 0})


def test_the_command(original, monkeypatch, capsys, tmp_path):
    entry = EntryPoint("import", "tte_retriever.cli.import_:import_", command_line.GROUP)
    monkeypatch.setattr(command_line, "entry_points", lambda **_: [entry])
    options = "--from ume-r1 --mode disc --most-tokens 7"
    with pytest.raises(SystemExit) as ended:
        command_line.main(["import", str(original()), str(tmp_path / "out"), *options.split()])
    assert not ended.value.code
    assert "imported" in capsys.readouterr().out
    encoder = TTEEncoder(str(tmp_path / "out"), device="cpu")
    assert (encoder.transformer.mode, encoder.max_budget) == ("disc", 7)
    assert "UME-R1-2B" in (tmp_path / "out/README.md").read_text()
