"""Folders of images, pages and videos in, a searchable Qdrant collection out."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that ``tte-retriever --help`` imports no decoders and no engines."""
    if name not in _MODULES:
        raise AttributeError(f"module 'tte_retriever_qdrant' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
