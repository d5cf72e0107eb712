"""Qdrant's own engine in this process, one directory per store.

The directory holds ``tte-store.json`` (the manifest), ``shards/`` (the engine's files), a lock file, and what ingestion
keeps beside the vectors. One process at a time may have it open.
"""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

import filelock
import qdrant_edge as edge

from tte_retriever.errors import TTEError
from tte_retriever_qdrant.errors import StoreError, StoreLocked, StoreNotFound
from tte_retriever_qdrant.filters import Dialect, compile_filter
from tte_retriever_qdrant.records import PAYLOAD_FIELDS, Hit
from tte_retriever_qdrant.stores import checks
from tte_retriever_qdrant.stores.manifest import MANIFEST, Manifest, read_manifest, write_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    import numpy as np
    from typing_extensions import Self

    from tte_retriever_qdrant.filters import Filter
    from tte_retriever_qdrant.records import CollectionSpec, Point

_LOCK = ".lock"
_SHARDS = "shards"
_INDEX_TYPES = {
    str: edge.PayloadSchemaType.Keyword,
    int: edge.PayloadSchemaType.Integer,
    float: edge.PayloadSchemaType.Float,
}

_DIALECT = Dialect(edge.Filter, edge.FieldCondition, edge.MatchAny, edge.RangeFloat)


class EdgeStore:
    """A :class:`~tte_retriever_qdrant.stores.VectorStore` in a directory; see :func:`open_store` for what it raises."""

    def __init__(self, home: Path, *, create: bool = True) -> None:
        self._home = home
        self._shard: edge.EdgeShard | None = None
        self._spec: CollectionSpec | None = None
        self._lock = filelock.FileLock(home / _LOCK, thread_local=False)
        if not create and not (home / MANIFEST).exists():
            raise StoreNotFound(
                f"there is no store in {str(home)!r}; make one with tte-retriever index, or check the path"
            )
        try:
            home.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise _locked(home) from error
        except OSError as error:
            raise StoreError(f"the store directory {str(home)!r} cannot be used: {error.strerror or error}") from error
        try:
            self._load()
        except BaseException:
            self.close()
            raise

    @property
    def spec(self) -> CollectionSpec | None:
        """What the collection holds."""
        return self._spec

    @property
    def home(self) -> Path:
        """The store's directory."""
        return self._home

    def ensure(self, spec: CollectionSpec) -> None:
        """Make the collection, or check that it is of the same model."""
        self._require_open()
        if self._spec is not None:
            checks.check_same_model(self._spec, spec, f"the store in {str(self._home)!r}")
            return
        # A fresh name each time: what an interrupted attempt left is never mistaken for a whole shard.
        shard = f"{_SHARDS}/{uuid.uuid4().hex[:12]}"
        config = edge.EdgeConfig(
            vectors=edge.EdgeVectorParams(size=spec.dim, distance=edge.Distance.Cosine), wal_enabled=True
        )
        with self._engine_errors():
            (self._home / shard).parent.mkdir(exist_ok=True)
            self._shard = edge.EdgeShard.create(str(self._home / shard), config)
            for field, kind in PAYLOAD_FIELDS.items():  # before any point: the index is built with its fields in mind
                self._shard.update(edge.UpdateOperation.create_field_index(field, _INDEX_TYPES[kind]))
            self._shard.flush()
            write_manifest(self._home, Manifest(spec, shard))
        self._spec = spec

    def upsert(self, points: Sequence[Point]) -> None:
        """Write points, durably."""
        shard, spec = self._collection()
        checks.check_points(points, spec.dim)
        with self._engine_errors():
            # The write-ahead log survives the death of the process, the flush also that of the machine.
            shard.update(
                edge.UpdateOperation.upsert_points(
                    [edge.Point(p.id, p.vector.astype("float32").tolist(), p.payload) for p in points]
                )
            )
            shard.flush()

    def search(self, vector: np.ndarray, limit: int, filter: Filter | None = None) -> list[Hit]:
        """The points nearest to ``vector``."""
        shard, spec = self._collection()
        checks.check_limit(limit)
        query = edge.Query.Nearest(checks.check_vector(vector, spec.dim, "the query").tolist())
        request = edge.QueryRequest(
            limit=limit, query=query, filter=compile_filter(filter, _DIALECT), with_payload=True
        )
        with self._engine_errors():
            return [Hit(str(found.id), found.score, found.payload or {}) for found in shard.query(request)]

    def exists(self, ids: Sequence[str]) -> set[str]:
        """Those of ``ids`` that are there."""
        shard, _ = self._collection()
        with self._engine_errors():
            return {str(record.id) for record in shard.retrieve(list(ids), with_payload=False, with_vector=False)}

    def count(self, filter: Filter | None = None) -> int:
        """How many points match."""
        shard, _ = self._collection()
        request = edge.CountRequest(filter=compile_filter(filter, _DIALECT), exact=True)
        with self._engine_errors():
            return shard.count(request)

    def delete(self, ids: Sequence[str] | None = None, *, filter: Filter | None = None) -> None:
        """Delete points by id or by filter."""
        shard, _ = self._collection()
        wanted = compile_filter(filter, _DIALECT)
        checks.check_selection(ids, wanted)
        operation = (
            edge.UpdateOperation.delete_points(list(ids or ()))
            if wanted is None
            else edge.UpdateOperation.delete_points_by_filter(wanted)
        )
        with self._engine_errors():
            shard.update(operation)
            shard.flush()

    def finalize(self) -> None:
        """Build the index; holds the interpreter for about a millisecond per new vector of a large collection."""
        shard, _ = self._collection()
        with self._engine_errors():
            shard.optimize()

    def close(self) -> None:
        """Close the shard and release the lock."""
        try:
            if self._shard is not None:
                shard, self._shard = self._shard, None
                with self._engine_errors():
                    shard.close()
        finally:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _load(self) -> None:
        manifest = read_manifest(self._home)
        if manifest is not None:
            with self._engine_errors():
                self._shard = edge.EdgeShard.load(str(self._home / manifest.shard))
            self._spec = manifest.spec
            return
        foreign = {path.name for path in self._home.iterdir()} - {_LOCK, _SHARDS, f"{MANIFEST}.new"}
        if foreign:
            raise StoreError(
                f"the directory {str(self._home)!r} is no store (it has no {MANIFEST}) and holds other files, such as "
                f"{min(foreign)!r}; give an empty or a new directory"
            )

    def _collection(self) -> tuple[edge.EdgeShard, CollectionSpec]:
        self._require_open()
        if self._shard is None or self._spec is None:
            raise StoreNotFound(f"the store in {str(self._home)!r} holds nothing yet; index something first")
        return self._shard, self._spec

    def _require_open(self) -> None:
        if not self._lock.is_locked:
            raise StoreError(f"the store in {str(self._home)!r} is closed; open it again")

    @contextmanager
    def _engine_errors(self) -> Iterator[None]:
        try:
            yield
        except TTEError:
            raise
        except Exception as error:  # the engine raises bare Exceptions
            if "WouldBlock" in str(error):
                raise _locked(self._home) from error
            raise StoreError(f"the store in {str(self._home)!r} failed: {error}") from error


def _locked(home: Path) -> StoreLocked:
    message = f"the store in {str(home)!r} is in use by another process; wait for it to end or stop it, then try again"
    return StoreLocked(message)
