"""A store behind ``qdrant-client``: a server, or the client's own search in memory.

A store named ``films`` is three aliases, which are all that its generations are told apart by: ``films`` the current
one, ``films.previous`` and ``films.next``. The collections that they stand for are named ``films.<random>`` and carry
what they hold in their metadata, which is written in the same step that makes them.
"""

from __future__ import annotations

import shutil
import uuid
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from qdrant_client import models

from tte_retriever.errors import TTEError
from tte_retriever_qdrant.errors import StoreError, StoreNotFound
from tte_retriever_qdrant.filters import Dialect, compile_filter
from tte_retriever_qdrant.records import PAYLOAD_FIELDS, CollectionSpec, Hit
from tte_retriever_qdrant.stores import checks
from tte_retriever_qdrant.stores.protocol import HNSW_EF, OVERSAMPLING, QUANTIZE_FROM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    import numpy as np
    from qdrant_client import QdrantClient
    from typing_extensions import Self

    from tte_retriever_qdrant.filters import Filter
    from tte_retriever_qdrant.records import Point

_METADATA = "tte_retriever"
_POINTS_PER_REQUEST = 128  # 10 MB of JSON at 4096 dimensions; a server takes 32
_INDEX_TYPES = {
    str: models.PayloadSchemaType.KEYWORD,
    int: models.PayloadSchemaType.INTEGER,
    float: models.PayloadSchemaType.FLOAT,
}
_DIALECT = Dialect(models.Filter, models.FieldCondition, lambda texts: models.MatchAny(any=texts), models.Range)
_EXACT = models.SearchParams(exact=True, quantization=models.QuantizationSearchParams(ignore=True))
_INDEXED = models.SearchParams(
    hnsw_ef=HNSW_EF, quantization=models.QuantizationSearchParams(rescore=True, oversampling=OVERSAMPLING)
)


@dataclass(eq=False)
class Connection:
    """What the generations of one store share.

    Attributes:
        client: The client, which is closed with the last generation.
        name: The store's name, an alias.
        where: The store in words.
        data: Directory for the homes of its generations.
        indexed: Whether there are indexes; without, the client warns of everything that speaks of them.
        explain: Turns what the client raises into an error of ours.
        release: Is called after the last generation was closed.
        users: How many generations are open.
    """

    client: QdrantClient
    name: str
    where: str
    data: Path
    indexed: bool
    explain: Callable[[Exception, str], TTEError]
    release: Callable[[], None]
    users: int = 0

    @property
    def previous(self) -> str:
        """Alias of the generation before the last commit."""
        return f"{self.name}.previous"

    @property
    def next(self) -> str:
        """Alias of the generation that is being filled."""
        return f"{self.name}.next"

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Raise errors of ours only."""
        try:
            yield
        except TTEError:
            raise
        except Exception as error:
            raise self.explain(error, self.where) from error

    def aliases(self) -> dict[str, str]:
        """The collections of the store's generations by alias."""
        ours = (self.name, self.previous, self.next)
        with self.errors():
            found = self.client.get_aliases().aliases
        return {alias.alias_name: alias.collection_name for alias in found if alias.alias_name in ours}

    def point(self, before: dict[str, str], after: dict[str, str]) -> None:
        """Change the aliases, all at once."""
        operations: list[models.AliasOperations] = [
            models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias)) for alias in before
        ]
        operations += [
            models.CreateAliasOperation(create_alias=models.CreateAlias(collection_name=collection, alias_name=alias))
            for alias, collection in after.items()
        ]
        with self.errors():
            self.client.update_collection_aliases(operations)

    def make(self, spec: CollectionSpec) -> str:
        """Make a collection that no alias stands for yet."""
        collection = f"{self.name}.{uuid.uuid4().hex[:12]}"
        with self.errors():
            self.client.create_collection(
                collection,
                vectors_config=models.VectorParams(size=spec.dim, distance=models.Distance.COSINE),
                metadata={_METADATA: asdict(spec)},
            )
            if self.indexed:  # before any point: the index is built with its fields in mind
                for field, kind in PAYLOAD_FIELDS.items():
                    self.client.create_payload_index(collection, field, _INDEX_TYPES[kind], wait=True)
        try:
            self.read_spec(collection)
        except StoreError:
            self.drop(collection)
            raise
        return collection

    def drop(self, collection: str) -> None:
        """Delete a collection and what was kept beside it."""
        with self.errors():
            self.client.delete_collection(collection)
        shutil.rmtree(self.data / collection, ignore_errors=True)

    def read_spec(self, collection: str) -> CollectionSpec:
        """What a collection says that it holds."""
        with self.errors():
            metadata = self.client.get_collection(collection).config.metadata or {}
        try:
            return CollectionSpec(**metadata[_METADATA])
        except (KeyError, TypeError) as error:
            raise StoreError(
                f"{self.where} does not say of which model it is: the collection {collection!r} has no such metadata; "
                "use a server of version 1.16 or newer, and a collection that was made by this program"
            ) from error


class ClientStore:
    """A :class:`~tte_retriever_qdrant.stores.VectorStore` behind a connection; ``alias`` says which generation."""

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
    def home(self) -> Path:
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
        """Make the collection, or check that it is of the same model."""
        connection = self._require_open()
        if self._spec is None:
            self._attach()  # another process may have made it since
        if self._spec is None:
            connection.point({}, {self._alias: connection.make(spec)})
            self._attach()
        if self._spec is not None:
            checks.check_same_model(self._spec, spec, connection.where)

    def upsert(self, points: Sequence[Point]) -> None:
        """Write points, durably."""
        client, collection, spec = self._require()
        checks.check_points(points, spec.dim)
        records = [models.PointStruct(id=p.id, vector=p.vector.tolist(), payload=p.payload) for p in points]
        with self._connection.errors():
            for start in range(0, len(records), _POINTS_PER_REQUEST):
                client.upsert(collection, records[start : start + _POINTS_PER_REQUEST], wait=True)

    def search(
        self, vector: np.ndarray, limit: int, filter: Filter | None = None, *, exact: bool = False
    ) -> list[Hit]:
        """The points nearest to ``vector``."""
        return self.query_batch([vector], limit, filter, exact=exact)[0]

    def query_batch(
        self, vectors: Iterable[np.ndarray], limit: int, filter: Filter | None = None, *, exact: bool = False
    ) -> list[list[Hit]]:
        """The points nearest to each of ``vectors``."""
        client, collection, spec = self._require()
        checks.check_limit(limit)
        wanted = compile_filter(filter, _DIALECT)
        params = (_EXACT if exact else _INDEXED) if self._connection.indexed else None
        requests = [
            models.QueryRequest(
                query=checks.check_vector(vector, spec.dim, "the query").tolist(),
                filter=wanted,
                params=params,
                limit=limit,
                with_payload=True,
            )
            for vector in vectors
        ]
        if not requests:
            return []
        with self._connection.errors():
            answers = client.query_batch_points(collection, requests)
        return [
            [Hit(str(point.id), point.score, point.payload or {}) for point in answer.points] for answer in answers
        ]

    def exists(self, ids: Sequence[str]) -> set[str]:
        """Those of ``ids`` that are there."""
        client, collection, _ = self._require()
        with self._connection.errors():
            return {str(point.id) for point in client.retrieve(collection, list(ids), with_payload=False)}

    def count(self, filter: Filter | None = None) -> int:
        """How many points match."""
        client, collection, _ = self._require()
        wanted = compile_filter(filter, _DIALECT)
        with self._connection.errors():
            return client.count(collection, count_filter=wanted, exact=True).count

    def delete(self, ids: Sequence[str] | None = None, *, filter: Filter | None = None) -> None:
        """Delete points by id or by filter."""
        client, collection, _ = self._require()
        wanted = compile_filter(filter, _DIALECT)
        checks.check_selection(ids, wanted)
        if ids is not None and not ids:  # the client takes an empty list for a mistake
            return
        selected = (
            models.PointIdsList(points=list(ids or ())) if wanted is None else models.FilterSelector(filter=wanted)
        )
        with self._connection.errors():
            client.delete(collection, selected, wait=True)

    def finalize(self) -> None:
        """Have large collections quantized; a server builds its index by itself, while it answers."""
        client, collection, _ = self._require()
        scalar = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, always_ram=True)
        with self._connection.errors():
            if client.get_collection(collection).config.quantization_config is None and self.count() >= QUANTIZE_FROM:
                client.update_collection(collection, quantization_config=models.ScalarQuantization(scalar=scalar))

    def begin_generation(self, spec: CollectionSpec) -> ClientStore:
        """Open the next generation."""
        connection = self._require_open()
        aliases = connection.aliases()
        begun = aliases.get(connection.next)
        if begun is None or not checks.is_same_model(connection.read_spec(begun), spec):
            made = connection.make(spec)
            connection.point({connection.next: begun} if begun else {}, {connection.next: made})
            if begun:
                connection.drop(begun)
        return ClientStore(connection, connection.next)

    def commit(self) -> None:
        """Make this generation the current one."""
        connection = self._require_open()
        aliases = connection.aliases()
        if self._alias != connection.next or aliases.get(connection.next) != self._collection:
            raise checks.not_begun(connection.where)
        after = {connection.name: aliases[connection.next]}
        if connection.name in aliases:
            after[connection.previous] = aliases[connection.name]
        connection.point(aliases, after)
        self._alias = connection.name
        if connection.previous in aliases:
            connection.drop(aliases[connection.previous])

    def rollback(self) -> None:
        """Make the generation before the last commit the current one."""
        connection = self._require_open()
        aliases = connection.aliases()
        if connection.previous not in aliases:
            raise checks.nothing_before(connection.where)
        current, previous = aliases[connection.name], aliases[connection.previous]
        aliases.pop(connection.next, None)
        connection.point(aliases, {connection.name: previous, connection.previous: current})

    def close(self) -> None:
        """Let go of the connection."""
        if self._open:
            self._open = False
            self._connection.users -= 1
            if not self._connection.users:
                self._connection.client.close()
                self._connection.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _attach(self) -> None:
        """Find the collection that the alias stands for, and stay with it."""
        connection = self._connection
        self._collection = connection.aliases().get(self._alias)
        if self._collection is not None:
            self._spec = connection.read_spec(self._collection)
            return
        with connection.errors():
            if connection.client.collection_exists(self._alias):
                raise StoreError(f"{connection.where} was not made by this program; choose another name")

    def _require_open(self) -> Connection:
        if not self._open:
            raise StoreError(f"{self._connection.where} is closed; open it again")
        return self._connection

    def _require(self) -> tuple[QdrantClient, str, CollectionSpec]:
        connection = self._require_open()
        if self._collection is None or self._spec is None:
            raise StoreNotFound(f"{connection.where} holds nothing yet; index something first")
        return connection.client, self._collection, self._spec
