"""Files of a folder become chunks, each of which gets one vector; knows no store."""

from __future__ import annotations

from tte_retriever.sources.chunking import Chunk, Item, Modality, chunks_of
from tte_retriever.sources.discovery import discover

__all__ = ["Chunk", "Item", "Modality", "chunks_of", "discover"]
