"""Streaming inference: token-budgeted batches of items that are prepared in the background."""

from __future__ import annotations

from tte_retriever.inference.batches import pack
from tte_retriever.inference.collate import collate, split
from tte_retriever.inference.embedding import BatchEmbedder
from tte_retriever.inference.stream import stream

__all__ = ["BatchEmbedder", "collate", "pack", "split", "stream"]
