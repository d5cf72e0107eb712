"""Folders of images, pages and videos in, a searchable Qdrant collection out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tte_retriever.lazy import lazy_names

if TYPE_CHECKING:
    from tte_retriever_qdrant.ingestion import ingest
    from tte_retriever_qdrant.searching import search
    from tte_retriever_qdrant.stores import open_store

__all__ = ["ingest", "open_store", "search"]

_MODULES = {
    "ingest": "tte_retriever_qdrant.ingestion",
    "open_store": "tte_retriever_qdrant.stores",
    "search": "tte_retriever_qdrant.searching",
}
__getattr__, __dir__ = lazy_names(
    __name__, __all__, _MODULES
)  # so that ``tte-retriever --help`` imports no decoders and no engines
