"""A collection in memory, searched by comparing every vector: for tests and small folders."""

from __future__ import annotations

import tempfile
from pathlib import Path

from qdrant_client import QdrantClient

from tte_retriever_qdrant.errors import StoreError
from tte_retriever_qdrant.stores.client import ClientStore
from tte_retriever_qdrant.stores.connection import Connection

_NAME = "points"


def memory_store() -> ClientStore:
    """Make a store that is lost when it is closed."""
    folder = tempfile.TemporaryDirectory(prefix="tte-memory-store-")
    connection = Connection(
        QdrantClient(":memory:"),
        name=_NAME,
        label="the store in memory",
        data=Path(folder.name),
        indexed=False,
        explain=lambda error, label: StoreError(f"{label} failed: {error}"),
        release=folder.cleanup,
    )
    return ClientStore(connection, _NAME)
