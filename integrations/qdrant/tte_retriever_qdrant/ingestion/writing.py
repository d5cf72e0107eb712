"""Take files into the store, in batches that mix the parts of many files."""

from __future__ import annotations

import mimetypes
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tte_retriever.errors import InputError, MediaError
from tte_retriever.media.sources import describe
from tte_retriever_qdrant.ingestion.embedding import embed
from tte_retriever_qdrant.ingestion.events import Failure
from tte_retriever_qdrant.ingestion.ledger import DUPLICATE
from tte_retriever_qdrant.ingestion.planning import Task, stamp
from tte_retriever_qdrant.ingestion.units import TEXT_SUFFIXES, Unit, load_unit, units
from tte_retriever_qdrant.records import Point

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from tte_retriever.media import MediaLimits
    from tte_retriever_qdrant.encoder import Encoder, Item
    from tte_retriever_qdrant.ingestion.ledger import Ledger, State
    from tte_retriever_qdrant.stores import VectorStore

_MAX_BATCH_PIXELS = 64_000_000  # a batch is written early rather than hold much more than 200 MB of pixels
_MEDIA_TYPES = mimetypes.MimeTypes()  # Python's own table, not what happens to be registered on this machine


@dataclass(eq=False)
class Outcome:
    """What became of a file; it is settled when all of it is decoded and nothing is ``pending``.

    Attributes:
        task: The file.
        state: As in the ledger; NEW until it is settled.
        points: Points written.
        failures: What could not be indexed of it.
        reason: Why it was skipped.
    """

    task: Task
    state: State = "NEW"
    points: int = 0
    failures: list[Failure] = field(default_factory=list)
    reason: str = ""
    window_s: float | None = None
    pending: int = 0
    decoded: bool = False

    @property
    def uri(self) -> str:
        """The file's path under its root."""
        return self.task.row.uri

    def fail(self, error: InputError, unit: Unit | None = None) -> None:
        """Note that the file, or a part of it, cannot be indexed."""
        uri = f"{self.uri}#{unit.name}" if unit is not None and unit.name else self.uri
        # The model refuses an item without a word for it: what it got is not something that it can use.
        reason = error.reason if isinstance(error, MediaError) else "unsupported"
        self.failures.append(Failure(uri, reason, str(error)))


@dataclass(frozen=True)
class _Part:
    outcome: Outcome
    unit: Unit
    item: Item


class Writer:
    """Decodes files one after the other and writes their points batch by batch."""

    def __init__(
        self,
        store: VectorStore,
        encoder: Encoder,
        ledger: Ledger,
        *,
        dim: int,
        window_s: float,
        batch_size: int,
        limits: MediaLimits,
    ) -> None:
        self._store, self._encoder, self._ledger = store, encoder, ledger
        self._dim, self._window_s, self._batch_size, self._limits = dim, window_s, batch_size, limits
        self._batch: list[_Part] = []
        self._taken: set[str] = set()  # assets that this run has decoded

    def write(self, tasks: tuple[Task, ...]) -> Iterator[Outcome]:
        """Take files in, and yield what became of each as soon as that is settled and in the ledger."""
        for task in tasks:
            outcome = Outcome(task)
            for part in self._parts(outcome):
                self._batch.append(part)
                outcome.pending += 1
                if self._is_full():
                    yield from self._flush()
            outcome.decoded = True
            if not outcome.pending:
                yield from self._settle([outcome])
        yield from self._flush()

    def _parts(self, outcome: Outcome) -> Iterator[_Part]:
        task = outcome.task
        if task.row.asset_id in self._taken:
            outcome.reason = DUPLICATE
            return
        try:
            found = units(task.path, window_s=self._window_s, limits=self._limits)
        except MediaError as error:
            outcome.fail(error)
            return
        if not found:
            _explain_no_units(outcome)
        elif found[0].modality == "video":
            outcome.window_s = self._window_s
            # An earlier run may have cut the same video otherwise.
            self._store.delete(filter={"asset_id": task.row.asset_id})
        for unit in found:
            try:
                item = load_unit(task.path, unit, self._encoder.video_sampling, self._limits)
                _require_unchanged(task)
            except MediaError as error:
                outcome.fail(error, unit)
            else:
                self._taken.add(task.row.asset_id)
                yield _Part(outcome, unit, item)

    def _is_full(self) -> bool:
        return (
            len(self._batch) >= self._batch_size
            or sum(_pixels(part.item) for part in self._batch) >= _MAX_BATCH_PIXELS
        )

    def _flush(self) -> Iterator[Outcome]:
        batch, self._batch = self._batch, []
        if not batch:
            return
        results = embed(self._encoder, [part.item for part in batch], self._batch_size, self._dim)
        points = []
        for part, result in zip(batch, results, strict=True):
            if isinstance(result, InputError):
                part.outcome.fail(result, part.unit)
            else:
                points.append(self._point(part, result))
                part.outcome.points += 1
            part.outcome.pending -= 1
        self._store.upsert(points)
        outcomes = dict.fromkeys(part.outcome for part in batch)
        yield from self._settle([outcome for outcome in outcomes if outcome.decoded and not outcome.pending])

    def _point(self, part: _Part, vector: np.ndarray) -> Point:
        asset_id = part.outcome.task.row.asset_id
        payload = {"uri": part.outcome.uri, "asset_id": asset_id, **part.unit.payload()}
        if "text" in part.item:
            payload["text"] = part.item["text"]
        return Point(part.unit.point_id(asset_id, self._encoder.fingerprint), vector, payload)

    def _settle(self, outcomes: list[Outcome]) -> list[Outcome]:
        """Put in the ledger what became of files; their points are durable by now."""
        rows = []
        for outcome in outcomes:
            outcome.state = "WRITTEN" if outcome.points else "FAILED" if outcome.failures else "SKIPPED"
            first = outcome.failures[0] if outcome.failures else Failure(outcome.uri, outcome.reason, "")
            rows.append(
                replace(
                    outcome.task.row,
                    state=outcome.state,
                    window_s=outcome.window_s,
                    reason=first.reason,
                    message=first.message,
                )
            )
        self._ledger.record(rows)
        return outcomes


def _explain_no_units(outcome: Outcome) -> None:
    """A file whose name promises media is a failure; any other is of a kind that nobody asked to index."""
    path = outcome.task.path
    promised = _MEDIA_TYPES.guess_type(path.name)[0] or ""
    if promised.startswith(("image/", "video/")) or promised == "application/pdf" or path.suffix in TEXT_SUFFIXES:
        message = f"{describe(path)} is no image, video, PDF or text that can be opened, whatever its name says"
        outcome.fail(MediaError(message, "unsupported"))
    else:
        outcome.reason = "unsupported"


def _require_unchanged(task: Task) -> None:
    if stamp(task.path) != (task.row.size, task.row.mtime_ns):
        raise MediaError(f"{describe(task.path)} changed while it was being read; run again", "unreadable")


def _pixels(item: Item) -> int:
    images = item["video"].frames if "video" in item else [item["image"]] if "image" in item else []
    return sum(image.width * image.height for image in images)
