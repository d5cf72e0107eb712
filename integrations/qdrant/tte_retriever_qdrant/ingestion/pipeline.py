"""Index a source into a store: discover, plan, decode, embed, write, and only then call it done."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tte_retriever.errors import InputError
from tte_retriever.media import DEFAULT_LIMITS, MediaLimits
from tte_retriever_qdrant.ingestion.discovery import check_source, discover, root_of, uri_of
from tte_retriever_qdrant.ingestion.events import Event, EventKind, Failure, Report
from tte_retriever_qdrant.ingestion.ledger import DUPLICATE, Ledger
from tte_retriever_qdrant.ingestion.planning import make_plan
from tte_retriever_qdrant.ingestion.units import DEFAULT_WINDOW_S, SHORTEST_WINDOW_S
from tte_retriever_qdrant.ingestion.writing import Outcome, Writer
from tte_retriever_qdrant.records import CollectionSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from tte_retriever_qdrant.encoder import Encoder
    from tte_retriever_qdrant.stores import VectorStore

LEDGER = "ledger.sqlite"
"""Name of the ledger in a store's home."""


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
    if not (math.isfinite(window_s) and window_s >= SHORTEST_WINDOW_S):
        raise InputError(f"window_s is {window_s!r}; give {SHORTEST_WINDOW_S} seconds or more")
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size!r}; give 1 or more")
    source = check_source(source)
    root = root_of(source)
    unlisted: list[OSError] = []
    paths = list(discover(source, unlisted.append))
    if not paths:
        raise InputError(
            f"there are no files to index in {str(source)!r}; give a folder with images, videos, PDF or text files "
            f"(hidden files and symbolic links do not count; {len(unlisted)} folders could not be listed)"
        )
    dim = encoder.get_embedding_dimension()
    if dim is None:
        raise InputError("the model does not say how long its vectors are; give a complete embedding model")
    store.ensure(CollectionSpec(dim, encoder.fingerprint, model_name))
    with Ledger(store.home / LEDGER) as ledger:
        folders = [uri_of(Path(error.filename), root) for error in unlisted]
        plan = make_plan(root, paths, ledger, limits, window_s=window_s, complete=source.is_dir(), unlisted=folders)
        tally = _Tally(len(plan.tasks), on_event)
        tally.tell("planned")
        for folder, error in zip(folders, unlisted, strict=True):
            tally.fail(Failure(folder, "unreadable", f"the folder {folder!r} cannot be listed: {error.strerror}"))
        for failure in plan.failed:
            tally.fail(failure)
        writer = Writer(store, encoder, ledger, dim=dim, window_s=window_s, batch_size=batch_size, limits=limits)
        for outcome in writer.write(plan.tasks):
            tally.settle(outcome)
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
    )


@dataclass
class _Tally:
    """Counts what happens and tells the listener of it."""

    total: int
    listener: Callable[[Event], None] | None
    done: int = 0
    indexed: int = 0
    points: int = 0
    duplicates: int = 0
    skipped: int = 0
    failed: list[Failure] = field(default_factory=list)

    def settle(self, outcome: Outcome) -> None:
        self.done += 1
        for failure in outcome.failures:
            self.fail(failure)
        if outcome.state == "WRITTEN":
            self.indexed += 1
            self.points += outcome.points
            self.tell("written", outcome.uri, points=outcome.points)
        elif outcome.state == "SKIPPED":
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
