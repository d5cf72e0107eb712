"""Read weights in every layout that transformers has saved: one file or shards, with old or new names."""

from __future__ import annotations

import json
import re
from functools import partial
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel
from transformers.initialization import no_init_weights

from tte_retriever.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from transformers import PreTrainedModel

_FORMATS: tuple[tuple[str, str, Callable[[Path], dict[str, torch.Tensor]]], ...] = (
    ("model", ".safetensors", load_file),
    ("pytorch_model", ".bin", partial(torch.load, map_location="cpu", weights_only=True)),
)


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Read all tensors of a checkpoint, under the names that they have in its files.

    Raises:
        CheckpointError: If there are no weights, or a shard is missing.
    """
    for stem, suffix, read in _FORMATS:
        if files := _files(folder, stem, suffix):
            return {name: tensor for file in files for name, tensor in read(file).items()}
    raise CheckpointError(
        f"{str(folder)!r} holds no weights; give a folder with model.safetensors or pytorch_model.bin, or their shards."
    )


def _files(folder: Path, stem: str, suffix: str) -> list[Path]:
    index = folder / f"{stem}{suffix}.index.json"
    if not index.is_file():
        return [file] if (file := folder / f"{stem}{suffix}").is_file() else []
    names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise CheckpointError(
            f"{str(folder)!r} lacks {', '.join(missing)}, which {index.name} lists; copy it there, too."
        )
    return [folder / name for name in names]


def load_backbone_weights(folder: Path, weights: Mapping[str, torch.Tensor]) -> PreTrainedModel:
    """Load weights into the model, without output head, that ``config.json`` describes.

    Args:
        folder: The folder of ``config.json``.
        weights: Tensors with old or new names. Dropped are an output head and the layers of Qwen3.5 that predict several
            tokens at once (``mtp``), because embedding needs neither.

    Raises:
        CheckpointError: If a weight is missing, unexpected or of another shape.
    """
    tensors = {renamed(name): each for name, each in weights.items() if not name.startswith(("lm_head.", "mtp."))}
    config = AutoConfig.from_pretrained(folder)
    if (matrix := tensors.get("language_model.embed_tokens.weight")) is not None:
        # config.json may still have the size from before tokens were added.
        config.text_config.vocab_size = len(matrix)
    with no_init_weights():
        model = AutoModel.from_config(config)
    check_names({name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}, tensors, "backbone")
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def renamed(name: str) -> str:
    """Translate the name of a weight to the current layout of the model without output head."""
    # transformers 4.52 saved "model.visual.…" and "model.language_model.…"; other releases name no part after "model.".
    return re.sub(r"^model\.(visual\.|language_model\.)?", lambda match: match[1] or "language_model.", name)


def check_names(shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, torch.Tensor], what: str) -> None:
    """Raise unless the weights of a part (``what``) have the expected names and shapes.

    Raises:
        CheckpointError: If one is missing, unexpected or of another shape.
    """
    complaints = [
        *(f"{name} is missing" for name in shapes if name not in given),
        *(f"{name} is not expected" for name in given if name not in shapes),
        *(
            f"{name} is {tuple(given[name].shape)} instead of {shape}"
            for name, shape in shapes.items()
            if name in given and tuple(given[name].shape) != shape
        ),
    ]
    if complaints:
        shown = "; ".join(complaints[:5]) + (f"; and {len(complaints) - 5} more" if len(complaints) > 5 else "")
        raise CheckpointError(f"The weights do not fit this {what}: {shown}. Give the complete, original folder.")
