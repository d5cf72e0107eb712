"""The directory of an edge store: its generations are made, locked, named in the manifest, and removed.

The directory holds ``tte-store.json`` (the manifest), a lock for changing it, and ``generations/``. Each generation is a
directory with the engine's files and the state of ingestion, beside a lock of the same name.
"""

from __future__ import annotations

import shutil
import uuid
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import filelock

from tte_retriever.atomic import atomic_write
from tte_retriever.errors import TTEError
from tte_retriever.sources.discovery import STORE_MANIFEST
from tte_retriever_qdrant.errors import StoreError, StoreLocked, StoreNotFound
from tte_retriever_qdrant.records import ROLES, GenerationInfo
from tte_retriever_qdrant.stores import checks
from tte_retriever_qdrant.stores.manifest import Generation, Manifest, read_manifest, write_manifest
from tte_retriever_qdrant.stores.shards import make_shard

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tte_retriever_qdrant.records import CollectionSpec, Role

_LOCK = ".lock"
_GENERATIONS = "generations"
_NONE_YET = "none-yet"  # locked by the process that will make a first generation, or an update
_PATIENCE_S = 30  # another process keeps the manifest locked while it makes or copies a shard


class Directory:
    """The generations in the directory of a store, open or not."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self.label = f"the store in {str(folder)!r}"

    def of(self, name: str) -> Path:
        """The directory of a generation."""
        return self.path / _GENERATIONS / name

    def prepare(self, *, create: bool) -> None:
        """Make the directory, or check that it holds a store."""
        if not create and not (self.path / STORE_MANIFEST).exists():
            raise missing(self.path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if read_manifest(self.path) is None:
                self._refuse_foreign_files()
            (self.path / _GENERATIONS).mkdir(exist_ok=True)
        except OSError as error:
            message = f"the store directory {str(self.path)!r} cannot be used: {error.strerror or error}"
            raise StoreError(message) from error

    @contextmanager
    def changing(self) -> Iterator[Manifest]:
        """Lock the manifest against changes by other processes, and read it."""
        try:
            with filelock.FileLock(self.path / _LOCK, thread_local=False).acquire(timeout=_PATIENCE_S):
                yield read_manifest(self.path) or Manifest()
        except filelock.Timeout as error:
            raise self._locked() from error
        except OSError as error:
            raise StoreError(f"{self.label} cannot be changed: {error.strerror or error}") from error

    def make(self, spec: CollectionSpec) -> Generation:
        """Make an empty generation; no manifest names it yet."""
        name = uuid.uuid4().hex[:12]
        with self.engine_errors():
            return Generation(spec, name, make_shard(self.of(name), spec))

    def copy(self, generation: Generation) -> Generation:
        """Copy a generation once no other process has it open; no manifest names the copy yet."""
        lock = self.lock(generation.name, patience_s=_PATIENCE_S)
        copied = replace(generation, name=uuid.uuid4().hex[:12])
        try:
            with atomic_write(self.of(copied.name)) as draft:
                shutil.copytree(self.of(generation.name), draft)
        except OSError as error:
            raise StoreError(f"{self.label} cannot be copied: {error.strerror or error}; make room") from error
        finally:
            lock.release()
        return copied

    def require_unused(self, generation: Generation | None) -> None:
        """Raise ``StoreLocked`` if a process has the generation open."""
        if generation is not None:
            self.lock(generation.name).release()

    def require_no_update(self, manifest: Manifest) -> None:
        """Raise ``StoreLocked`` if a process is updating the current generation; call within :meth:`changing`."""
        self.require_unused(manifest.update)
        self.lock_none_yet().release()

    def lock(self, name: str, *, patience_s: float = 0) -> filelock.FileLock:
        """Lock a generation; without patience, fail at once if it is locked."""
        lock = filelock.FileLock(self.path / _GENERATIONS / f"{name}.lock", thread_local=False)
        try:
            lock.acquire(timeout=patience_s)
        except filelock.Timeout as error:
            raise self._locked() from error
        except OSError as error:
            message = f"the store directory {str(self.path)!r} cannot be used: {error.strerror or error}"
            raise StoreError(message) from error
        return lock

    def lock_none_yet(self) -> filelock.FileLock:
        """Lock a generation that does not exist yet, as the one process that may make it: the first one, or an update."""
        return self.lock(_NONE_YET)

    def lock_generation(self, role: Role) -> tuple[Generation, filelock.FileLock] | None:
        """Lock the generation that has a role; ``None`` if there is none."""
        while True:
            generation: Generation | None = getattr(read_manifest(self.path) or Manifest(), role)
            if generation is None:
                return None
            try:
                lock = self.lock(generation.name)
            except StoreLocked:
                with self.changing():  # wait until it is copied: that is the only reason for which a reader waits
                    pass
                lock = self.lock(generation.name)
            try:  # another process may have replaced or removed it before this one locked it
                if getattr(read_manifest(self.path), role) == generation:
                    return generation, lock
            except BaseException:
                lock.release()
                raise
            lock.release()

    def listed(self) -> list[GenerationInfo]:
        """The generations, the current one first."""
        manifest = read_manifest(self.path) or Manifest()
        return [
            GenerationInfo(role, held.spec, self.of(held.name))
            for role in ROLES
            if (held := getattr(manifest, role)) is not None
        ]

    def commit(self) -> None:
        """Make the next generation the current one, unless a process is filling it."""
        with self.changing() as manifest:
            if manifest.next is None:
                raise checks.nothing_begun(self.label)
            self.require_unused(manifest.next)
            self.swap_in("next", manifest)

    def swap_in(self, role: Role, manifest: Manifest) -> None:
        """Make the generation that has a role the current one; call within :meth:`changing`."""
        if role == "update":  # the same vectors and more: the replaced one is not kept
            changed = replace(manifest, current=manifest.update, update=None)
        else:
            changed = Manifest(current=manifest.next, previous=manifest.current)
        self.settle(changed)

    def rollback(self) -> None:
        """Make the generation before the last commit the current one."""
        with self.changing() as manifest:
            if manifest.previous is None:
                raise checks.nothing_before(self.label)
            self.require_no_update(manifest)
            swapped = replace(manifest, current=manifest.previous, previous=manifest.current, update=None)
            self.settle(swapped)

    def drop(self, role: Role) -> None:
        """Delete a generation other than the current one."""
        with self.changing() as manifest:
            generation: Generation | None = getattr(manifest, role)
            if role == "current" or generation is None:
                raise checks.not_dropped(self.label, role, [each.role for each in self.listed()])
            self.require_unused(generation)
            self.settle(replace(manifest, **{role: None}))

    def settle(self, manifest: Manifest) -> None:
        """Write the manifest, and delete the generations that it does not name, except those in use.

        Call within :meth:`changing`.
        """
        write_manifest(self.path, manifest)
        kept = {generation.name for generation in vars(manifest).values() if generation is not None}
        for folder in (self.path / _GENERATIONS).iterdir():
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
        """Raise the engine's errors as ``StoreError``."""
        try:
            yield
        except TTEError:
            raise
        except Exception as error:  # the engine raises plain Exceptions
            if "WouldBlock" in str(error):
                raise self._locked() from error
            raise StoreError(f"{self.label} failed: {error}") from error

    def _locked(self) -> StoreLocked:
        return StoreLocked(f"{self.label} is in use by another process; wait for it to end or stop it, then try again")

    def _refuse_foreign_files(self) -> None:
        foreign = {path.name for path in self.path.iterdir()} - {_LOCK, _GENERATIONS, f"{STORE_MANIFEST}.new"}
        foreign = {name for name in foreign if not name.endswith(f".{STORE_MANIFEST}")}  # drafts of a killed process
        if foreign:
            raise StoreError(
                f"the directory {str(self.path)!r} is not a store (it has no {STORE_MANIFEST}) and holds other files, such as "
                f"{min(foreign)!r}; give an empty or a new directory"
            )


def missing(folder: Path) -> StoreNotFound:
    """The error of reading a store that does not exist."""
    return StoreNotFound(f"there is no store in {str(folder)!r}; make one with tte-retriever index, or check the path")
