"""Index a source into a store: discover, plan, decode, embed, write, and only then call it done."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tte_retriever.errors import InputError
from tte_retriever.media import DEFAULT_LIMITS, MediaLimits
from tte_retriever_qdrant.ingestion.decoding import (
    DEFAULT_MEMORY_LIMIT,
    DEFAULT_TIME_LIMIT_S,
    LEAST_MEMORY,
    DecoderPool,
    default_workers,
)
from tte_retriever_qdrant.ingestion.discovery import check_source, discover, root_of, uri_of
from tte_retriever_qdrant.ingestion.embedding import embed
from tte_retriever_qdrant.ingestion.events import Event, EventKind, Failure, Report
from tte_retriever_qdrant.ingestion.ledger import DUPLICATE, Ledger
from tte_retriever_qdrant.ingestion.planning import make_plan
from tte_retriever_qdrant.ingestion.quarantine import write_quarantine
from tte_retriever_qdrant.ingestion.reading import Key, Outcome, read
from tte_retriever_qdrant.ingestion.units import DEFAULT_WINDOW_S, Cut
from tte_retriever_qdrant.ingestion.worker import Settings
from tte_retriever_qdrant.ingestion.writing import Writer
from tte_retriever_qdrant.records import CollectionSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from tte_retriever_qdrant.encoder import Encoder
    from tte_retriever_qdrant.ingestion.ledger import State
    from tte_retriever_qdrant.stores import VectorStore

LEDGER = "ledger.sqlite"
"""Name of the ledger in a store's home."""

_LOOK_AHEAD = 4  # batches that are decoded, or being decoded, while the model has another


def ingest(
    source: Path,
    store: VectorStore,
    encoder: Encoder,
    *,
    model_name: str = "",
    window_s: float = DEFAULT_WINDOW_S,
    overlap_s: float = 0.0,
    prefix: int | None = None,
    batch_size: int = 32,
    limits: MediaLimits = DEFAULT_LIMITS,
    near_duplicate: float | None = None,
    workers: int | None = None,
    time_limit_s: float = DEFAULT_TIME_LIMIT_S,
    memory_limit: int = DEFAULT_MEMORY_LIMIT,
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
        overlap_s: How much of each window is in the next one too, in seconds.
        prefix: Of a Matryoshka model, by how many leading dimensions candidates are found; 0 for none. ``None`` is that
            of the store, and none of a new one.
        batch_size: Points per write; items per call of a model that does not stream.
        limits: What may be opened.
        near_duplicate: Report points whose cosine similarity to one of another content is at least this, such as 0.98;
            that costs a search per point. ``None`` does not look.
        workers: Processes that decode; ``None`` for one less than the machine has cores, and 8 at most.
        time_limit_s: Longest that one item may take to decode, in seconds.
        memory_limit: Most memory (address space) that a process that decodes may have, in bytes.
        on_event: Is called as files are dealt with, in the caller's thread.

    Raises:
        InputError: The source is missing, empty, or holds not a single file that can be indexed; or the store was made
            with another prefix.
        ModelMismatch: The store holds vectors of another model.
        StoreError: The store failed. What was written until then stays.
    """
    cut = Cut(window_s, overlap_s)
    workers = default_workers() if workers is None else workers
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size!r}; give 1 or more")
    if workers < 1:
        raise InputError(f"workers is {workers!r}; give 1 or more")
    if near_duplicate is not None and not -1 <= near_duplicate <= 1:
        raise InputError(f"near_duplicate is {near_duplicate!r}; give a cosine similarity, such as 0.98")
    if not time_limit_s > 0:
        raise InputError(f"time_limit_s is {time_limit_s!r}; give a number of seconds above 0")
    if memory_limit < LEAST_MEMORY:
        raise InputError(f"memory_limit is {memory_limit!r}; give {LEAST_MEMORY} bytes or more")
    source = check_source(source)
    root = root_of(source)
    unlisted: list[OSError] = []
    paths = list(discover(source, unlisted.append))
    if not paths:
        raise InputError(
            f"there are no files to index in {str(source)!r}; give a folder with images, videos, PDF or text files "
            f"(hidden files and symbolic links do not count; {len(unlisted)} folders could not be listed)"
        )
    if prefix is None:
        prefix = store.spec.prefix if store.spec is not None else 0
    spec = spec_of(encoder, model_name, prefix=prefix)
    store.ensure(spec)
    with Ledger(store.home / LEDGER) as ledger:
        folders = [uri_of(Path(error.filename), root) for error in unlisted]
        plan = make_plan(root, paths, ledger, limits, cut=cut, complete=source.is_dir(), unlisted=folders)
        tally = _Tally(len(plan.tasks), ledger, on_event, cut)
        tally.tell("planned")
        for folder, error in zip(folders, unlisted, strict=True):
            tally.fail(Failure(folder, "unreadable", f"the folder {folder!r} cannot be listed: {error.strerror}"))
        for failure in plan.failed:
            tally.fail(failure)
        settings = Settings(encoder.video_sampling, cut, limits, memory_limit)
        try:
            with (
                DecoderPool[Key](settings, workers=workers, time_limit_s=time_limit_s) as pool,
                Writer(
                    store,
                    encoder.fingerprint,
                    batch_size=batch_size,
                    near_duplicate=near_duplicate,
                    on_final=tally.settle,
                ) as writer,
            ):
                parts = read(
                    plan.tasks,
                    pool,
                    look_ahead=_LOOK_AHEAD * batch_size,
                    stored=writer.stored,
                    on_final=tally.settle,
                )
                for embedded in embed(encoder, parts, batch_size=batch_size, dim=spec.dim):
                    writer.add(embedded)
                writer.finish()
        finally:
            write_quarantine(store.home, str(root), ledger.rows(), tally.failed)
        if obsolete := ledger.obsolete():
            store.delete(filter={"asset_id": obsolete})
        ledger.forget_obsolete()
        for uri in plan.removed:
            tally.tell("removed", uri)
    if tally.points:
        store.finalize()
    duplicates = plan.duplicates + tally.duplicates
    if not (tally.indexed or plan.unchanged or duplicates):
        raise InputError(f"none of the {len(paths)} files in {str(source)!r} could be indexed; {tally.why()}")
    return Report(
        files=len(paths),
        indexed=tally.indexed,
        points=tally.points,
        unchanged=plan.unchanged,
        duplicates=duplicates,
        skipped=plan.skipped + tally.skipped,
        removed=len(plan.removed),
        failed=tuple(tally.failed),
        near_duplicates=tuple(writer.near_duplicates),
    )


def spec_of(encoder: Encoder, model_name: str, *, prefix: int = 0) -> CollectionSpec:
    """What a collection of a model's vectors holds.

    Raises:
        InputError: The model does not say how long they are.
    """
    dim = encoder.get_embedding_dimension()
    if dim is None:
        raise InputError("the model does not say how long its vectors are; give a complete embedding model")
    return CollectionSpec(dim, encoder.fingerprint, model_name, prefix)


@dataclass
class _Tally:
    """Puts in the ledger what becomes of files, counts it, and tells the listener of it."""

    total: int
    ledger: Ledger
    listener: Callable[[Event], None] | None
    cut: Cut
    done: int = 0
    indexed: int = 0
    points: int = 0
    duplicates: int = 0
    skipped: int = 0
    failed: list[Failure] = field(default_factory=list)

    def settle(self, outcome: Outcome) -> None:
        """What is left of the file is durable by now."""
        state: State = "WRITTEN" if outcome.points else "FAILED" if outcome.failures else "SKIPPED"
        first = outcome.failures[0] if outcome.failures else Failure(outcome.uri, outcome.reason, "")
        video_cut = str(self.cut) if outcome.is_video else ""
        cut = outcome.task.row.cut if state == "FAILED" else video_cut
        self.ledger.record(
            [replace(outcome.task.row, state=state, cut=cut, reason=first.reason, message=first.message)]
        )
        self.done += 1
        for failure in outcome.failures:
            self.fail(failure)
        if state == "WRITTEN":
            self.indexed += 1
            self.points += outcome.points
            self.tell("written", outcome.uri, points=outcome.points)
        elif state == "SKIPPED":
            self.duplicates += outcome.reason == DUPLICATE
            self.skipped += outcome.reason != DUPLICATE
            self.tell("skipped", outcome.uri, reason=outcome.reason)

    def fail(self, failure: Failure) -> None:
        self.failed.append(failure)
        self.tell("failed", failure.uri, reason=failure.reason, message=failure.message)

    def tell(self, kind: EventKind, uri: str = "", *, points: int = 0, reason: str = "", message: str = "") -> None:
        if self.listener is not None:
            self.listener(Event(kind, self.done, self.total, uri, points, reason, message))

    def why(self) -> str:
        if self.failed:
            return f"the first reason: {self.failed[0].message}"
        return "give images, videos, PDF, or UTF-8 text named .txt or .md"
