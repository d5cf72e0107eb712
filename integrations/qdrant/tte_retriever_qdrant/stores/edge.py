"""Qdrant's own engine in this process, one directory per store.

The directory holds ``tte-store.json`` (the manifest), a lock for changing it, and ``generations/``: for each a directory
with the engine's files and what ingestion keeps beside the vectors, and a lock. One process at a time may have a
generation open, so one fills the next generation while another searches the current one.
"""

from __future__ import annotations

import shutil
import threading
import uuid
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, TypeAlias

import filelock
import qdrant_edge as edge

from tte_retriever.errors import TTEError
from tte_retriever_qdrant.errors import StoreError, StoreLocked, StoreNotFound
from tte_retriever_qdrant.filters import Dialect, compile_filter
from tte_retriever_qdrant.records import Hit
from tte_retriever_qdrant.stores import checks
from tte_retriever_qdrant.stores.manifest import MANIFEST, Generation, Manifest, read_manifest, write_manifest
from tte_retriever_qdrant.stores.protocol import HNSW_EF, OVERSAMPLING
from tte_retriever_qdrant.stores.shards import indexed_copy, is_worth_indexing, make_shard, remove_other_shards

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    import numpy as np
    from typing_extensions import Self

    from tte_retriever_qdrant.filters import Filter
    from tte_retriever_qdrant.records import CollectionSpec, Point

Role: TypeAlias = Literal["current", "next"]

_LOCK = ".lock"
_GENERATIONS = "generations"
_NONE_YET = "none-yet"  # is locked in place of a generation by who opens a store without one
_PATIENCE_S = 30  # another process needs the manifest for as long as it takes to make an empty shard
_DIALECT = Dialect(edge.Filter, edge.FieldCondition, edge.MatchAny, edge.RangeFloat)
_EXACT = edge.SearchParams(exact=True, quantization=edge.QuantizationSearchParams(ignore=True))
_INDEXED = edge.SearchParams(
    hnsw_ef=HNSW_EF, quantization=edge.QuantizationSearchParams(rescore=True, oversampling=OVERSAMPLING)
)


class EdgeStore:
    """A :class:`~tte_retriever_qdrant.stores.VectorStore` in a directory; see :func:`open_store` for what it raises."""

    def __init__(self, home: Path, *, create: bool = True, role: Role = "current") -> None:
        self._directory = _Directory(home)
        self._role: Role = role
        self._generation: Generation | None = None
        self._shard: edge.EdgeShard | None = None
        self._lock: filelock.FileLock | None = None
        self._open = True
        self._writing = threading.RLock()
        self._directory.prepare(create=create)
        try:
            self._attach()
        except BaseException:
            self.close()
            raise
        if self._generation is None and not create:
            raise _missing(home)

    @property
    def spec(self) -> CollectionSpec | None:
        """What the collection holds."""
        return self._generation.spec if self._generation else None

    @property
    def home(self) -> Path:
        """The generation's directory."""
        _, generation = self._collection()
        return self._directory.of(generation.name)

    def ensure(self, spec: CollectionSpec) -> None:
        """Make the collection, or check that it is of the same model."""
        self._require_open()
        if self._generation is None:
            with self._directory.changing() as manifest:
                if getattr(manifest, self._role) is None:  # another process may have made it since
                    made = replace(manifest, **{self._role: self._directory.make(spec)})
                    write_manifest(self._directory.home, made)
            self._attach()
        _, generation = self._collection()
        checks.check_same_model(generation.spec, spec, self._directory.where)

    def upsert(self, points: Sequence[Point]) -> None:
        """Write points, durably."""
        _, generation = self._collection()
        checks.check_points(points, generation.spec.dim)
        self._update(
            edge.UpdateOperation.upsert_points(
                [edge.Point(p.id, p.vector.astype("float32").tolist(), p.payload) for p in points]
            )
        )

    def search(
        self, vector: np.ndarray, limit: int, filter: Filter | None = None, *, exact: bool = False
    ) -> list[Hit]:
        """The points nearest to ``vector``."""
        return self.query_batch([vector], limit, filter, exact=exact)[0]

    def query_batch(
        self, vectors: Iterable[np.ndarray], limit: int, filter: Filter | None = None, *, exact: bool = False
    ) -> list[list[Hit]]:
        """The points nearest to each of ``vectors``."""
        shard, generation = self._collection()
        checks.check_limit(limit)
        wanted = compile_filter(filter, _DIALECT)
        requests = [
            edge.QueryRequest(
                limit=limit,
                query=edge.Query.Nearest(checks.check_vector(vector, generation.spec.dim, "the query").tolist()),
                filter=wanted,
                params=_EXACT if exact else _INDEXED,
                with_payload=True,
            )
            for vector in vectors
        ]
        with self._directory.engine_errors():
            answers = shard.query_batch(edge.QueryBatchRequest(requests)) if requests else []
        return [[Hit(str(found.id), found.score, found.payload or {}) for found in answer] for answer in answers]

    def exists(self, ids: Sequence[str]) -> set[str]:
        """Those of ``ids`` that are there."""
        shard, _ = self._collection()
        with self._directory.engine_errors():
            return {str(record.id) for record in shard.retrieve(list(ids), with_payload=False, with_vector=False)}

    def count(self, filter: Filter | None = None) -> int:
        """How many points match."""
        shard, _ = self._collection()
        request = edge.CountRequest(filter=compile_filter(filter, _DIALECT), exact=True)
        with self._directory.engine_errors():
            return shard.count(request)

    def delete(self, ids: Sequence[str] | None = None, *, filter: Filter | None = None) -> None:
        """Delete points by id or by filter."""
        self._collection()
        wanted = compile_filter(filter, _DIALECT)
        checks.check_selection(ids, wanted)
        self._update(
            edge.UpdateOperation.delete_points(list(ids or ()))
            if wanted is None
            else edge.UpdateOperation.delete_points_by_filter(wanted)
        )

    def finalize(self) -> None:
        """Index a copy in a child process and go over to it; searches go on, writes wait."""
        with self._writing, self._directory.engine_errors():
            shard, generation = self._collection()
            if not is_worth_indexing(shard):
                return
            shard.flush()
            indexed = replace(generation, shard=indexed_copy(self.home, generation.shard))
            fresh = edge.EdgeShard.load(str(self.home / indexed.shard))
            with self._directory.changing() as manifest:
                roles = vars(manifest).items()
                write_manifest(
                    self._directory.home,
                    Manifest(**{role: indexed if held == generation else held for role, held in roles}),
                )
            # The old shard is not closed: a search that has it in hand keeps it open, and the last one lets go of it.
            self._generation, self._shard = indexed, fresh
            remove_other_shards(self.home, indexed.shard)

    def begin_generation(self, spec: CollectionSpec) -> EdgeStore:
        """Open the next generation."""
        self._require_open()
        return begin_generation(self._directory.home, spec)

    def commit(self) -> None:
        """Make this generation the current one."""
        self._require_open()
        with self._directory.changing() as manifest:
            if self._role != "next" or self._generation is None or manifest.next != self._generation:
                raise checks.not_begun(self._directory.where)
            write_manifest(self._directory.home, Manifest(current=manifest.next, previous=manifest.current))
            self._role = "current"
            self._directory.sweep()

    def rollback(self) -> None:
        """Make the generation before the last commit the current one."""
        self._require_open()
        with self._directory.changing() as manifest:
            if manifest.previous is None:
                raise checks.nothing_before(self._directory.where)
            swapped = replace(manifest, current=manifest.previous, previous=manifest.current)
            write_manifest(self._directory.home, swapped)

    def close(self) -> None:
        """Close the shard and release the lock."""
        self._open = False
        shard, self._shard = self._shard, None
        try:
            if shard is not None:
                with self._directory.engine_errors():
                    shard.close()
        finally:
            if self._lock is not None:
                self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _attach(self) -> None:
        """Lock and load the generation that has the role now, and stay with it."""
        if self._lock is not None:
            self._lock.release()
        found = self._directory.lock_generation(self._role)
        if found is None:
            self._lock = self._directory.lock(_NONE_YET)
            return
        generation, self._lock = found
        folder = self._directory.of(generation.name)
        remove_other_shards(folder, generation.shard)
        with self._directory.engine_errors():
            self._shard = edge.EdgeShard.load(str(folder / generation.shard))
        self._generation = generation

    def _update(self, operation: edge.UpdateOperation) -> None:
        with self._writing, self._directory.engine_errors():
            shard, _ = self._collection()
            # The write-ahead log survives the death of the process, the flush also that of the machine.
            shard.update(operation)
            shard.flush()

    def _collection(self) -> tuple[edge.EdgeShard, Generation]:
        self._require_open()
        if self._shard is None or self._generation is None:
            raise StoreNotFound(f"{self._directory.where} holds nothing yet; index something first")
        return self._shard, self._generation

    def _require_open(self) -> None:
        if not self._open:
            raise StoreError(f"{self._directory.where} is closed; open it again")


def begin_generation(home: Path, spec: CollectionSpec) -> EdgeStore:
    """Open the next generation of the store in ``home``; the current one may be in use."""
    directory = _Directory(home)
    directory.prepare(create=True)
    with directory.changing() as manifest:
        if manifest.next is None or not checks.is_same_model(manifest.next.spec, spec):
            if manifest.next is not None:  # refuse to take it away from a process that is filling it
                directory.lock(manifest.next.name).release()
            write_manifest(home, replace(manifest, next=directory.make(spec)))
            directory.sweep()
    return EdgeStore(home, role="next")


class _Directory:
    """The generations in a store's directory, open or not."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.where = f"the store in {str(home)!r}"

    def of(self, name: str) -> Path:
        return self.home / _GENERATIONS / name

    def prepare(self, *, create: bool) -> None:
        """Make the directory, or make sure that it is a store's."""
        if not create and not (self.home / MANIFEST).exists():
            raise _missing(self.home)
        try:
            (self.home / _GENERATIONS).mkdir(parents=True, exist_ok=True)
            if read_manifest(self.home) is None:
                self._refuse_foreign_files()
        except OSError as error:
            message = f"the store directory {str(self.home)!r} cannot be used: {error.strerror or error}"
            raise StoreError(message) from error

    @contextmanager
    def changing(self) -> Iterator[Manifest]:
        """The manifest, while no other process changes it."""
        try:
            with filelock.FileLock(self.home / _LOCK, thread_local=False).acquire(timeout=_PATIENCE_S):
                yield read_manifest(self.home) or Manifest()
        except filelock.Timeout as error:
            raise self._locked() from error
        except OSError as error:
            raise StoreError(f"{self.where} cannot be changed: {error.strerror or error}") from error

    def make(self, spec: CollectionSpec) -> Generation:
        """Make an empty generation, which no manifest speaks of yet."""
        name = uuid.uuid4().hex[:12]
        with self.engine_errors():
            return Generation(spec, name, make_shard(self.of(name), spec.dim))

    def lock(self, name: str) -> filelock.FileLock:
        """Lock a generation at once or not at all."""
        lock = filelock.FileLock(self.home / _GENERATIONS / f"{name}.lock", thread_local=False)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise self._locked() from error
        except OSError as error:
            message = f"the store directory {str(self.home)!r} cannot be used: {error.strerror or error}"
            raise StoreError(message) from error
        return lock

    def lock_generation(self, role: Role) -> tuple[Generation, filelock.FileLock] | None:
        """Lock the generation that has a role; ``None`` if there is none."""
        while True:
            generation: Generation | None = getattr(read_manifest(self.home) or Manifest(), role)
            if generation is None:
                return None
            lock = self.lock(generation.name)
            try:  # it may have been replaced, or even removed, before the lock was ours
                if getattr(read_manifest(self.home), role) == generation:
                    return generation, lock
            except BaseException:
                lock.release()
                raise
            lock.release()

    def sweep(self) -> None:
        """Remove the generations that the manifest speaks of no more, but for those in use; call while changing."""
        manifest = read_manifest(self.home) or Manifest()
        kept = {generation.name for generation in vars(manifest).values() if generation is not None}
        for folder in (self.home / _GENERATIONS).iterdir():
            if folder.is_dir() and folder.name not in kept:
                try:
                    lock = self.lock(folder.name)
                except StoreLocked:
                    continue
                shutil.rmtree(folder, ignore_errors=True)
                folder.with_name(f"{folder.name}.lock").unlink(missing_ok=True)
                lock.release()

    @contextmanager
    def engine_errors(self) -> Iterator[None]:
        try:
            yield
        except TTEError:
            raise
        except Exception as error:  # the engine raises bare Exceptions
            if "WouldBlock" in str(error):
                raise self._locked() from error
            raise StoreError(f"{self.where} failed: {error}") from error

    def _locked(self) -> StoreLocked:
        return StoreLocked(f"{self.where} is in use by another process; wait for it to end or stop it, then try again")

    def _refuse_foreign_files(self) -> None:
        foreign = {path.name for path in self.home.iterdir()} - {_LOCK, _GENERATIONS, f"{MANIFEST}.new"}
        if foreign:
            (self.home / _GENERATIONS).rmdir()
            raise StoreError(
                f"the directory {str(self.home)!r} is no store (it has no {MANIFEST}) and holds other files, such as "
                f"{min(foreign)!r}; give an empty or a new directory"
            )


def _missing(home: Path) -> StoreNotFound:
    return StoreNotFound(f"there is no store in {str(home)!r}; make one with tte-retriever index, or check the path")
