"""Open a store by its URI."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tte_retriever.errors import InputError

if TYPE_CHECKING:
    from tte_retriever_qdrant.stores.protocol import VectorStore

_ALLOWED = "edge:///absolute/dir or edge://relative/dir for a directory on this machine, memory:// for nothing on disk"


def open_store(uri: str, *, create: bool = True) -> VectorStore:
    """Open a collection of vectors.

    Args:
        uri: ``edge:///absolute/dir`` or ``edge://relative/dir`` (relative to the working directory; ``~`` is expanded,
            nothing else is decoded): Qdrant's engine in this process, in that directory. ``memory://``: a collection
            that is gone when it is closed.
        create: Whether a store that does not exist is made; otherwise that is an error.

    Returns:
        The store, to be closed after use; it is a context manager.

    Raises:
        InputError: No URI of an engine that exists.
        StoreNotFound: There is no store, and ``create`` is false.
        StoreLocked: Another process has it open.
        StoreError: The directory cannot be used.
    """
    scheme, separator, rest = str(uri).partition("://")
    if separator and scheme == "edge":
        if not rest.strip():
            raise InputError(f"the store {uri!r} names no directory; give {_ALLOWED}")
        from tte_retriever_qdrant.stores.edge import EdgeStore

        return EdgeStore(Path(rest).expanduser().absolute(), create=create)
    if separator and scheme == "memory":
        if rest:
            raise InputError(f"the store {uri!r} names something in memory; give memory:// alone")
        from tte_retriever_qdrant.stores.memory import MemoryStore

        return MemoryStore()
    if separator and scheme in ("http", "https"):
        raise InputError(f"the store {uri!r} is a Qdrant server, which this version cannot use yet; give {_ALLOWED}")
    raise InputError(f"the store {uri!r} is of no known kind; give {_ALLOWED}")
