"""Files of a folder become chunks, each of which gets one vector. This package has no store: readers and stores use it."""

from __future__ import annotations

from tte_retriever.sources.chunking import (
    DEFAULT_WINDOW_S,
    SHORTEST_WINDOW_S,
    TEXT_SUFFIXES,
    Chunk,
    ChunkingConfig,
    Item,
    Modality,
    chunks_of,
    load_chunk,
    pixels,
)
from tte_retriever.sources.discovery import STORE_MANIFEST, check_source, discover, root_of, uri_of
from tte_retriever.sources.documents import load_page, page_count
from tte_retriever.sources.identity import asset_id_of, stamp

__all__ = [
    "DEFAULT_WINDOW_S",
    "SHORTEST_WINDOW_S",
    "STORE_MANIFEST",
    "TEXT_SUFFIXES",
    "Chunk",
    "ChunkingConfig",
    "Item",
    "Modality",
    "asset_id_of",
    "check_source",
    "chunks_of",
    "discover",
    "load_chunk",
    "load_page",
    "page_count",
    "pixels",
    "root_of",
    "stamp",
    "uri_of",
]
