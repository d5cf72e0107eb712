"""Against what the original implementation computed; ``tests/fixtures/plume_parity`` says how."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from PIL import Image

from tte_retriever import TTEEncoder
from tte_retriever.importing import import_checkpoint

REFERENCE = Path(__file__).parents[1] / "fixtures/plume_parity"
ROWS = json.loads((REFERENCE / "rows.json").read_text(encoding="utf-8"))
NAMES = [row["name"] for row in ROWS]
LEAST = 0.99999


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return import_checkpoint(REFERENCE / "checkpoint", tmp_path_factory.mktemp("parity") / "plume", origin="plume")


@pytest.fixture(scope="module")
def encoder(folder):
    return TTEEncoder(str(folder), device="cpu")


@pytest.fixture(scope="module")
def items():
    def item(row):
        media = {"image": picture(row)} if "image" in row else {}
        media |= {"video": [REFERENCE / frame for frame in row["video"]]} if "video" in row else {}
        return {**media, "text": row["text"]}

    return [item(row) for row in ROWS]


@pytest.fixture(scope="module")
def traces():
    with np.load(REFERENCE / "traces.npz") as file:
        return dict(file)


def picture(row):
    """Pillow 13, with which the reference was made, resizes height or width first, whichever is cheaper; older ones
    always width, and round to other values in between."""
    file = REFERENCE / row["image"]
    if row["name"] != "img_only" or int(PIL.__version__.split(".")[0]) >= 13:
        return file
    with Image.open(file) as image:
        for size in ((image.width, 504), (336, 504)):  # one direction at a time is the same in all
            image = image.resize(size, Image.Resampling.BICUBIC)
        return image


def cosines(a, b):
    a, b = (torch.as_tensor(each, dtype=torch.float64) for each in (a, b))
    return torch.nn.functional.cosine_similarity(a, b, dim=-1).numpy()


@pytest.mark.parametrize("batch", [1, 5, 12])
def test_vectors(encoder, items, batch):
    assert cosines(encoder.encode(items, batch_size=batch), np.load(REFERENCE / "embeddings.npy")).min() >= LEAST


def test_vectors_of_a_stream(encoder, items):
    vectors = np.stack(list(encoder.embed(items, batch_tokens=1024)))
    assert cosines(vectors, np.load(REFERENCE / "embeddings.npy")).min() >= LEAST


def test_prompts_positions_and_padding(encoder, items, traces):
    prompts = json.loads((REFERENCE / "rendered_prompts.json").read_text(encoding="utf-8"))
    features = encoder.preprocess(items)
    mask = features["attention_mask"].bool()
    assert mask[:, -1].all()
    given = {key: features[key] for key in ("mm_token_type_ids", "image_grid_thw", "video_grid_thw")}
    positions, _ = encoder[0].model.get_rope_index(features["input_ids"], attention_mask=mask, **given)
    for index, name in enumerate(NAMES):
        ids = features["input_ids"][index, mask[index]]
        assert encoder.tokenizer.decode(ids) == prompts[name] + "<think><bot>"
        assert np.array_equal(ids, traces[f"{name}/prefix_input_ids"])
        assert np.array_equal(positions[:, index, mask[index]], traces[f"{name}/prefix_position_ids"])


@torch.inference_mode()
def test_every_latent_state_the_anchor_and_the_state_at_the_embed_token(encoder, items, traces):
    plume = encoder[0]
    features = encoder.preprocess(items)
    prefix = plume.read_prefix(features)
    thought = plume.think(prefix, features["think_budget"])
    _, gen = plume.read_suffix(thought.decode_state)
    found = {"disc_anchor": prefix.at_anchor(), "gen_hidden": gen, "latent_hiddens": thought.states}
    for index, name in enumerate(NAMES):
        for part, states in found.items():
            assert cosines(states[index], traces[f"{name}/{part}"]).min() >= LEAST


@pytest.mark.parametrize("readout", ["disc", "after_disc"])
def test_vectors_without_thought(tmp_path, items, traces, readout):
    out = import_checkpoint(REFERENCE / "checkpoint", tmp_path / "plume", origin="plume", readout=readout)
    vectors = TTEEncoder(str(out), device="cpu").encode(items)
    anchors = np.stack([traces[f"{name}/disc_anchor"] for name in NAMES])
    wanted = anchors if readout == "disc" else np.load(REFERENCE / "embeddings_disc.npy")
    assert cosines(vectors, wanted).min() >= LEAST
