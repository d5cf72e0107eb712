"""Tiny random models that write: letters, at every length, ended by the embed token, the end of the turn or the cap."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tte_retriever import build
from tte_retriever.media import VideoFrames

LONGEST = 24
HEADS = {
    "qwen2_vl": 24,
    "qwen2_5_vl": 46,
    "qwen3_vl": 42,
    "qwen3_5": 0,
}  # seeds of output heads with which rationales differ most


@pytest.fixture(scope="session")
def chatty(checkpoint, tmp_path_factory):
    """``chatty(family)`` is the folder of an explicit-cot encoder with an untied head and rationales of up to 24 tokens."""

    @functools.cache
    def make(family):
        folder = tmp_path_factory.mktemp("chatty") / family
        build(folder, backbone=checkpoint(family, tied=False), method="explicit-cot", think_tokens=LONGEST)
        tokens = json.loads((folder / "tokenizer.json").read_text())
        ids = {token["content"]: token["id"] for token in tokens["added_tokens"]}
        written = [*range(40, 60), ids["<gen_emb>"], ids["<|im_end|>"]]
        weights = load_file(folder / "model.safetensors")
        embeds, heads = (torch.Generator().manual_seed(seed) for seed in (0, HEADS[family]))
        for name, weight in weights.items():
            if "embed_tokens" in name:
                weight[:] = torch.randn(weight.shape, generator=embeds)
            elif weight.ndim > 1 and name != "lm_head.weight":
                weight *= 10  # so that what was read and written decides about the next token
            elif name == "lm_head.weight":
                weight.zero_()
                weight[written] = torch.randn((len(written), weight.shape[1]), generator=heads)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return make


@pytest.fixture(scope="session")
def mixed():
    """One item of every shape."""
    pixels = np.random.default_rng(0).integers(0, 255, (4, 64, 96, 3), np.uint8)
    first, second = (Image.fromarray(frame) for frame in pixels[:2])
    video = VideoFrames(tuple(map(Image.fromarray, pixels)), (0.0, 0.5, 1.0, 1.5), 0.0, 2.0)
    chat = [
        {"role": "system", "content": "find it"},
        {"role": "user", "content": [{"type": "image", "image": second}, {"type": "text", "text": "like this"}]},
    ]
    texts = ["a red circle", "two", "a blue square left of a small green triangle", "what?", "nothing at all"]
    return [
        *texts,
        {"image": first},
        {"video": video},
        {"image": second, "text": "what is it?"},
        {"video": video, "text": "and then?"},
        chat,
    ]
