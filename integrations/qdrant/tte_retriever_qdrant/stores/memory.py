"""A collection in memory, by brute force: for tests and for folders that fit a lunch break."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from qdrant_client import QdrantClient, models

from tte_retriever.errors import TTEError
from tte_retriever_qdrant.errors import StoreError, StoreNotFound
from tte_retriever_qdrant.filters import Dialect, compile_filter
from tte_retriever_qdrant.records import Hit
from tte_retriever_qdrant.stores import checks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    import numpy as np
    from typing_extensions import Self

    from tte_retriever_qdrant.filters import Filter
    from tte_retriever_qdrant.records import CollectionSpec, Point

_COLLECTION = "points"
_DIALECT = Dialect(models.Filter, models.FieldCondition, lambda texts: models.MatchAny(any=texts), models.Range)


class MemoryStore:
    """A :class:`~tte_retriever_qdrant.stores.VectorStore` that is gone when it is closed."""

    def __init__(self) -> None:
        self._client: QdrantClient | None = QdrantClient(":memory:")
        self._folder = tempfile.TemporaryDirectory(prefix="tte-memory-store-")
        self._spec: CollectionSpec | None = None

    @property
    def spec(self) -> CollectionSpec | None:
        """What the collection holds."""
        return self._spec

    @property
    def home(self) -> Path:
        """A temporary directory."""
        return Path(self._folder.name)

    def ensure(self, spec: CollectionSpec) -> None:
        """Make the collection, or check that it is of the same model."""
        client = self._require_open()
        if self._spec is not None:
            checks.check_same_model(self._spec, spec, "the store in memory")
            return
        parameters = models.VectorParams(size=spec.dim, distance=models.Distance.COSINE)
        with _engine_errors():
            client.create_collection(_COLLECTION, vectors_config=parameters)
        self._spec = spec

    def upsert(self, points: Sequence[Point]) -> None:
        """Write points."""
        client, spec = self._collection()
        checks.check_points(points, spec.dim)
        if not points:
            return
        records = [models.PointStruct(id=p.id, vector=p.vector.tolist(), payload=p.payload) for p in points]
        with _engine_errors():
            client.upsert(_COLLECTION, records, wait=True)

    def search(self, vector: np.ndarray, limit: int, filter: Filter | None = None) -> list[Hit]:
        """The points nearest to ``vector``."""
        client, spec = self._collection()
        checks.check_limit(limit)
        query = checks.check_vector(vector, spec.dim, "the query").tolist()
        wanted = compile_filter(filter, _DIALECT)
        with _engine_errors():
            found = client.query_points(_COLLECTION, query=query, query_filter=wanted, limit=limit, with_payload=True)
        return [Hit(str(point.id), point.score, point.payload or {}) for point in found.points]

    def exists(self, ids: Sequence[str]) -> set[str]:
        """Those of ``ids`` that are there."""
        client, _ = self._collection()
        with _engine_errors():
            return {str(point.id) for point in client.retrieve(_COLLECTION, list(ids), with_payload=False)}

    def count(self, filter: Filter | None = None) -> int:
        """How many points match."""
        client, _ = self._collection()
        wanted = compile_filter(filter, _DIALECT)
        with _engine_errors():
            return client.count(_COLLECTION, count_filter=wanted, exact=True).count

    def delete(self, ids: Sequence[str] | None = None, *, filter: Filter | None = None) -> None:
        """Delete points by id or by filter."""
        client, _ = self._collection()
        wanted = compile_filter(filter, _DIALECT)
        checks.check_selection(ids, wanted)
        if ids is not None and not ids:  # the client takes an empty list for a mistake
            return
        with _engine_errors():
            client.delete(_COLLECTION, list(ids or ()) if wanted is None else models.FilterSelector(filter=wanted))

    def finalize(self) -> None:
        """There is no index to build."""
        self._collection()

    def close(self) -> None:
        """Forget everything."""
        if self._client is not None:
            self._client.close()
            self._client = None
            self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _require_open(self) -> QdrantClient:
        if self._client is None:
            raise StoreError("the store in memory is closed, and what it held is gone; open a new one")
        return self._client

    def _collection(self) -> tuple[QdrantClient, CollectionSpec]:
        client = self._require_open()
        if self._spec is None:
            raise StoreNotFound("the store in memory holds nothing yet; index something first")
        return client, self._spec


@contextmanager
def _engine_errors() -> Iterator[None]:
    try:
        yield
    except TTEError:
        raise
    except Exception as error:
        raise StoreError(f"the store in memory failed: {error}") from error
