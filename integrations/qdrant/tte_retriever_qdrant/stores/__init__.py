"""Where vectors are kept: one protocol, several engines, opened by URI."""

from __future__ import annotations

from tte_retriever_qdrant.stores.opening import open_generation, open_generations, open_store, updating
from tte_retriever_qdrant.stores.protocol import GenerationalStore, VectorStore

__all__ = ["GenerationalStore", "VectorStore", "open_generation", "open_generations", "open_store", "updating"]
