"""Index a source into a store: decode, embed, write, and only then call it done."""

from __future__ import annotations

import math
import mimetypes
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from tte_retriever.errors import InputError, MediaError
from tte_retriever.media import DEFAULT_LIMITS, MediaLimits
from tte_retriever.media.sources import describe
from tte_retriever_qdrant.ingestion.discovery import check_source, discover, root_of, uri_of
from tte_retriever_qdrant.ingestion.events import Event, EventKind, Failure, Report
from tte_retriever_qdrant.ingestion.ledger import Ledger, Row
from tte_retriever_qdrant.ingestion.planning import Plan, Task, make_plan, stamp
from tte_retriever_qdrant.ingestion.units import DEFAULT_WINDOW_S, Unit, load_unit, units
from tte_retriever_qdrant.records import CollectionSpec, Point

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tte_retriever_qdrant.encoder import Encoder, Item
    from tte_retriever_qdrant.stores import VectorStore

LEDGER = "ledger.sqlite"
"""Name of the ledger in a store's home."""

_MAX_BATCH_PIXELS = 64_000_000  # a batch is written early rather than hold more than 200 MB of pixels
_MEDIA_TYPES = mimetypes.MimeTypes()  # Python's own table: not what this machine happens to have registered


def ingest(
    source: Path,
    store: VectorStore,
    encoder: Encoder,
    *,
    model_name: str = "",
    window_s: float = DEFAULT_WINDOW_S,
    batch_size: int = 32,
    limits: MediaLimits = DEFAULT_LIMITS,
    on_event: Callable[[Event], None] | None = None,
) -> Report:
    """Bring a store up to date with a folder or a file.

    What is done and unchanged is skipped, so an interrupted run is resumed by running it again. Points of files that
    changed or are gone are deleted once the new ones are written. Bad files are reported and skipped.

    Args:
        source: A folder, which is searched with all its subfolders, or one file.
        store: An open store; its collection is made if it is not there.
        encoder: The model.
        model_name: Name or folder by which the model can be loaded again; the store remembers it.
        window_s: Length of the windows that videos are cut into, in seconds.
        batch_size: Items per call of the model and per write.
        limits: What may be opened.
        on_event: Is called as files are dealt with.

    Raises:
        InputError: The source is missing, empty, or holds not a single file that can be indexed.
        ModelMismatch: The store holds vectors of another model.
        StoreError: The store failed. What was written until then stays.
    """
    _check_settings(window_s, batch_size)
    source = check_source(source)
    root = root_of(source)
    unlisted: list[OSError] = []
    paths = list(discover(source, unlisted.append))
    if not paths:
        raise InputError(
            f"there are no files in {str(source)!r}; hidden files, symbolic links and folders that cannot be listed "
            f"({len(unlisted)} here) do not count: give a folder with images, videos, PDF or text files"
        )
    store.ensure(CollectionSpec(_dimension(encoder), encoder.fingerprint, model_name))
    with Ledger(store.home / LEDGER) as ledger:
        folders = [uri_of(root.joinpath(error.filename), root) for error in unlisted]
        plan = make_plan(
            root, paths, ledger, limits, window_s=window_s, complete=source.is_dir(), unlisted=folders
        )
        run = _Run(store, encoder, ledger, plan, limits, window_s, batch_size, on_event)
        for folder, error in zip(folders, unlisted, strict=True):
            run.fail(Failure(folder, "unreadable", f"{describe(root / folder)} cannot be listed: {error.strerror}"))
        run.all()
        if obsolete := ledger.obsolete():
            store.delete(filter={"asset_id": obsolete})
        ledger.forget_obsolete()
    if run.points:
        store.finalize()
    if not (run.indexed or plan.unchanged or plan.duplicates):
        raise InputError(f"none of the {len(paths)} files in {str(source)!r} could be indexed; {run.first_reason()}")
    return Report(
        files=len(paths),
        indexed=run.indexed,
        points=run.points,
        unchanged=plan.unchanged,
        duplicates=plan.duplicates,
        skipped=plan.skipped + run.skipped,
        removed=len(plan.removed),
        failed=tuple(run.failed),
    )


@dataclass
class _File:
    """A file on its way into the store; done when it is fully decoded and nothing of it is ``pending``."""

    task: Task
    uri: str
    window_s: float | None = None
    decoded: bool = False
    pending: int = 0
    written: int = 0
    failures: list[Failure] = field(default_factory=list)


@dataclass(frozen=True)
class _Pending:
    file: _File
    unit: Unit
    item: Item


class _Run:
    """The batch that is being filled, and the counts of one ingestion."""

    def __init__(
        self,
        store: VectorStore,
        encoder: Encoder,
        ledger: Ledger,
        plan: Plan,
        limits: MediaLimits,
        window_s: float,
        batch_size: int,
        on_event: Callable[[Event], None] | None,
    ) -> None:
        self._store, self._encoder, self._ledger, self._plan = store, encoder, ledger, plan
        self._limits, self._window_s, self._batch_size = limits, window_s, batch_size
        self._on_event = on_event
        self._batch: list[_Pending] = []
        self._done = 0
        self.indexed = self.points = self.skipped = 0
        self.failed: list[Failure] = []

    def all(self) -> None:
        """Do what the plan says."""
        self._tell("planned")
        for failure in self._plan.failed:
            self.fail(failure)
        for task in self._plan.tasks:
            self._decode(_File(task, task.row.uri))
        self._write()
        for uri in self._plan.removed:
            self._tell("removed", uri)

    def fail(self, failure: Failure) -> None:
        """Report something that cannot be indexed."""
        self.failed.append(failure)
        self._tell("failed", failure.uri, reason=failure.reason, message=failure.message)

    def first_reason(self) -> str:
        """Why the first file failed, for an error message."""
        if self.failed:
            return f"the first reason: {self.failed[0].message}"
        return "give images, videos, PDF, or UTF-8 text named .txt or .md"

    def _decode(self, file: _File) -> None:
        path = file.task.path
        try:
            parts = units(path, window_s=self._window_s, limits=self._limits)
        except MediaError as error:
            file.failures.append(Failure(file.uri, error.reason, str(error)))
            parts = []
        if parts and parts[0].modality == "video":
            file.window_s = self._window_s
            # An earlier run may have cut the same video otherwise.
            self._store.delete(filter={"asset_id": file.task.row.asset_id})
        for unit in parts:
            try:
                item = load_unit(path, unit, self._encoder.video_sampling, self._limits)
                if stamp(path) != (file.task.row.size, file.task.row.mtime_ns):
                    raise MediaError(f"{describe(path)} changed while it was being read; run again", "unreadable")
            except MediaError as error:
                file.failures.append(_failure(file, unit, error))
                continue
            self._add(_Pending(file, unit, item))
        file.decoded = True
        if not file.pending:
            self._finish(file)

    def _add(self, entry: _Pending) -> None:
        self._batch.append(entry)
        entry.file.pending += 1
        if len(self._batch) >= self._batch_size or sum(_pixels(e.item) for e in self._batch) > _MAX_BATCH_PIXELS:
            self._write()

    def _write(self) -> None:
        batch, self._batch = self._batch, []
        if not batch:
            return
        points = []
        for entry, vector in zip(batch, _embed(self._encoder, [e.item for e in batch], self._batch_size), strict=True):
            entry.file.pending -= 1
            if isinstance(vector, InputError):
                entry.file.failures.append(_failure(entry.file, entry.unit, vector))
            else:
                points.append(self._point(entry, vector))
                entry.file.written += 1
        self._store.upsert(points)
        self.points += len(points)
        for file in dict.fromkeys(map(lambda entry: id(entry.file), batch)):
            del file

    def _point(self, entry: _Pending, vector: np.ndarray) -> Point:
        asset_id = entry.file.task.row.asset_id
        payload = {"uri": entry.file.uri, "asset_id": asset_id, **entry.unit.payload()}
        if "text" in entry.item:
            payload["text"] = entry.item["text"]
        return Point(entry.unit.point_id(asset_id, self._encoder.fingerprint), vector, payload)
