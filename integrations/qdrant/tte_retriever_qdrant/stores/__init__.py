"""Where vectors are kept: one protocol, several engines, opened by URI."""

from __future__ import annotations

from tte_retriever_qdrant.stores.opening import open_generation, open_store
from tte_retriever_qdrant.stores.protocol import VectorStore

__all__ = ["VectorStore", "open_generation", "open_store"]
