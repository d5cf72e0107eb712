"""Bring a store up to date with a source, whoever does the work: plan, have it done, keep the books, clear away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from tte_retriever.errors import InputError
from tte_retriever.sources.discovery import check_source, discover, root_of, uri_of
from tte_retriever_qdrant.ingestion.events import Event, EventKind, Failure, NearDuplicate, Report
from tte_retriever_qdrant.ingestion.failure_list import write_quarantine
from tte_retriever_qdrant.ingestion.journal import merge_journal
from tte_retriever_qdrant.ingestion.ledger import DUPLICATE
from tte_retriever_qdrant.ingestion.ledger_session import LedgerSession
from tte_retriever_qdrant.ingestion.planning import Task, make_plan
from tte_retriever_qdrant.records import CollectionSpec

if TYPE_CHECKING:
    from tte_retriever.media import MediaLimits
    from tte_retriever.sources.chunking import ChunkingConfig
    from tte_retriever_qdrant.encoder import Encoder
    from tte_retriever_qdrant.ingestion.ledger import Row, State
    from tte_retriever_qdrant.ingestion.reading import Outcome
    from tte_retriever_qdrant.stores import VectorStore


def spec_of(encoder: Encoder, model_name: str, *, prefix: int = 0) -> CollectionSpec:
    """What a collection of a model's vectors holds.

    Raises:
        InputError: The model does not say how long its vectors are.
    """
    dim = encoder.get_embedding_dimension()
    if dim is None:
        raise InputError("the model does not say how long its vectors are; give a complete embedding model")
    return CollectionSpec(dim, encoder.fingerprint, model_name, prefix)


def update(
    source: str | Path,
    store: VectorStore,
    spec: CollectionSpec,
    work: Work,
    *,
    cut: ChunkingConfig,
    limits: MediaLimits,
    on_event: Callable[[Event], None] | None,
) -> Report:
    """Plan what there is to do, have it done by ``work``, and delete what no file stands for any more.

    Args:
        source: A folder, or one file.
        store: An open store; its collection is made if it is not there.
        spec: What the collection holds.
        work: Decodes, embeds and writes the files that it is given, and settles each.
        cut: Into which windows videos are cut.
        limits: What may be opened.
        on_event: Is called as files are dealt with.

    Raises:
        InputError: The source is missing, empty, or holds not a single file that can be indexed, nor did it before.
        ModelMismatch: The store holds vectors of another model.
        StoreError: The store failed. What was written until then stays.
    """
    source = check_source(source)
    root = root_of(source)
    unreached: list[OSError] = []
    paths = list(discover(source, unreached.append))
    if not paths:
        raise InputError(
            f"there are no files to index in {str(source)!r}; give a folder with images, videos, PDF or text files "
            f"(hidden files and symbolic links do not count; {len(unreached)} paths could not be reached)"
        )
    store.ensure(spec)
    with LedgerSession(store) as books:
        merge_journal(store.state_dir, books.ledger)
        unknown = [uri_of(Path(error.filename), root) for error in unreached]
        plan = make_plan(root, paths, books.ledger, limits, cut=cut, complete=source.is_dir(), unknown=unknown)
        tally = Tally(len(plan.tasks), cut, on_event, record=books.record, begin=books.begin)
        tally.tell("planned")
        for uri, error in zip(unknown, unreached, strict=True):
            message = f"{uri!r} cannot be reached: {error.strerror}; check its permissions and those of its folder"
            tally.fail(Failure(uri, "unreadable", message))
        for failure in plan.failed:
            tally.fail(failure)
        try:
            near_duplicates = work(plan.tasks, tally)
        finally:
            merge_journal(store.state_dir, books.ledger)
            write_quarantine(store.state_dir, str(root), books.ledger.rows(), tally.failed)
        if obsolete := books.ledger.obsolete():
            books.begin()
            store.delete(filter={"asset_id": obsolete})
        books.ledger.forget_obsolete()
        for uri in plan.removed:
            tally.tell("removed", uri)
        books.finish()
    unchanged, duplicates = plan.unchanged + tally.unchanged, plan.duplicates + tally.duplicates
    # What was cleared away is work done, too: after an error, the update of an edge store would not take its place.
    if not (tally.indexed or unchanged or duplicates or plan.removed or obsolete):
        raise InputError(f"none of the {len(paths)} files in {str(source)!r} could be indexed; {tally.why()}")
    return Report(
        files=len(paths),
        indexed=tally.indexed,
        points=tally.points,
        unchanged=unchanged,
        duplicates=duplicates,
        skipped=plan.skipped + tally.skipped,
        removed=len(plan.removed),
        failed=tuple(tally.failed),
        near_duplicates=tuple(near_duplicates),
        absent=plan.absent,
    )


@dataclass
class Tally:
    """Notes what becomes of files, counts it, and tells the listener of it.

    Attributes:
        total: Files to decode in this run.
        cut: Into which windows videos are cut.
        listener: Is called as files are dealt with.
        record: Takes the row of each file that is dealt with; the ledger does at once, unless ``work`` knows better.
        begin: To be called before the store is written to or asked, by the thread that settles.
        done: Files dealt with.
        indexed: Those that were written.
        points: Their points.
        unchanged: Those that lack the same parts as before.
        duplicates: Those whose content is that of another file.
        skipped: Those of a kind that is not indexed.
        failed: What could not be indexed.
    """

    total: int
    cut: ChunkingConfig
    listener: Callable[[Event], None] | None
    record: Callable[[Row], None]
    begin: Callable[[], None]
    done: int = 0
    indexed: int = 0
    points: int = 0
    unchanged: int = 0
    duplicates: int = 0
    skipped: int = 0
    failed: list[Failure] = field(default_factory=list)

    def settle(self, outcome: Outcome) -> None:
        """What is left of the file is durable by now."""
        before = outcome.task.missing
        state: State = "WRITTEN" if outcome.points or before else "FAILED" if outcome.failures else "SKIPPED"
        first = outcome.failures[0] if outcome.failures else Failure(outcome.uri, outcome.reason, "")
        missing = outcome.missing if state == "WRITTEN" else ()
        cut = str(self.cut) if outcome.is_video else ""
        if state == "FAILED" or outcome.is_refused:  # as whatever the store has of it
            cut = outcome.task.row.cut
        row = replace(outcome.task.row, state=state, cut=cut, missing=" ".join(missing))
        self.record(replace(row, reason=first.reason, message=first.message))
        self.done += 1
        for failure in outcome.failures:
            self.fail(failure)
        if before and len(missing) == len(before):
            self.unchanged += 1
        elif state == "WRITTEN":
            self.indexed += 1
            self.points += outcome.points
            self.tell("written", outcome.uri, points=outcome.points)
        elif state == "SKIPPED":
            self.duplicates += outcome.reason == DUPLICATE
            self.skipped += outcome.reason != DUPLICATE
            self.tell("skipped", outcome.uri, reason=outcome.reason)

    def fail(self, failure: Failure) -> None:
        """Note a file, or a part of one, that could not be indexed."""
        self.failed.append(failure)
        self.tell("failed", failure.uri, reason=failure.reason, message=failure.message)

    def tell(self, kind: EventKind, uri: str = "", *, points: int = 0, reason: str = "", message: str = "") -> None:
        """Tell the listener."""
        if self.listener is not None:
            self.listener(Event(kind, self.done, self.total, uri, points, reason, message))

    def why(self) -> str:
        """Why nothing could be indexed."""
        if self.failed:
            return f"the first reason: {self.failed[0].message}"
        return "give images, videos, PDF, or UTF-8 text named .txt or .md"


Work: TypeAlias = Callable[[Sequence[Task], Tally], Sequence[NearDuplicate]]
"""Decodes, embeds and writes files, settles each in the tally, and returns the near-duplicates that it noticed."""
