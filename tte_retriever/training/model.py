"""The model that a run starts from."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from transformers import AutoTokenizer

from tte_retriever.building import METHODS, build
from tte_retriever.checkpoint import own_method, resolve_model
from tte_retriever.encoder import TTEEncoder
from tte_retriever.errors import InputError
from tte_retriever.tokens import thought_vocabulary
from tte_retriever.training.tiny_backbone import TinyShape, build_backbone

if TYPE_CHECKING:
    from tte_retriever.training.config import ModelConfig


TINY_BACKBONE = "tiny-backbone"
"""Name of an untrained backbone of a million parameters that knows the words of the small world; made on the spot."""


def prepare_start(config: ModelConfig, folder: Path, *, seed: int) -> str:
    """The checkpoint to start from: the backbone itself if it has its tokens already, else one that is built of it.

    Args:
        config: Which backbone, which method.
        folder: Where to build; what stands there already is taken as it is.
        seed: Of the rows of new tokens.

    Raises:
        InputError: If the backbone cannot be had, or the config asks for what it cannot be.
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
    try:
        thought = thought_vocabulary(AutoTokenizer.from_pretrained(name))
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"model.backbone {config.backbone!r} cannot be loaded ({reason}); give a bundled name, a folder or a hub id."
        ) from error
    if (own := own_method(name)) is not None:
        if own != config.method:
            raise InputError(
                f"model.backbone {config.backbone!r} is a checkpoint of the method {own}, but model.method is "
                f"{config.method}; give one of them for the other, or start from the backbone that it was built from."
            )
        return name
    if thought.embed_id is None or not METHODS[config.method].stock:
        return str(build(folder, backbone=name, **options))
    wanted = 0 if config.method == "direct" else config.think_tokens
    if wanted not in (None, thought.max_budget):
        raise InputError(
            f"model.backbone {config.backbone!r} has {thought.max_budget} think tokens already, but {wanted} are asked for "
            f"({config.method}); leave model.think_tokens out, or start from the backbone that it was built from."
        )
    return name


def load_model(name: str | Path, config: ModelConfig) -> TTEEncoder:
    """Load a checkpoint on the CPU, where the trainer takes it from, in the dtype and attention of the config."""
    options = {"dtype": config.dtype} | ({"attn_implementation": config.attention} if config.attention else {})
    return TTEEncoder(str(name), device="cpu", model_kwargs=options)
