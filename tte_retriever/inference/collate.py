"""Features of single items to the features of a padded batch, as the Qwen-VL processors would have made them."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

_TOKEN_KEYS = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")
"""Features of shape (1, L), padded to the longest; every other tensor is concatenated in the order of the rows."""

_COUNT_KEYS = ("num_images_per_sample", "num_videos_per_sample")
"""Features of shape (1,) that an item without media leaves out."""


def token_count(features: dict[str, Any]) -> int:
    """Number of tokens of one item, media included."""
    return int(features["attention_mask"].sum())


def collate(items: Sequence[dict[str, Any]], *, pad_id: int, padding_side: str) -> dict[str, Any]:
    """Join the features of single items.

    Args:
        items: Features of one item each: token features (1, L), pixels (patches, values), grids (media, 3).
        pad_id: Token that fills ``input_ids``; everything else is filled with 0.
        padding_side: ``left`` or ``right``.

    Returns:
        Features of the batch, row after row in the order of ``items``.
    """
    longest = max(item["input_ids"].shape[1] for item in items)
    batch: dict[str, Any] = {}
    for key in dict.fromkeys(chain.from_iterable(items)):
        values = [item[key] for item in items if key in item]
        if key in _TOKEN_KEYS:
            fill = pad_id if key == "input_ids" else 0
            batch[key] = torch.cat([_padded(value, longest, fill, padding_side) for value in values])
        elif key in _COUNT_KEYS:
            batch[key] = torch.cat([item.get(key, torch.zeros(1, dtype=torch.long)) for item in items])
        elif isinstance(values[0], torch.Tensor):
            batch[key] = torch.cat(values)
        elif isinstance(values[0], list):
            batch[key] = list(chain.from_iterable(values))
        else:  # a word about the whole batch, such as its modality
            batch[key] = values[0]
    return batch


def _padded(tokens: torch.Tensor, length: int, fill: int, side: str) -> torch.Tensor:
    missing = length - tokens.shape[1]
    return torch.nn.functional.pad(tokens, (missing, 0) if side == "left" else (0, missing), value=fill)
