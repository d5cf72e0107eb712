"""One indexing run: find and plan before the work, clear away and report after it, whoever does the work."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from tte_retriever.errors import InputError
from tte_retriever.sources import check_source, discover
from tte_retriever_qdrant.ingestion.events import Event, EventKind, Failure, NearDuplicate, Report
from tte_retriever_qdrant.ingestion.failure_list import write_failures
from tte_retriever_qdrant.ingestion.journal import merge_journal
from tte_retriever_qdrant.ingestion.ledger_session import LedgerSession
from tte_retriever_qdrant.ingestion.planning import Plan, make_plan
from tte_retriever_qdrant.ingestion.state import DUPLICATE, FileState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tte_retriever.media import MediaLimits
    from tte_retriever.sources import ChunkingConfig
    from tte_retriever_qdrant.records import CollectionSpec
    from tte_retriever_qdrant.stores import VectorStore


class IndexingRun:
    """Records what becomes of files, counts it, and calls the listener.

    Attributes:
        files: Files to decode, embed and write.
        near_duplicates: Points that are almost the same as others; the work adds them.
        record: Takes the record of each file that is final: the ledger, unless the work replaces it.
        begin: To be called before the store is written to or asked, by the thread that records outcomes.
    """

    def __init__(
        self,
        plan: Plan,
        found: int,
        session: LedgerSession,
        chunking: ChunkingConfig,
        on_event: Callable[[Event], None] | None,
    ) -> None:
        self.files = plan.files
        self.near_duplicates: list[NearDuplicate] = []
        self.record, self.begin = session.record, session.begin
        self.failed: list[Failure] = []
        self._plan, self._found, self._chunking, self._on_event = plan, found, chunking, on_event
        self._counts = plan.counts
        self._done = 0
        self._emit("planned")
        for failure in plan.failed:
            self._fail(failure)

    def record_outcome(self, file: FileState) -> None:
        """Record a file of which everything that is left is durable."""
        record = file.outcome(self._chunking)
        self.record(record)
        self._done += 1
        for failure in file.failures:
            self._fail(failure)
        if file.retried and len(record.missing) == len(file.retried):
            self._counts["unchanged"] += 1
        elif record.state == "WRITTEN":
            self._counts["indexed"] += 1
            self._counts["points"] += file.points
            self._emit("written", file.uri, points=file.points)
        elif record.state == "SKIPPED":
            self._counts["duplicates" if record.reason == DUPLICATE else "skipped"] += 1
            self._emit("skipped", file.uri, reason=record.reason)

    def report(self) -> Report:
        """What the run has done."""
        counts = {name: self._counts[name] for name in ("indexed", "points", "unchanged", "duplicates", "skipped")}
        return Report(
            files=self._found,
            **counts,
            removed=len(self._plan.removed),
            failed=tuple(self.failed),
            near_duplicates=tuple(self.near_duplicates),
            absent=self._plan.absent,
        )

    def emit_removed(self) -> None:
        """Call the listener for each file that is gone."""
        for uri in self._plan.removed:
            self._emit("removed", uri)

    def check_indexed(self, source: str | Path, *, any_deleted: bool) -> None:
        """Raise an ``InputError`` if the run indexed, kept and removed nothing."""
        # What was cleared away is work done, too: after an error, the copy of an edge store would not take its place.
        if any_deleted or self._plan.removed or any(map(self._counts.get, ("indexed", "unchanged", "duplicates"))):
            return
        reason = "give images, videos, PDF, or UTF-8 text named .txt or .md"
        if self.failed:
            reason = f"the first reason: {self.failed[0].message}"
        raise InputError(f"none of the {self._found} files in {str(source)!r} could be indexed; {reason}")

    def _fail(self, failure: Failure) -> None:
        self.failed.append(failure)
        self._emit("failed", failure.uri, reason=failure.reason, message=failure.message)

    def _emit(self, kind: EventKind, uri: str = "", *, points: int = 0, reason: str = "", message: str = "") -> None:
        if self._on_event is not None:
            self._on_event(Event(kind, self._done, len(self.files), uri, points, reason, message))


@contextmanager
def indexing_run(
    source: str | Path,
    store: VectorStore,
    spec: CollectionSpec,
    *,
    chunking: ChunkingConfig,
    limits: MediaLimits,
    on_event: Callable[[Event], None] | None,
) -> Iterator[IndexingRun]:
    """Plan what there is to do; after the block, record failures and delete the points that no file has any more.

    Args:
        source: A folder, or one file.
        store: An open store; its collection is made if it does not exist.
        spec: What the collection holds.
        chunking: Into which windows videos are cut.
        limits: What may be opened.
        on_event: Is called as files become final.

    Yields:
        The run; the block decodes, embeds and writes its files, and calls ``record_outcome`` with each.

    Raises:
        InputError: The source is missing, empty, or holds not a single file that can be indexed, nor did it before.
        ModelMismatch: The store holds vectors of another model.
        StoreError: The store failed. What was written until then stays.
    """
    source = check_source(source)
    unreached: list[OSError] = []
    paths = list(discover(source, unreached.append))
    if not paths:
        raise InputError(
            f"there are no files to index in {str(source)!r}; give a folder with images, videos, PDF or text files "
            f"(hidden files and symbolic links do not count; {len(unreached)} paths could not be reached)"
        )
    store.ensure(spec)
    with LedgerSession(store) as session:
        merge_journal(store.state_dir, session.ledger)
        plan = make_plan(source, paths, unreached, session.ledger, limits, chunking)
        run = IndexingRun(plan, len(paths), session, chunking, on_event)
        try:
            yield run
        finally:
            merge_journal(store.state_dir, session.ledger)
            write_failures(store.state_dir, str(plan.root), session.ledger.records(), run.failed)
        any_deleted = session.delete_obsolete()
        run.emit_removed()
        session.finish()
    run.check_indexed(source, any_deleted=any_deleted)


def stored_prefix(store: VectorStore) -> int:
    """By how many leading dimensions a store finds candidates; 0 for none, and for a store that is new."""
    return store.spec.prefix if store.spec is not None else 0
