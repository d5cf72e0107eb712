"""The models of the benchmark. Speed does not depend on training, so most of them are random."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from transformers.utils import logging

from tte_retriever.encoder import TTEEncoder
from tte_retriever.methods import plume, tte_flash
from tte_retriever.small_world.backbone import TinyShape, build_backbone

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

BUNDLED = "tte-flash-tiny"
MOST_THINK_TOKENS = 32
PLUME_STEPS = 8
_SHAPES = {"random-1m": TinyShape(), "random-40m": TinyShape(width=512, layers=10, vision_width=256, vision_layers=6)}


def load(name: str) -> TTEEncoder:
    """Load the bundled model, or a random Qwen3-VL with 32 think tokens and pictures of up to 448 x 448 pixels."""
    if name not in _SHAPES:
        return TTEEncoder(name, device="cpu")
    return _random(name, partial(tte_flash.build, think_tokens=MOST_THINK_TOKENS))


def load_plume(name: str) -> TTEEncoder:
    """A PLUME model with 8 latent steps on the random backbone of this name."""
    return _random(name, partial(plume.build, think_tokens=PLUME_STEPS))


def _random(name: str, build: Callable[[str], list[nn.Module]]) -> TTEEncoder:
    with TemporaryDirectory() as folder:
        build_backbone(replace(_SHAPES[name], reserved_tokens=MOST_THINK_TOKENS + 1), Path(folder))
        encoder = TTEEncoder(modules=build(folder), device="cpu")
    encoder.processor.image_processor.size = {"shortest_edge": 32 * 32, "longest_edge": 448 * 448}
    return encoder


def described(name: str, encoder: TTEEncoder) -> str:
    """Name, millions of parameters and number format."""
    parameters = list(encoder.parameters())
    millions = sum(parameter.numel() for parameter in parameters) / 1e6
    return f"{name} ({millions:.1f} M, {str(parameters[0].dtype).removeprefix('torch.')})"


def settle() -> None:
    """Use one thread, whose time depends least on other load, and switch progress bars off."""
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
