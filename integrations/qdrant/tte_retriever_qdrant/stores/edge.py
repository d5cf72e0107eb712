"""Qdrant's own engine in this process, one directory per store.

One process at a time may have a generation open: one process fills the next generation while another searches the current.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import qdrant_edge as edge

from tte_retriever_qdrant.errors import StoreError, StoreNotFound
from tte_retriever_qdrant.filters import Dialect, compile_filter
from tte_retriever_qdrant.records import Hit, Point
from tte_retriever_qdrant.stores import checks, indexing
from tte_retriever_qdrant.stores.directory import Directory, missing
from tte_retriever_qdrant.stores.manifest import Generation, Manifest, read_manifest, write_manifest
from tte_retriever_qdrant.stores.protocol import GenerationalStore
from tte_retriever_qdrant.stores.shards import indexed_copy, is_worth_indexing, remove_other_shards

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    import filelock
    import numpy as np

    from tte_retriever_qdrant.filters import Filter
    from tte_retriever_qdrant.records import CollectionSpec, Role

_DIALECT = Dialect(edge.Filter, edge.FieldCondition, edge.MatchAny, edge.RangeFloat)
_EXACT = edge.SearchParams(exact=True, quantization=edge.QuantizationSearchParams(ignore=True))
_INDEXED = edge.SearchParams(
    hnsw_ef=indexing.HNSW_EF,
    quantization=edge.QuantizationSearchParams(rescore=True, oversampling=indexing.OVERSAMPLING),
)


class EdgeStore(GenerationalStore):
    """A store in a directory; see :func:`open_store` for what it raises."""

    def __init__(self, folder: Path, *, create: bool = True, role: Role = "current") -> None:
        self._directory = Directory(folder)
        self._role: Role = role
        self._generation: Generation | None = None
        self._shard: edge.EdgeShard | None = None
        self._lock: filelock.FileLock | None = None
        self._open = True
        self._writing = threading.RLock()
        self._is_sole_writer = False
        self._directory.prepare(create=create)
        try:
            self._attach()
            if self._generation is None and not create:
                raise missing(folder)
        except BaseException:
            self.close()
            raise

    @property
    def spec(self) -> CollectionSpec | None:
        """What the collection holds."""
        return self._generation.spec if self._generation else None

    @property
    def is_copy(self) -> bool:
        """Whether this is a copy of the current generation that waits for its commit."""
        return self._role == "update" and self._shard is not None

    @property
    def state_dir(self) -> Path:
        """The generation's directory."""
        return self._directory.of(self._require_generation().name)

    def ensure(self, spec: CollectionSpec) -> None:
        """Make the collection, or check that it holds vectors of the same model."""
        self._require_open()
        checks.check_prefix(spec)
        if self._generation is None:
            with self._directory.changing() as manifest:
                if getattr(manifest, self._role) is None:  # another process may have made it since
                    made = replace(manifest, **{self._role: self._directory.make(spec)})
                    write_manifest(self._directory.path, made)
            self._attach()
        checks.check_same_spec(self._require_generation().spec, spec, self._directory.label)

    def begin_update(self) -> None:
        """Copy the current generation and switch to the copy; readers of the original may come and go meanwhile."""
        if self._role != "update" or self._shard is not None:
            return
        with self._writing:
            self._require_open()
            if self._shard is None:
                held = self._require_generation()
                with self._directory.changing() as manifest:
                    if manifest.update is not None or manifest.current is None or manifest.current.name != held.name:
                        raise StoreError(
                            f"{self._directory.label} was changed by another process meanwhile; run this again"
                        )
                    copied = self._directory.copy(manifest.current)
                    write_manifest(self._directory.path, replace(manifest, update=copied))
                self._attach()

    def upsert(self, points: Sequence[Point]) -> None:
        """Write points; they are durable on return."""
        _, generation = self._require()
        checks.check_points(points, generation.spec)
        self._update(
            edge.UpdateOperation.upsert_points(
                [edge.Point(p.id, indexing.to_stored(p.vector, generation.spec), p.payload) for p in points]
            )
        )

    def query_batch(
        self, vectors: Iterable[np.ndarray], limit: int, filter: Filter | None = None, *, exact: bool = False
    ) -> list[list[Hit]]:
        """The points nearest to each of ``vectors``."""
        shard, generation = self._require()
        checks.check_limit(limit)
        wanted = compile_filter(filter, _DIALECT)
        spec = generation.spec
        requests = [
            _request(checks.check_vector(vector, spec.dim, "the query"), spec, limit, wanted, exact=exact)
            for vector in vectors
        ]
        with self._directory.engine_errors():
            answers = shard.query_batch(edge.QueryBatchRequest(requests)) if requests else []
        return [[Hit(str(found.id), found.score, found.payload or {}) for found in answer] for answer in answers]

    def scroll(self) -> Iterator[Point]:
        """Every point."""
        shard, generation = self._require()
        page: Any = None  # the id of the first point on the next page
        while True:
            request = edge.ScrollRequest(limit=indexing.SCROLL_PAGE, offset=page, with_payload=True, with_vector=True)
            with self._directory.engine_errors():
                records, page = shard.scroll(request)
            for record in records:
                yield Point(str(record.id), indexing.from_stored(record.vector, generation.spec), record.payload or {})
            if page is None:
                return

    def exists(self, ids: Sequence[str]) -> set[str]:
        """Those of ``ids`` that are in the collection."""
        shard, _ = self._require()
        with self._directory.engine_errors():
            return {str(record.id) for record in shard.retrieve(list(ids), with_payload=False, with_vector=False)}

    def count(self, filter: Filter | None = None) -> int:
        """The exact number of points that match."""
        shard, _ = self._require()
        request = edge.CountRequest(filter=compile_filter(filter, _DIALECT), exact=True)
        with self._directory.engine_errors():
            return shard.count(request)

    def delete(self, ids: Sequence[str] | None = None, *, filter: Filter | None = None) -> None:
        """Delete points by id or by filter."""
        self._require()
        wanted = compile_filter(filter, _DIALECT)
        checks.check_selection(ids, wanted)
        self._update(
            edge.UpdateOperation.delete_points(list(ids or ()))
            if wanted is None
            else edge.UpdateOperation.delete_points_by_filter(wanted)
        )

    def finalize(self) -> None:
        """Index a copy in a child process and switch to it; searches continue, writes wait."""
        with self._writing, self._directory.engine_errors():
            shard, generation = self._require()
            if not is_worth_indexing(shard, generation.spec):
                return
            shard.flush()
            indexed = replace(generation, shard=indexed_copy(self.state_dir, generation.shard))
            fresh = edge.EdgeShard.load(str(self.state_dir / indexed.shard))
            with self._directory.changing() as manifest:
                roles = vars(manifest).items()
                write_manifest(
                    self._directory.path,
                    Manifest(**{role: indexed if held == generation else held for role, held in roles}),
                )
            # The old shard is not closed here: a running search may still use it, and the last reference closes it.
            self._generation, self._shard = indexed, fresh
            remove_other_shards(self.state_dir, indexed.shard)

    def begin_generation(self, spec: CollectionSpec) -> EdgeStore:
        """Open the next generation."""
        self._require_open()
        return begin_generation(self._directory.path, spec)

    def commit(self) -> None:
        """Make this generation the current one."""
        self._require_open()
        with self._directory.changing() as manifest:
            held = getattr(manifest, self._role)
            if self._role == "current" or self._generation is None or held != self._generation:
                raise checks.not_begun(self._directory.label)
            self._directory.swap_in(self._role, manifest)
            self._role = "current"

    def rollback(self) -> None:
        """Make the generation before the last commit the current one."""
        self._require_open()
        self._directory.rollback()

    def close(self) -> None:
        """Close the shard and release the lock, after the running writes."""
        with self._writing:
            self._open = False
            shard, self._shard = self._shard, None
            try:
                if shard is not None:
                    with self._directory.engine_errors():
                        shard.close()
            finally:
                if self._lock is not None:
                    self._lock.release()

    def _attach(self) -> None:
        """Lock and load the generation that has the role now; the store keeps it from then on."""
        found = self._directory.lock_generation(self._role)
        if found is None:
            self._lock = self._directory.lock_none_yet()
            if self._role == "update":  # the one to be copied
                self._generation = (read_manifest(self._directory.path) or Manifest()).current
            return
        if self._lock is not None:  # the one for a generation that did not exist
            self._lock.release()
        generation, self._lock = found
        folder = self._directory.of(generation.name)
        remove_other_shards(folder, generation.shard)
        with self._directory.engine_errors():
            self._shard = edge.EdgeShard.load(str(folder / generation.shard))
        self._generation = generation

    def _update(self, operation: edge.UpdateOperation) -> None:
        with self._writing, self._directory.engine_errors():
            shard, _ = self._require()
            self._become_sole_writer()
            # The write-ahead log survives a killed process; the flush also survives a power cut.
            shard.update(operation)
            shard.flush()

    def _become_sole_writer(self) -> None:
        """Drop an unfinished update: writing to this generation makes its copy out of date."""
        if self._role == "current" and not self._is_sole_writer:
            with self._directory.changing() as manifest:
                self._directory.require_no_update(manifest)
                if manifest.update is not None:
                    self._directory.settle(replace(manifest, update=None))
        self._is_sole_writer = True  # no update can begin while this generation is open

    def _require(self) -> tuple[edge.EdgeShard, Generation]:
        self.begin_update()
        held, shard = self._require_generation(), self._shard
        if shard is None:
            raise self._closed()  # another thread has just closed it
        return shard, held

    def _require_generation(self) -> Generation:
        self._require_open()
        if self._generation is None:
            raise StoreNotFound(f"{self._directory.label} holds nothing yet; index something first")
        return self._generation

    def _require_open(self) -> None:
        if not self._open:
            raise self._closed()

    def _closed(self) -> StoreError:
        return StoreError(f"{self._directory.label} is closed; open it again")


def begin_generation(folder: Path, spec: CollectionSpec) -> EdgeStore:
    """Open the next generation of the store in ``folder``; the current one may be in use."""
    checks.check_prefix(spec)
    directory = Directory(folder)
    directory.prepare(create=True)
    with directory.changing() as manifest:
        if manifest.next is None or not checks.is_same_model(manifest.next.spec, spec):
            directory.require_unused(manifest.next)  # a process may be filling it
            directory.settle(replace(manifest, next=directory.make(spec)))
        else:
            checks.check_same_spec(manifest.next.spec, spec, f"the next generation of {directory.label}")
    return EdgeStore(folder, role="next")


def open_update(folder: Path, spec: CollectionSpec) -> EdgeStore:
    """Open the store in ``folder`` for an update: the first use copies the current generation, if there is one.

    A copy that was not committed is resumed.
    """
    checks.check_prefix(spec)
    directory = Directory(folder)
    directory.prepare(create=True)
    with directory.changing() as manifest:
        if manifest.current is not None:
            checks.check_same_spec(manifest.current.spec, spec, directory.label)
            if manifest.update is None:
                directory.require_unused(manifest.current)  # fail now and not when it is copied
    return EdgeStore(folder, role="current" if manifest.current is None else "update")


def _request(
    vector: np.ndarray, spec: CollectionSpec, limit: int, filter: edge.Filter | None, *, exact: bool
) -> edge.QueryRequest:
    full, found = vector.tolist(), None
    if spec.prefix and not exact:
        nearest = edge.Query.Nearest(full[: spec.prefix], using=indexing.PREFIX)
        found = [edge.Prefetch(limit=indexing.candidates(limit), query=nearest, filter=filter, params=_INDEXED)]
    return edge.QueryRequest(
        limit=limit,
        query=edge.Query.Nearest(full, using=indexing.FULL if spec.prefix else None),
        prefetches=found,
        filter=filter,
        params=_EXACT if exact or found else _INDEXED,  # candidates are scored with the original vectors
        with_payload=True,
    )
