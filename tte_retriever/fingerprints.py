"""Fingerprints of embedding spaces, which are remembered for large checkpoints."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast

import torch
from sentence_transformers.base.modules import Transformer

from tte_retriever.atomic import atomic_write_text
from tte_retriever.prompts import document_prompt_name

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Module

FileIdentity: TypeAlias = tuple[str, int, int, int]
"""Path, size, time of the last change in ns, inode."""

_PIXEL_SETTINGS = (
    *("size", "do_resize", "resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std"),
    *("patch_size", "temporal_patch_size", "merge_size", "fps", "min_frames", "max_frames"),
)

_PIECE = 1 << 20
"""Elements that are hashed at a time: a piece in float32 fits the cache of a processor."""
_SAMPLE = 16
"""Elements of each tensor that tell apart weights from the same files."""
_REMEMBERED_FROM = 1 << 26
"""Elements of a model whose fingerprint is remembered on disk; smaller ones are hashed in a fraction of a second."""
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")


class Fingerprints(NamedTuple):
    """Short hashes of the weights and settings of a model.

    Attributes:
        space: Of all settings: the same for models that give the same vectors.
        documents: Without the settings of queries: the same for models that give the same vectors of documents.
    """

    space: str
    documents: str


def settings(model: SentenceTransformer, *, documents_only: bool = False) -> str:
    """All settings that change vectors, as JSON: template, pixels, frames, modules, prompts, dimension, generation.

    Of the processors only the settings of pixels and frames: releases of transformers add keys that change nothing.

    Args:
        model: The model.
        documents_only: Whether only the prompt of documents counts.
    """
    processor = model.processor
    pixels = [
        {key: vars(part).get(key) for key in _PIXEL_SETTINGS}
        for name in ("image_processor", "video_processor")
        if (part := getattr(processor, name, None)) is not None
    ]
    first = cast("Module", model[0]).get_config_dict()
    known = {
        "template": getattr(processor, "chat_template", None),
        "pixels": pixels,
        # Of custom code only: the settings of a stock first module grow with its releases.
        "first": {key: value for key, value in first.items() if key not in Transformer.config_keys},
        "modules": [(type(module).__name__, cast("Module", module).get_config_dict()) for module in list(model)[1:]],
        "prompts": {"document": document_prompt(model)} if documents_only else model.prompts,
        "dimension": model.truncate_dim or model.get_embedding_dimension(),
    }
    generation = getattr(getattr(model[0], "model", None), "generation_config", None)  # if it has an output head
    chosen = generation.to_diff_dict() if generation is not None else {}
    choices = {
        "processing": first.get("processing_kwargs"),
        "default_prompt": None if documents_only else model.default_prompt_name,
        "generation": {key: value for key, value in chosen.items() if key != "transformers_version"},
    }
    # Empty choices are left out, so that fingerprints from before they existed stay the same.
    return json.dumps(known | {key: value for key, value in choices.items() if value}, sort_keys=True, default=dict)


def document_prompt(model: SentenceTransformer) -> str | None:
    """The prompt of ``encode_document``."""
    name = document_prompt_name(model.prompts) or model.default_prompt_name
    return (model.prompts.get(name) if name is not None else None) or None


def fingerprint(model: SentenceTransformer) -> str:
    """A short hash of the values of the weights and of :func:`settings`.

    It is the same on every machine, and after a lossless change of dtype.
    """
    return fingerprints(model).space


def fingerprints(model: SentenceTransformer) -> Fingerprints:
    """Hash a model in pieces, without a copy of a whole tensor."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        for piece in tensor.detach().reshape(-1).split(_PIECE):
            digest.update(piece.cpu().float().numpy())
    documents = digest.copy()
    digest.update(settings(model).encode())
    documents.update(settings(model, documents_only=True).encode())
    return Fingerprints(digest.hexdigest()[:16], documents.hexdigest()[:16])


def remembered_fingerprints(model: SentenceTransformer, files: tuple[FileIdentity, ...]) -> Fingerprints:
    """The :func:`fingerprints` of weights that are as they were in ``files``: from the user's cache, if they are there.

    The key in the cache is the identity of the files, the settings, and a sample of the weights in memory, so that another
    dtype or a merged adapter has a key of its own.

    Args:
        model: The model; its weights have not been changed since it was loaded.
        files: As :func:`weight_files` gives them; empty if they are unknown, and nothing is remembered.
    """
    weights = model.state_dict()
    if not files or sum(tensor.numel() for tensor in weights.values()) < _REMEMBERED_FROM:
        return fingerprints(model)
    key = hashlib.sha256(json.dumps([files, settings(model), settings(model, documents_only=True)]).encode())
    for name, tensor in sorted(weights.items()):
        key.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        places = torch.linspace(0, tensor.numel() - 1, min(_SAMPLE, tensor.numel()), dtype=torch.float64).long()
        key.update(tensor.detach().reshape(-1)[places.to(tensor.device)].cpu().float().numpy())
    folder = _cache_folder()
    if folder is None:
        return fingerprints(model)
    path = folder / key.hexdigest()
    try:
        return Fingerprints(*json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # not there yet, or not readable
        found = fingerprints(model)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write_text(path, json.dumps(found))
    except OSError:  # without a cache, the next process hashes again
        pass
    return found


class Hashing:
    """The fingerprints of one model, which are computed again only when its weights or settings have changed.

    Args:
        model: The model, as it was loaded.
        folder: Where it was loaded from; ``None`` if that is not one folder, and nothing is remembered.
    """

    def __init__(self, model: SentenceTransformer, folder: Path | None) -> None:
        self._files = () if folder is None else weight_files(folder)
        self._loaded = _versions(model)
        self._last: tuple[tuple[object, str], Fingerprints] | None = None

    def fingerprints(self, model: SentenceTransformer) -> Fingerprints:
        """The fingerprints of the model as it is now."""
        versions = _versions(model)
        state = (versions, settings(model))
        if self._last is None or self._last[0] != state:
            files = self._files if versions == self._loaded else ()
            self._last = (state, remembered_fingerprints(model, files))
        return self._last[1]


def _versions(model: SentenceTransformer) -> tuple[tuple[int, int], ...]:
    """Address and version of each tensor, which change with its values."""
    return tuple((tensor.data_ptr(), tensor._version) for tensor in model.state_dict().values())


def weight_files(folder: Path) -> tuple[FileIdentity, ...]:
    """Identity of the files with the weights of a saved model; empty if some of them are elsewhere, as an adapter's are."""
    if (folder / "adapter_config.json").exists():
        return ()
    paths = sorted(path for path in folder.rglob("*") if path.suffix in _WEIGHTS and path.is_file())
    stats = [(path, path.stat()) for path in paths]
    return tuple((str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ino) for path, stat in stats)


def _cache_folder() -> Path | None:
    """The folder of the user's cache; ``None`` where no home directory is known, as in some containers."""
    try:
        caches = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    except RuntimeError:
        return None
    return Path(caches) / "tte-retriever" / "fingerprints"
