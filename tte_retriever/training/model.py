"""The model that a run starts from."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from sentence_transformers.util import load_file_path
from transformers import AutoTokenizer

from tte_retriever.building import build
from tte_retriever.chats import image_size
from tte_retriever.checkpoint import resolve_model
from tte_retriever.encoder import CUSTOM_MODULES, TTEEncoder
from tte_retriever.errors import InputError
from tte_retriever.methods.table import METHODS
from tte_retriever.options import ModelOptions
from tte_retriever.small_world.backbone import TinyShape, build_backbone
from tte_retriever.tokens import thought_vocabulary

if TYPE_CHECKING:
    from tte_retriever.training.config import ModelConfig


TINY_BACKBONE = "tiny-backbone"
"""Name of an untrained backbone of a million parameters, with the vocabulary of the small world. It is built on use."""


def prepare_start(config: ModelConfig, folder: Path, *, seed: int) -> str:
    """The checkpoint to start from: the backbone itself if it has the method's tokens, else one that is built from it.

    Args:
        config: Backbone and method.
        folder: Where a checkpoint is built. If it exists, it is used as it is.
        seed: Seed of the rows of new tokens.

    Returns:
        A folder, or the hub id of the backbone.

    Raises:
        InputError: If the backbone cannot be loaded, or does not fit the method or its think tokens.
        CheckpointError: If it is not of a supported family.
    """
    if folder.exists():
        return str(folder)
    options: dict[str, Any] = {"method": config.method, "seed": seed, **config.build_options}
    if config.backbone == TINY_BACKBONE:
        with TemporaryDirectory() as scratch:
            build_backbone(TinyShape(seed=seed), Path(scratch, TINY_BACKBONE))
            return str(build(folder, backbone=Path(scratch, TINY_BACKBONE), **options))
    name = resolve_model(config.backbone)
    return name if _is_checkpoint(name, config) else str(build(folder, backbone=name, **options))


def _is_checkpoint(name: str, config: ModelConfig) -> bool:
    """Whether a backbone is a checkpoint of the config's method already; raises like :func:`prepare_start`."""
    try:
        thought = thought_vocabulary(AutoTokenizer.from_pretrained(name))
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"model.backbone {config.backbone!r} cannot be loaded ({reason}); give a bundled name, a folder or a hub id."
        ) from error
    method = METHODS[config.method]
    if (given := _method_of(name)) is not None:
        if given != config.method or config.think_tokens is not None:
            raise InputError(
                f"model.backbone {config.backbone!r} is of the method {given} already, but the config has {config.method} "
                f"with {config.think_tokens} think tokens; leave model.think_tokens out and set model.method={given}."
            )
        return True
    if thought.embed_id is None or method.needs_custom_code:
        return False
    wanted = config.think_tokens if method.has_thought else 0
    if wanted not in (None, thought.max_budget):
        raise InputError(
            f"model.backbone {config.backbone!r} has {thought.max_budget} think tokens already, but the config has {wanted} "
            f"({config.method}); leave model.think_tokens out, or start from the backbone that it was built from."
        )
    return True


def _method_of(name: str) -> str | None:
    """The method whose custom code a checkpoint has as first module; ``None`` for stock modules and for a backbone."""
    file = load_file_path(name, "modules.json")
    if file is None:
        return None
    first: str = json.loads(Path(file).read_text(encoding="utf-8"))[0]["type"]
    if not first.startswith(CUSTOM_MODULES):
        return None
    return first.removeprefix(CUSTOM_MODULES).split(".")[0].replace("_", "-")


def load_model(name: str | Path, config: ModelConfig) -> TTEEncoder:
    """Load a checkpoint with the options of the config, on the CPU, from where the trainer moves it."""
    options = ModelOptions(
        str(name), device="cpu", dtype=config.dtype, attention=config.attention, max_pixels=config.max_pixels
    )
    encoder = options.load()
    if size := image_size(encoder.processor, config.max_pixels):
        encoder.processor.image_processor.size = size  # unlike the option, it is saved with the model
    return encoder
