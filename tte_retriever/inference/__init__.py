"""Streaming inference: token-budgeted batches of items prepared in the background; knows no encoder."""

from __future__ import annotations

from tte_retriever.inference.batches import pack
from tte_retriever.inference.collate import collate, split
from tte_retriever.inference.stream import stream

__all__ = ["collate", "pack", "split", "stream"]
