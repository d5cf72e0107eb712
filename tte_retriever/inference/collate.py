"""Split the features of a batch into rows and join rows into a batch, so that items can be batched by length."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils.rnn import pad_sequence

from tte_retriever.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Sequence

Features = dict[str, Any]

_TOKEN_KEYS = frozenset({"input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids"})
"""Features of shape (B, L), padded to the longest row."""

_ROW_KEYS = frozenset({"think_budget"})
"""Features of shape (B,)."""


@dataclass(frozen=True)
class _Medium:
    """Names of the features of one kind of media in the Qwen-VL processors, all in the order of the rows."""

    count: str  # (B,): how many each row has
    grid: str  # (media, 3): patches in time, height and width
    pixels: str  # (patches, values)
    seconds: str = ""  # (media,)


_MEDIA = (
    _Medium("num_images_per_sample", "image_grid_thw", "pixel_values"),
    _Medium("num_videos_per_sample", "video_grid_thw", "pixel_values_videos", "second_per_grid_ts"),
)
_KNOWN = _TOKEN_KEYS | _ROW_KEYS | {"modality"} | {name for each in _MEDIA for name in vars(each).values()}


def token_count(features: Features) -> int:
    """Number of tokens of one row, media placeholders included."""
    return features["input_ids"].shape[1]


def split(batch: Features) -> list[Features]:
    """Split the features of a batch into rows without padding.

    Raises:
        CheckpointError: If there are features that no Qwen-VL processor makes.

    Example:
        >>> from tte_retriever import TTEEncoder
        >>> encoder = TTEEncoder("tte-flash-tiny", device="cpu")
        >>> rows = split(encoder.preprocess(["two", "a small red circle"]))
        >>> rows[0]["input_ids"].shape[1] < rows[1]["input_ids"].shape[1]
        True
    """
    if unknown := batch.keys() - _KNOWN:
        raise CheckpointError(
            f"The processor of this checkpoint makes {', '.join(sorted(unknown))}, which cannot be split into rows. "
            "Stream with a Qwen2-VL, Qwen2.5-VL, Qwen3-VL or Qwen3.5 checkpoint, or use encode."
        )
    mask = batch["attention_mask"]  # (B, L)
    lengths = mask.sum(1).tolist()
    starts = mask.argmax(1).tolist()  # where the padding on the left ends
    rows = [
        {key: batch[key][i : i + 1, start : start + length] for key in batch.keys() & _TOKEN_KEYS}  # (1, L) each
        for i, (start, length) in enumerate(zip(starts, lengths, strict=True))
    ]
    for i, row in enumerate(rows):
        row.update((key, batch[key][i : i + 1]) for key in batch.keys() & _ROW_KEYS)  # (1,) each
    for medium in _MEDIA:
        if medium.count not in batch:
            continue
        counts = batch[medium.count]  # (B,)
        grids = batch[medium.grid].split(counts.tolist())
        patches = [int(grid.prod(-1).sum()) for grid in grids]
        parts = {medium.count: counts.split(1), medium.grid: grids, medium.pixels: batch[medium.pixels].split(patches)}
        if medium.seconds in batch:
            parts[medium.seconds] = batch[medium.seconds].split(counts.tolist())
        for i, row in enumerate(rows):
            if counts[i]:
                row.update((key, values[i]) for key, values in parts.items())
    return [{**row, "modality": batch["modality"]} for row in rows] if "modality" in batch else rows


def collate(rows: Sequence[Features], *, pad_id: int, padding_side: str) -> Features:
    """Join rows into the batch that the processor would have made of their items.

    Args:
        rows: As :func:`split` gives them.
        pad_id: Token that pads ``input_ids``; all other features are padded with 0.
        padding_side: ``left`` or ``right``.

    Example:
        >>> from tte_retriever import TTEEncoder
        >>> encoder = TTEEncoder("tte-flash-tiny", device="cpu")
        >>> rows = split(encoder.preprocess(["two", "a small red circle"]))
        >>> collate(rows, pad_id=0, padding_side="left")["attention_mask"].sum(dim=1).tolist() == [
        ...     row["input_ids"].shape[1] for row in rows
        ... ]
        True
    """
    batch: Features = {}
    for key in dict.fromkeys(chain.from_iterable(rows)):
        values = [row[key] for row in rows if key in row]
        if key in _TOKEN_KEYS:
            fill = pad_id if key == "input_ids" else 0
            batch[key] = pad_sequence(  # (B, L)
                [value[0] for value in values], batch_first=True, padding_value=fill, padding_side=padding_side
            )
        elif any(key == medium.count for medium in _MEDIA):
            batch[key] = torch.cat([row.get(key, torch.zeros(1, dtype=torch.long)) for row in rows])  # (B,)
        else:
            batch[key] = torch.cat(values) if isinstance(values[0], torch.Tensor) else values[0]
    return batch
