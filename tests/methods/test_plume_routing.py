"""Which experts a PLUME chooses, by modality."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tte_retriever import TTEEncoder
from tte_retriever.errors import CheckpointError
from tte_retriever.importing import import_checkpoint
from tte_retriever.methods.plume_routing import routing_statistics

NOISE = np.random.default_rng(0).integers(0, 255, (4, 64, 96, 3), np.uint8)
IMAGE = Image.fromarray(NOISE[0])
CHAT = [{"role": "user", "content": [{"type": "image", "image": IMAGE}, {"type": "text", "text": "like this"}]}]
ITEMS = ["one", {"video": NOISE}, "two", {"image": IMAGE, "text": "what?"}, CHAT, "three"]


@pytest.fixture(scope="module")
def encoder(plume_original, tmp_path_factory):
    out = import_checkpoint(plume_original(), tmp_path_factory.mktemp("plume") / "plume", origin="plume")
    return TTEEncoder(str(out), device="cpu")


def test_two_experts_of_four_at_every_step_by_modality(encoder):
    found = routing_statistics(encoder, ITEMS, batch_size=2)
    assert {modality: each.items for modality, each in found.items()} == {"text": 3, "video": 1, "text+image": 2}
    for each in found.values():
        assert each.chosen.shape == each.probability.shape == (8, 4)
        assert torch.allclose(each.chosen.sum(1), torch.full((8,), 2.0))
        assert torch.allclose(each.probability.sum(1), torch.ones(8))
    together = routing_statistics(encoder, ITEMS)
    assert all(torch.allclose(found[key].probability, each.probability, atol=1e-5) for key, each in together.items())


def test_an_expert_that_always_wins_is_always_counted(encoder):
    bias = encoder[0].adapter.router.bias
    usual = bias.data.clone()
    bias.data[2] += 1000
    try:
        for each in routing_statistics(encoder, ITEMS).values():
            assert (each.chosen[:, 2] == 1).all()
            assert torch.allclose(each.probability[:, 2], torch.ones(8))
    finally:
        bias.data = usual


def test_another_method_has_no_experts():
    with pytest.raises(CheckpointError, match="experts"):
        routing_statistics(TTEEncoder("tte-flash-tiny", device="cpu"), ["one"])
