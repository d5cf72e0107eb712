"""Open a store by its URI."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tte_retriever.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tte_retriever_qdrant.records import CollectionSpec
    from tte_retriever_qdrant.stores.protocol import Generations, VectorStore

_ALLOWED = (
    "edge:///absolute/dir or edge://relative/dir for a directory on this machine, http(s)://host:6333/collection for a "
    "Qdrant server, memory:// for nothing on disk"
)


def open_store(uri: str, *, create: bool = True) -> VectorStore:
    """Open the current generation of a store.

    Args:
        uri: ``edge:///absolute/dir`` or ``edge://relative/dir`` (relative to the working directory; ``~`` is expanded,
            nothing else is decoded): Qdrant's engine in this process, in that directory.
            ``http(s)://host:port/collection``: a Qdrant server, with the port 6333 unless another is given, the key in
            the environment as ``QDRANT_API_KEY``, and ``?grpc=6334`` to write and search through that gRPC port.
            ``memory://``: a collection that is gone when it is closed.
        create: Whether a store that does not exist is made; otherwise that is an error.

    Returns:
        The store, to be closed after use; it is a context manager.

    Raises:
        InputError: No URI of an engine that exists.
        StoreNotFound: There is no store, and ``create`` is false.
        StoreLocked: Another process has it open.
        StoreUnavailable: The server does not answer.
        StoreUnauthorized: The server wants another key.
        StoreError: The directory or the server cannot be used.
    """
    scheme, rest = _split(uri)
    if scheme == "edge":
        from tte_retriever_qdrant.stores.edge import EdgeStore

        return EdgeStore(_directory(uri, rest), create=create)
    if scheme in ("http", "https"):
        from tte_retriever_qdrant.stores.http import http_store

        return http_store(uri, create=create)
    if rest:
        raise InputError(f"the store {uri!r} names something in memory; give memory:// alone")
    from tte_retriever_qdrant.stores.memory import memory_store

    return memory_store()


def open_generation(uri: str, spec: CollectionSpec) -> VectorStore:
    """Open the next generation of a store, as ``begin_generation`` does, while another process has the store open.

    Raises:
        InputError: No URI of such a store; nobody else has one in memory.
        StoreLocked: Another process is filling the next generation.
        StoreError: As :func:`open_store`.
    """
    scheme, rest = _split(uri)
    if scheme == "edge":
        from tte_retriever_qdrant.stores.edge import begin_generation

        return begin_generation(_directory(uri, rest), spec)
    if scheme == "memory":
        raise InputError(f"the store {uri!r} is not there before it is open; call its begin_generation")
    with open_store(uri) as store:
        return store.begin_generation(spec)


@contextmanager
def updating(uri: str, spec: CollectionSpec) -> Iterator[VectorStore]:
    """Open a store to bring it up to date; when the block ends without an error, who opens it finds what was written.

    An edge store is copied when its points are first written or asked for, so that others can search it as it was until
    the end; after an error or a crash, the copy is taken up again. One that holds nothing yet, and a store on a server,
    are written to in place.

    Raises:
        ModelMismatch: The store was made by another model.
        InputError: The store was made with another prefix.
        StoreError: As :func:`open_store`.
    """
    scheme, rest = _split(uri)
    if scheme != "edge":
        with open_store(uri) as store:
            if store.spec is not None:
                store.ensure(spec)
            yield store
        return
    from tte_retriever_qdrant.stores.edge import open_update

    with open_update(_directory(uri, rest), spec) as copy:
        yield copy
        if copy.is_copy:
            copy.commit()


@contextmanager
def open_generations(uri: str) -> Iterator[Generations]:
    """Look at the generations of a store, and change which of them is the current one, whoever has one open.

    Raises:
        StoreNotFound: There is no store.
        InputError: No URI of such a store; one in memory has no generations for others.
        StoreError: As :func:`open_store`.
    """
    scheme, rest = _split(uri)
    if scheme == "edge":
        from tte_retriever_qdrant.stores.directory import Directory

        directory = Directory(_directory(uri, rest))
        directory.prepare(create=False)
        yield directory
    elif scheme == "memory":
        raise InputError(
            f"the store {uri!r} is not there before it is open; give the URI of one on a disk or a server"
        )
    else:
        from tte_retriever_qdrant.stores.http import connect, missing

        connection = connect(uri)
        try:
            if not connection.aliases():
                raise missing(connection)
            yield connection
        finally:
            connection.client.close()


def is_for_many_writers(uri: str) -> bool:
    """Whether several processes can have the store open for writing at a time, as they can with a server's.

    Raises:
        InputError: No URI of an engine that exists.
    """
    return _split(uri)[0] in ("http", "https")


def _split(uri: str) -> tuple[str, str]:
    scheme, separator, rest = str(uri).partition("://")
    if not separator or scheme not in ("edge", "memory", "http", "https"):
        raise InputError(f"the store {uri!r} is of no known kind; give {_ALLOWED}")
    return scheme, rest


def _directory(uri: str, rest: str) -> Path:
    if not rest.strip():
        raise InputError(f"the store {uri!r} names no directory; give {_ALLOWED}")
    return Path(rest).expanduser().absolute()
