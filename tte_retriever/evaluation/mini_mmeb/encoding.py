"""Encode drawn items with any model of sentence-transformers."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from tte_retriever.encoder import TTEEncoder
from tte_retriever.errors import InputError, TTEError
from tte_retriever.small_world.clips import CLIP_S
from tte_retriever.small_world.tasks import sample_times

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sentence_transformers import SentenceTransformer

    from tte_retriever.small_world.tasks import Item

    from .tasks import Task

Role = Literal["query", "document"]

_CLOCK_HZ = 1000
"""Frame rate at which frame numbers are milliseconds."""


def model_input(item: Item) -> dict[str, Any]:
    """A drawn item as input of sentence-transformers and :class:`TTEEncoder`; frames get their times."""
    given: dict[str, Any] = dict(item)
    if "image" in item:
        given["image"] = Image.fromarray(item["image"])
    if "video" in item:
        frames = item["video"]  # (T, H, W, 3)
        indices = [round(_CLOCK_HZ * time) for time in sample_times(len(frames))]
        length = round(_CLOCK_HZ * CLIP_S)
        metadata = {"fps": float(_CLOCK_HZ), "total_num_frames": length, "frames_indices": indices}
        given["video"] = {"array": frames, "video_metadata": metadata}
    return given


def check_modalities(model: SentenceTransformer, tasks: Sequence[Task]) -> None:
    """Check that a model takes the inputs of all tasks.

    Raises:
        InputError: It does not; the message names the tasks whose inputs it takes.
    """
    cannot = [task for task in tasks for part in (task.query, task.candidate) if not _takes(model, part)]
    if cannot:
        able = ",".join(task.name for task in tasks if task not in cannot)
        advice = f"give --tasks {able}" if able else "give a multimodal model"
        made_of = " → ".join(" + ".join(part) for part in (cannot[0].query, cannot[0].candidate))
        raise InputError(
            f"The model takes {', '.join(map(str, model.modalities))}, but {cannot[0].name} is {made_of}; {advice}."
        )


def _takes(model: SentenceTransformer, kinds: tuple[str, ...]) -> bool:
    return model.supports(kinds if len(kinds) > 1 else kinds[0])  # type: ignore[arg-type]


def used_budget(model: SentenceTransformer, budget: int | None) -> int | None:
    """The think budget of a model; ``None`` for a model that is not a :class:`TTEEncoder`.

    Raises:
        InputError: Such a model is given a budget.
    """
    if isinstance(model, TTEEncoder):
        default = model.max_budget if model.think_budget is None else model.think_budget
        return default if budget is None else budget
    if budget is not None:
        raise InputError(
            f"think_budget is {budget}, but a {type(model).__name__} takes none; leave it out, or load a think-token "
            "checkpoint with TTEEncoder."
        )
    return None


def embed(model: SentenceTransformer, items: Sequence[Item], role: Role, budget: int | None) -> np.ndarray:
    """Encode items with ``encode_query`` or ``encode_document``, which use the model's own prompts.

    Returns:
        (B, E) float32.

    Raises:
        TTEError: A vector has NaN or infinity.
    """
    encode = model.encode_query if role == "query" else model.encode_document
    options: dict[str, Any] = {} if budget is None else {"think_budget": budget}
    if any("video" in item for item in items):
        options["processing_kwargs"] = {"video": {"do_sample_frames": False}}  # the frames are sampled already
    vectors = encode([model_input(item) for item in items], show_progress_bar=False, **options)
    vectors = np.asarray(vectors, np.float32)
    if not np.isfinite(vectors).all():
        raise TTEError(
            "The model returned vectors with NaN or infinity, which cannot be ranked. Load it in float32 or bfloat16; if "
            "that does not help, its weights are broken."
        )
    return vectors


def digest(items: Sequence[Item]) -> str:
    """A short hash of everything in the items, pixels included."""
    total = hashlib.sha256()
    for item in items:
        for key, value in item.items():
            raw = value.encode() if isinstance(value, str) else np.ascontiguousarray(value).tobytes()
            shape = getattr(value, "shape", len(raw))
            total.update(f"{key}{shape}".encode() + raw)
        total.update(b"\n")
    return total.hexdigest()[:16]
