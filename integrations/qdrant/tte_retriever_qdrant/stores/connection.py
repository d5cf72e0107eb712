"""The client and the aliases that the generations of a store behind ``qdrant-client`` share.

Three aliases name the generations of a store ``films``: ``films`` is the current one, beside ``films.previous`` and
``films.next``. The collections behind them are named ``films.<random>``. The metadata of a collection holds its
:class:`~tte_retriever_qdrant.records.CollectionSpec`, written in the step that makes the collection.
"""

from __future__ import annotations

import shutil
import uuid
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from qdrant_client import models

from tte_retriever.errors import TTEError
from tte_retriever_qdrant.errors import StoreError
from tte_retriever_qdrant.records import PAYLOAD_FIELDS, CollectionSpec, GenerationInfo
from tte_retriever_qdrant.stores import checks
from tte_retriever_qdrant.stores.indexing import FULL, PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from qdrant_client import QdrantClient

    from tte_retriever_qdrant.records import Role

_METADATA = "tte_retriever"
_INDEX_TYPES = {
    str: models.PayloadSchemaType.KEYWORD,
    int: models.PayloadSchemaType.INTEGER,
    float: models.PayloadSchemaType.FLOAT,
}


@dataclass(eq=False)
class Connection:
    """What the generations of one store share.

    Attributes:
        client: The client; it is closed with the last open generation.
        name: The store's name, which is an alias.
        label: How messages name the store.
        data: Parent of the state directories of its generations.
        indexed: Whether there are indexes; without them, the client warns of every option that concerns one.
        explain: Makes a ``StoreError`` of an exception of the client.
        release: Called after the last generation is closed.
        users: Number of open generations.
    """

    client: QdrantClient
    name: str
    label: str
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
        """Raise the client's errors as ``StoreError``."""
        try:
            yield
        except TTEError:
            raise
        except Exception as error:
            raise self.explain(error, self.label) from error

    def aliases(self) -> dict[str, str]:
        """The collections of the store's generations by alias."""
        with self.errors():
            found = self.client.get_aliases().aliases
        return {alias.alias_name: alias.collection_name for alias in found if alias.alias_name in self._roles()}

    def point(self, before: dict[str, str], after: dict[str, str]) -> None:
        """Replace the aliases ``before`` by those of ``after``, in one step."""
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
        """Make a collection; no alias names it yet."""
        checks.check_prefix(spec)
        collection = f"{self.name}.{uuid.uuid4().hex[:12]}"
        with self.errors():
            self.client.create_collection(
                collection, vectors_config=_vectors(spec), metadata={_METADATA: asdict(spec)}
            )
            if self.indexed:  # before any point: the graph takes these fields into account
                for field, kind in PAYLOAD_FIELDS.items():
                    self.client.create_payload_index(collection, field, _INDEX_TYPES[kind], wait=True)
        try:
            self.read_spec(collection)
        except StoreError:
            self.delete(collection)
            raise
        return collection

    def listed(self) -> list[GenerationInfo]:
        """The generations, the current one first."""
        aliases = self.aliases()
        return [
            GenerationInfo(role, self.read_spec(aliases[alias]), self.data / aliases[alias])
            for alias, role in self._roles().items()
            if alias in aliases
        ]

    def commit(self) -> None:
        """Make the next generation the current one."""
        aliases = self.aliases()
        if self.next not in aliases:
            raise checks.nothing_begun(self.label)
        after = {self.name: aliases[self.next]}
        if self.name in aliases:
            after[self.previous] = aliases[self.name]
        self.point(aliases, after)
        if self.previous in aliases:
            self.delete(aliases[self.previous])

    def rollback(self) -> None:
        """Make the generation before the last commit the current one."""
        aliases = self.aliases()
        if self.previous not in aliases:
            raise checks.nothing_before(self.label)
        current, previous = aliases[self.name], aliases[self.previous]
        aliases.pop(self.next, None)
        self.point(aliases, {self.name: previous, self.previous: current})

    def drop(self, role: Role) -> None:
        """Delete a generation other than the current one."""
        aliases, roles = self.aliases(), self._roles()
        held = {roles[alias]: alias for alias in roles if alias in aliases}
        if role == "current" or role not in held:
            raise checks.not_dropped(self.label, role, held)
        alias = held[role]
        self.point({alias: aliases[alias]}, {})
        self.delete(aliases[alias])

    def delete(self, collection: str) -> None:
        """Delete a collection and its state directory."""
        with self.errors():
            self.client.delete_collection(collection)
        shutil.rmtree(self.data / collection, ignore_errors=True)

    def read_spec(self, collection: str) -> CollectionSpec:
        """Read from the metadata of a collection what it holds."""
        with self.errors():
            metadata = self.client.get_collection(collection).config.metadata or {}
        try:
            return CollectionSpec(**metadata[_METADATA])
        except (KeyError, TypeError) as error:
            raise StoreError(
                f"{self.label} does not name its model: the collection {collection!r} has no such metadata; use a server of "
                "version 1.16 or newer and a collection that was made by this program"
            ) from error

    def _roles(self) -> dict[str, Role]:
        return {self.name: "current", self.previous: "previous", self.next: "next"}


def _vectors(spec: CollectionSpec) -> models.VectorParams | dict[str, models.VectorParams]:
    if not spec.prefix:
        return models.VectorParams(size=spec.dim, distance=models.Distance.COSINE)
    no_graph = models.HnswConfigDiff(m=0)
    return {
        FULL: models.VectorParams(size=spec.dim, distance=models.Distance.COSINE, hnsw_config=no_graph),
        PREFIX: models.VectorParams(size=spec.prefix, distance=models.Distance.COSINE),
    }
