"""Open a store by its URI."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tte_retriever.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tte_retriever_qdrant.records import CollectionSpec
    from tte_retriever_qdrant.stores.protocol import GenerationalStore, Generations

_ALLOWED = (
    "edge:///absolute/dir or edge://relative/dir for a directory on this machine, http(s)://host:6333/collection for a "
    "Qdrant server, memory:// for nothing on disk"
)


def open_store(uri: str, *, create: bool = True) -> GenerationalStore:
    """Open the current generation of a store.

    Args:
        uri: ``edge:///absolute/dir`` or ``edge://relative/dir`` (relative to the working directory; ``~`` is expanded,
            nothing else is decoded): Qdrant's engine in this process, in that directory.
            ``http(s)://host:port/collection``: a Qdrant server. The port is 6333 unless given, the key is read from
            ``QDRANT_API_KEY`` in the environment, and ``?grpc=6334`` writes and searches through that gRPC port.
            ``memory://``: a collection that is lost when it is closed.
        create: Whether to make a store that does not exist; otherwise that is an error.

    Returns:
        The store, to be closed after use; it is a context manager.

    Raises:
        InputError: The URI names no known engine.
        StoreNotFound: There is no store, and ``create`` is false.
        StoreLocked: Another process has it open.
        StoreUnavailable: The server does not answer.
        StoreUnauthorized: The server refuses the key.
        StoreError: The directory or the server cannot be used.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from tte_retriever_qdrant import open_store
        >>> from tte_retriever_qdrant.records import CollectionSpec
        >>> with TemporaryDirectory() as folder, open_store(f"edge://{folder}/store") as store:
        ...     store.ensure(CollectionSpec(dim=2, fingerprint="a model"))
        ...     store.count()
        0
    """
    scheme, rest = _split(uri)
    if scheme == "edge":
        from tte_retriever_qdrant.stores.edge import EdgeStore

        return EdgeStore(_directory(uri, rest), create=create)
    if scheme in ("http", "https"):
        from tte_retriever_qdrant.stores.http import http_store

        return http_store(uri, create=create)
    if rest:
        raise InputError(f"the store {uri!r} has a name, and a store in memory has none; give memory:// alone")
    from tte_retriever_qdrant.stores.memory import memory_store

    return memory_store()


def open_generation(uri: str, spec: CollectionSpec) -> GenerationalStore:
    """Open the next generation of a store, as ``begin_generation`` does, while another process has the store open.

    Raises:
        InputError: The URI names no known engine, or a store in memory.
        StoreLocked: Another process is filling the next generation.
        StoreError: As :func:`open_store`.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from tte_retriever_qdrant.records import CollectionSpec
        >>> from tte_retriever_qdrant.stores import open_generation, open_store
        >>> with TemporaryDirectory() as folder:
        ...     with open_generation(f"edge://{folder}", CollectionSpec(dim=2, fingerprint="a model")) as new:
        ...         new.commit()  # after new.upsert(…)
        ...     with open_store(f"edge://{folder}", create=False) as store:
        ...         store.spec.fingerprint
        'a model'
    """
    scheme, rest = _split(uri)
    if scheme == "edge":
        from tte_retriever_qdrant.stores.edge import begin_generation

        return begin_generation(_directory(uri, rest), spec)
    if scheme == "memory":
        raise InputError(f"the store {uri!r} exists only while it is open; call begin_generation of the open store")
    with open_store(uri) as store:
        return store.begin_generation(spec)


@contextmanager
def updating(uri: str, spec: CollectionSpec) -> Iterator[GenerationalStore]:
    """Open a store for an update, whose writes become visible when the block ends without an error.

    An edge store is copied when its points are first written or read, so that other processes search the original until
    the end. After an error or a crash, the next update resumes the copy. An empty store and a store on a server are
    written in place.

    Raises:
        ModelMismatch: The store holds vectors of another model.
        InputError: The store was made with another prefix.
        StoreError: As :func:`open_store`.

    Example:
        >>> import numpy as np
        >>> from tempfile import TemporaryDirectory
        >>> from tte_retriever_qdrant.records import CollectionSpec, Point
        >>> from tte_retriever_qdrant.stores import open_store, updating
        >>> spec = CollectionSpec(dim=2, fingerprint="a model")
        >>> point = Point("00000000-0000-0000-0000-000000000001", np.array([0.6, 0.8]), {"uri": "red.png"})
        >>> with TemporaryDirectory() as folder:
        ...     with updating(f"edge://{folder}", spec) as store:
        ...         store.ensure(spec)
        ...         store.upsert([point])
        ...     with open_store(f"edge://{folder}") as store:
        ...         store.count()
        1
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
    """List the generations of a store and change which one is current, whether or not a process has one open.

    Raises:
        StoreNotFound: There is no store.
        InputError: The URI names no known engine, or a store in memory.
        StoreError: As :func:`open_store`.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from tte_retriever_qdrant.records import CollectionSpec
        >>> from tte_retriever_qdrant.stores import open_generations, open_store
        >>> with TemporaryDirectory() as folder:
        ...     with open_store(f"edge://{folder}") as store:
        ...         store.ensure(CollectionSpec(dim=2, fingerprint="a model"))
        ...     with open_generations(f"edge://{folder}") as generations:
        ...         [each.role for each in generations.listed()]
        ['current']
    """
    scheme, rest = _split(uri)
    if scheme == "edge":
        from tte_retriever_qdrant.stores.directory import Directory

        directory = Directory(_directory(uri, rest))
        directory.prepare(create=False)
        yield directory
    elif scheme == "memory":
        raise InputError(
            f"the store {uri!r} exists only while it is open; give the URI of a store on a disk or a server"
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
    """Whether several processes can write to the store at a time, as they can on a server.

    Raises:
        InputError: The URI names no known engine.
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
