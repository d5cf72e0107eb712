"""Write points in a background thread, so that the model does not wait for the store."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from tte_retriever.errors import InputError
from tte_retriever_qdrant.errors import StoreUnavailable
from tte_retriever_qdrant.ingestion.events import NearDuplicate
from tte_retriever_qdrant.records import Point

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from typing_extensions import Self

    from tte_retriever.sources import Chunk
    from tte_retriever_qdrant.ingestion.embedding import EmbeddedChunk
    from tte_retriever_qdrant.ingestion.state import FileState
    from tte_retriever_qdrant.stores import VectorStore

PAUSES_S: tuple[float, ...] = (0.5, 1, 2, 4, 8, 16, 30)
"""Seconds to wait before each new attempt at a store that is not available."""

_MAX_BATCH_BYTES = 8 * 1024**2  # of a request; servers refuse larger ones, from 32 MB by default
_BYTES_PER_NUMBER = 12  # of a vector, written as text
_MAX_WAITING = 2  # batches that wait to be written
_NEIGHBOURS = 10  # that are looked at; the nearest may be other chunks of the same file


def check_writing(batch_size: int, near_duplicate: float | None) -> None:
    """Refuse settings that make no sense.

    Raises:
        InputError: No points per batch, or a similarity that cannot be.
    """
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size!r}; give 1 or more")
    if near_duplicate is not None and not -1 <= near_duplicate <= 1:
        raise InputError(f"near_duplicate is {near_duplicate!r}; give a cosine similarity, such as 0.98")


class Writer:
    """Collects points into batches of bounded count and size, and writes them in a background thread.

    All methods are for one thread; ``begin`` and ``on_final`` are called in it too.

    Args:
        store: Where points are written.
        fingerprint: Of the collection, a part of the points' ids.
        batch_size: Most points of one write.
        near_duplicate: Cosine similarity from which a point is reported as almost the same as one of another content;
            ``None`` does not look.
        begin: Is called before the store is written to or asked.
        on_final: Is called with each file of which all points are durable.
    """

    def __init__(
        self,
        store: VectorStore,
        fingerprint: str,
        batch_size: int,
        near_duplicate: float | None,
        begin: Callable[[], None],
        on_final: Callable[[FileState], None],
    ) -> None:
        self.near_duplicates: list[NearDuplicate] = []
        self._store, self._fingerprint, self._batch_size = store, fingerprint, batch_size
        self._near_duplicate, self._begin, self._on_final = near_duplicate, begin, on_final
        self._points: list[Point] = []
        self._files: list[FileState] = []  # one for each chunk of the batch, also for those without a vector
        self._bytes = 0
        self._replaced: set[FileState] = set()
        self._stopped = threading.Event()
        self._waiting: deque[tuple[list[FileState], Future[list[NearDuplicate]]]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tte-write")

    def add(self, embedded: EmbeddedChunk) -> None:
        """Add the vector of a chunk; it is durable after some later call, at the latest :meth:`finish`.

        Raises:
            StoreError: The store failed, in this write or an earlier one.
        """
        file, chunk, text, vector = embedded
        if isinstance(vector, InputError):
            file.fail(vector, chunk)
        else:
            payload = {"uri": file.uri, "asset_id": file.asset_id, **chunk.payload()}
            if text:
                payload["text"] = text
            self._points.append(Point(chunk.point_id(file.asset_id, self._fingerprint), vector, payload))
            self._bytes += _BYTES_PER_NUMBER * len(vector) + 4 * len(text)
            file.points += 1
        self._files.append(file)
        if len(self._files) >= self._batch_size or self._bytes >= _MAX_BATCH_BYTES:
            self._flush()
        while self._waiting and (self._waiting[0][1].done() or len(self._waiting) > _MAX_WAITING):
            self._collect()

    def stored(self, file: FileState, chunks: Sequence[Chunk]) -> set[Chunk]:
        """The chunks of a file that are in the store under its name."""
        self._begin()
        # In the thread of the writes, since not every engine can do two things at once.
        return self._thread.submit(self._stored, file, chunks).result()

    def finish(self) -> None:
        """Write what is left, and wait until all is durable; raises as :meth:`add` does."""
        self._flush()
        while self._waiting:
            self._collect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        # After an error, what is embedded already gets one attempt to be written, and no more.
        self._stopped.set()
        self._thread.shutdown()

    def _flush(self) -> None:
        files, points = self._files, self._points
        self._files, self._points, self._bytes = [], [], 0
        rechunked = {file for file in files if file.is_rechunked} - self._replaced
        self._replaced |= rechunked
        stale = [file.asset_id for file in rechunked]
        if points or stale:
            self._begin()
        self._waiting.append((files, self._thread.submit(self._write, points, stale)))

    def _collect(self) -> None:
        files, written = self._waiting.popleft()
        self.near_duplicates += written.result()
        for file in files:
            file.pending -= 1
            if file.is_final:
                self._on_final(file)

    def _write(self, points: list[Point], stale: list[str]) -> list[NearDuplicate]:
        if stale:
            self._with_retries(lambda: self._store.delete(filter={"asset_id": stale}))
        if points:
            self._with_retries(lambda: self._store.upsert(points))
        return [] if self._near_duplicate is None else self._neighbours(points, self._near_duplicate)

    def _neighbours(self, points: list[Point], threshold: float) -> list[NearDuplicate]:
        found = []
        for point in points:
            for hit in self._store.search(point.vector, _NEIGHBOURS):
                if hit.score >= threshold and hit.payload["asset_id"] != point.payload["asset_id"]:
                    found.append(NearDuplicate(point.payload["uri"], hit.payload["uri"], round(hit.score, 4)))
                    break
        return found

    def _stored(self, file: FileState, chunks: Sequence[Chunk]) -> set[Chunk]:
        asset = {"asset_id": file.asset_id}
        if self._store.count(asset) != self._store.count({**asset, "uri": file.uri}):
            return set()  # some are under the name of another file with that content, so all are written again
        ids = {chunk.point_id(file.asset_id, self._fingerprint): chunk for chunk in chunks}
        return {ids[each] for each in self._store.exists(list(ids))}

    def _with_retries(self, call: Callable[[], None]) -> None:
        for pause_s in PAUSES_S:
            try:
                return call()
            except StoreUnavailable:
                if self._stopped.wait(pause_s):
                    raise
        return call()
