"""Training pairs: read from files, kept as plain columns, opened only when a batch is made."""

from __future__ import annotations

from .cells import content_id, decode_cell, encode_cell
from .formats import FORMATS, Pair
from .quarantine import Broken, quarantine_rows
from .reading import read_pairs, split_by_source

__all__ = [
    "FORMATS",
    "Broken",
    "Pair",
    "content_id",
    "decode_cell",
    "encode_cell",
    "quarantine_rows",
    "read_pairs",
    "split_by_source",
]
