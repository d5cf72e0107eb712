"""A store behind ``qdrant-client``: a server, or the client's own search in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qdrant_client import models

from tte_retriever_qdrant.errors import StoreError, StoreNotFound
from tte_retriever_qdrant.filters import Dialect, compile_filter
from tte_retriever_qdrant.records import Hit, Point
from tte_retriever_qdrant.stores import checks, indexing
from tte_retriever_qdrant.stores.protocol import GenerationalStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from qdrant_client import QdrantClient

    from tte_retriever_qdrant.filters import Filter
    from tte_retriever_qdrant.records import CollectionSpec
    from tte_retriever_qdrant.stores.connection import Connection

_POINTS_PER_REQUEST = 128  # 10 MB of JSON at 4096 dimensions; a server takes 32
_DIALECT = Dialect(models.Filter, models.FieldCondition, lambda texts: models.MatchAny(any=texts), models.Range)
_EXACT = models.SearchParams(exact=True, quantization=models.QuantizationSearchParams(ignore=True))
_INDEXED = models.SearchParams(
    hnsw_ef=indexing.HNSW_EF,
    quantization=models.QuantizationSearchParams(rescore=True, oversampling=indexing.OVERSAMPLING),
)


class ClientStore(GenerationalStore):
    """The generation of a store behind a connection that ``alias`` names."""

    def __init__(self, connection: Connection, alias: str) -> None:
        self._connection = connection
        self._alias = alias
        self._collection: str | None = None
        self._spec: CollectionSpec | None = None
        self._open = True
        connection.users += 1
        try:
            self._attach()
        except BaseException:
            self.close()
            raise

    @property
    def spec(self) -> CollectionSpec | None:
        """What the collection holds."""
        return self._spec

    @property
    def state_dir(self) -> Path:
        """A directory on this machine."""
        _, collection, _ = self._require()
        folder = self._connection.data / collection
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            message = f"the directory {str(folder)!r} for the ledger cannot be made: {error.strerror or error}"
            raise StoreError(message) from error
        return folder

    def ensure(self, spec: CollectionSpec) -> None:
        """Make the collection, or check that it holds vectors of the same model."""
        connection = self._require_open()
        if self._spec is None:
            self._attach()  # another process may have made it meanwhile
        if self._spec is None:
            connection.point({}, {self._alias: connection.make(spec)})
            self._attach()
        if self._spec is not None:
            checks.check_same_spec(self._spec, spec, connection.label)

    def begin_update(self) -> None:
        """Do nothing: points are written in place."""

    def upsert(self, points: Sequence[Point]) -> None:
        """Write points; they are durable on return."""
        client, collection, spec = self._require()
        checks.check_points(points, spec)
        records = [
            models.PointStruct(id=p.id, vector=indexing.to_stored(p.vector, spec), payload=p.payload) for p in points
        ]
        with self._connection.errors():
            for start in range(0, len(records), _POINTS_PER_REQUEST):
                client.upsert(collection, records[start : start + _POINTS_PER_REQUEST], wait=True)

    def query_batch(
        self, vectors: Iterable[np.ndarray], limit: int, filter: Filter | None = None, *, exact: bool = False
    ) -> list[list[Hit]]:
        """The points nearest to each of ``vectors``."""
        client, collection, spec = self._require()
        checks.check_limit(limit)
        wanted = compile_filter(filter, _DIALECT)
        exactly, quickly = (_EXACT, _INDEXED) if self._connection.indexed else (None, None)
        requests = []
        for vector in vectors:
            full = checks.check_vector(vector, spec.dim, "the query").tolist()
            request = models.QueryRequest(
                query=full, filter=wanted, params=exactly if exact else quickly, limit=limit, with_payload=True
            )
            if spec.prefix:
                request.using = indexing.FULL
            if spec.prefix and not exact:
                cut, most = full[: spec.prefix], indexing.candidates(limit)
                request.prefetch = models.Prefetch(
                    query=cut, using=indexing.PREFIX, filter=wanted, params=quickly, limit=most
                )
                request.params = exactly  # candidates are scored with the original vectors
            requests.append(request)
        with self._connection.errors():
            answers = client.query_batch_points(collection, requests) if requests else []
        return [[Hit(str(found.id), found.score, found.payload or {}) for found in each.points] for each in answers]

    def scroll(self) -> Iterator[Point]:
        """Every point."""
        client, collection, spec = self._require()
        page: Any = None  # the id of the first point on the next page
        while True:
            with self._connection.errors():
                records, page = client.scroll(collection, limit=indexing.SCROLL_PAGE, offset=page, with_vectors=True)
            for record in records:
                yield Point(str(record.id), indexing.from_stored(record.vector, spec), record.payload or {})
            if page is None:
                return

    def exists(self, ids: Sequence[str]) -> set[str]:
        """Those of ``ids`` that are in the collection."""
        client, collection, _ = self._require()
        with self._connection.errors():
            return {str(point.id) for point in client.retrieve(collection, list(ids), with_payload=False)}

    def count(self, filter: Filter | None = None) -> int:
        """The exact number of points that match."""
        client, collection, _ = self._require()
        wanted = compile_filter(filter, _DIALECT)
        with self._connection.errors():
            return client.count(collection, count_filter=wanted, exact=True).count

    def delete(self, ids: Sequence[str] | None = None, *, filter: Filter | None = None) -> None:
        """Delete points by id or by filter."""
        client, collection, _ = self._require()
        wanted = compile_filter(filter, _DIALECT)
        checks.check_selection(ids, wanted)
        if ids is not None and not ids:  # the client refuses an empty list
            return
        selected = (
            models.PointIdsList(points=list(ids or ())) if wanted is None else models.FilterSelector(filter=wanted)
        )
        with self._connection.errors():
            client.delete(collection, selected, wait=True)

    def finalize(self) -> None:
        """Quantize a large collection; a server builds its index by itself, while it answers."""
        client, collection, _ = self._require()
        scalar = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, always_ram=True)
        with self._connection.errors():
            config = client.get_collection(collection).config
            if config.quantization_config is None and self.count() >= indexing.QUANTIZE_FROM:
                client.update_collection(collection, quantization_config=models.ScalarQuantization(scalar=scalar))

    def begin_generation(self, spec: CollectionSpec) -> ClientStore:
        """Open the next generation."""
        connection = self._require_open()
        aliases = connection.aliases()
        begun = aliases.get(connection.next)
        held = connection.read_spec(begun) if begun else None
        if held is not None and checks.is_same_model(held, spec):
            checks.check_same_spec(held, spec, f"the next generation of {connection.label}")
        else:
            made = connection.make(spec)
            connection.point({connection.next: begun} if begun else {}, {connection.next: made})
            if begun:
                connection.delete(begun)
        return ClientStore(connection, connection.next)

    def commit(self) -> None:
        """Make this generation the current one."""
        connection = self._require_open()
        if self._alias != connection.next or connection.aliases().get(connection.next) != self._collection:
            raise checks.not_begun(connection.label)
        connection.commit()
        self._alias = connection.name

    def rollback(self) -> None:
        """Make the generation before the last commit the current one."""
        self._require_open().rollback()

    def close(self) -> None:
        """Release the connection; the last store that uses it closes the client."""
        if self._open:
            self._open = False
            self._connection.users -= 1
            if not self._connection.users:
                self._connection.client.close()
                self._connection.release()

    def _attach(self) -> None:
        """Find the collection that the alias names; the store keeps it from then on."""
        connection = self._connection
        self._collection = connection.aliases().get(self._alias)
        if self._collection is not None:
            self._spec = connection.read_spec(self._collection)
            return
        with connection.errors():
            if connection.client.collection_exists(self._alias):
                raise StoreError(f"{connection.label} was not made by this program; choose another name")

    def _require_open(self) -> Connection:
        if not self._open:
            raise StoreError(f"{self._connection.label} is closed; open it again")
        return self._connection

    def _require(self) -> tuple[QdrantClient, str, CollectionSpec]:
        connection = self._require_open()
        if self._collection is None or self._spec is None:
            raise StoreNotFound(f"{connection.label} holds nothing yet; index something first")
        return connection.client, self._collection, self._spec
