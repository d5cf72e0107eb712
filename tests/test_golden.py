"""Vectors and fingerprints are those of a file made before the code was last rearranged.

``python -m pytest tests/test_golden.py --record-golden`` writes the file anew: only where vectors are meant to change.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tte_retriever import TTEEncoder, build
from tte_retriever.media import VideoFrames

GOLDEN = Path(__file__).parent / "golden" / "vectors.json"
METHODS = {"direct": 0, "tte-flash": 4, "lame": 4, "plume": 3, "explicit-cot": 6}
FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
MODELS = ["tte-flash-tiny", *(f"{family}/{method}" for family in FAMILIES for method in METHODS)]
MODELS += ["qwen3_5/tte-flash", "qwen3_5/explicit-cot"]


def items(side):
    """One item of every shape, in multiples of a visual token, so that no release of Pillow or torchvision resizes them."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 2 * side, 3 * side, 3), np.uint8)
    frames = tuple(map(Image.fromarray, pixels))
    chat = [
        {"role": "user", "content": [{"type": "image", "image": frames[2]}, {"type": "text", "text": "like this"}]}
    ]
    return [
        "a red circle",
        {"image": frames[0]},
        {"video": VideoFrames(frames, (0.0, 0.5, 1.0, 1.5), 0.0, 2.0)},
        {"text": "what color ?", "image": frames[1]},
        chat,
    ]


@pytest.fixture(scope="module", params=MODELS)
def named_encoder(request, checkpoint, tmp_path_factory):
    name = request.param
    if name == "tte-flash-tiny":
        return name, TTEEncoder(name, device="cpu")
    family, method = name.split("/")
    out = tmp_path_factory.mktemp("golden") / method
    build(out, backbone=checkpoint(family, tied=method != "explicit-cot"), method=method, think_tokens=METHODS[method])
    return name, TTEEncoder(str(out), device="cpu")


def test_vectors_and_fingerprint_are_those_of_the_golden_file(named_encoder, request):
    name, encoder = named_encoder
    given = items(28 if name.startswith("qwen2") else 32)
    vectors = {"all": encoder.encode(given), "none": encoder.encode(given, think_budget=0)}
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if request.config.getoption("--record-golden"):
        golden[name] = {
            "fingerprint": encoder.fingerprint,
            "vectors": {budget: each.tolist() for budget, each in vectors.items()},
        }
        GOLDEN.write_text(json.dumps(golden, sort_keys=True))
        return
    if name == "tte-flash-tiny":  # random weights differ in their last bit from one processor to another
        assert encoder.fingerprint == golden[name]["fingerprint"]
    for budget, expected in golden[name]["vectors"].items():
        assert np.abs(vectors[budget] - np.array(expected)).max() < 1e-5
