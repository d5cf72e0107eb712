"""Training pairs: read from files, kept as plain columns; their media are opened when a batch is made."""

from __future__ import annotations

from .formats import FORMATS, TrainingPair
from .item_codec import content_id, decode_item, encode_item
from .quarantine import RejectedRow, quarantine_rows
from .reading import read_pairs, split_by_source

__all__ = [
    "FORMATS",
    "RejectedRow",
    "TrainingPair",
    "content_id",
    "decode_item",
    "encode_item",
    "quarantine_rows",
    "read_pairs",
    "split_by_source",
]
