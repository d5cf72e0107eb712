"""The state of a file, from the moment a run finds it until the ledger keeps the outcome.

A file has one of four states. The ledger keeps it, so a run that is killed anywhere leaves it behind::

                    plan                          decode, embed, write
    file found ───┬───────► NEW ───────────────┬──────────────────────────────────► WRITTEN
                  │          ▲                 │ no chunk is stored, one failed
                  │          │                 ├──────────────────────────────────► FAILED
                  │          │                 │ another file has that content,
                  │          │                 │ or its kind is not indexed
                  │          │                 └──────────────────────────────────► SKIPPED
                  │          │
                  │          └── the next run: see below
                  └─ another file has that content ───────────────────────────────► SKIPPED

    before    the next run finds                                        after planning
    NEW       that a run was killed                                     NEW, stored chunks are not embedded again
    WRITTEN   the same content, chunked in the same way                 WRITTEN
    WRITTEN   the same content, and chunks that are missing             NEW, only these are tried again
    WRITTEN   the same content, to be chunked in another way            NEW, its points are deleted first
    SKIPPED   the same content, of a kind that is not indexed           SKIPPED
    SKIPPED   the same content, and no other file has it any more       NEW
    FAILED    the same content                                          NEW
    any       another content                                           NEW, the old content becomes obsolete
    any       no file                                                   removed, its content becomes obsolete

Within a run, a file that is NEW counts its chunks: first they are ``undecoded``, then ``pending`` until their points are
durable. When both are 0 the file is final and :meth:`FileState.outcome` says what the ledger keeps.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

from tte_retriever.errors import InputError, MediaError
from tte_retriever_qdrant.ingestion.events import Failure

if TYPE_CHECKING:
    from pathlib import Path

    from tte_retriever.sources import Chunk, ChunkingConfig

State: TypeAlias = Literal["NEW", "WRITTEN", "SKIPPED", "FAILED"]

DUPLICATE = "duplicate"
"""Why a file is SKIPPED whose content is stored under another name."""


@dataclass(frozen=True)
class FileRecord:
    """What the ledger keeps of a file.

    Attributes:
        root: The source folder, absolute.
        uri: The file's path under it.
        size: Bytes.
        mtime_ns: Time of its last change, in nanoseconds.
        asset_id: SHA-256 of its bytes; empty if they could not be read.
        state: How far it got.
        chunkings: How a video is cut into windows (``str`` of a :class:`ChunkingConfig`). As long as the file is not
            WRITTEN, all ways in which the store may hold windows of it.
        reason: Why it was SKIPPED or FAILED; of a WRITTEN file, why chunks of it are missing.
        message: The same for people.
        missing: Names of the chunks of a WRITTEN file that could not be indexed; all others are in the store.
    """

    root: str
    uri: str
    size: int
    mtime_ns: int
    asset_id: str
    state: State
    chunkings: tuple[str, ...] = ()
    reason: str = ""
    message: str = ""
    missing: tuple[str, ...] = ()


@dataclass(eq=False)
class FileState:
    """A file in a run.

    Attributes:
        path: Where it is.
        record: What the ledger keeps of it, as it was found on the disk in this run.
        before: What the ledger kept of the same content until now.
        is_rechunked: Whether the store may hold windows of it that were cut in another way.
        is_resumed: Whether an earlier run may have written some of its points.
        retried: Names of the chunks that are tried again, if an earlier run has written all others.
        twins: Files with the same content; they are tried in turn if no chunk of this one can be decoded.
        undecoded: Chunks that are not decoded yet; 1 until it is known how many there are.
        pending: Chunks that are decoded and whose points are not durable yet.
        any_decoded: Whether a chunk was decoded, or is in the store already.
        is_video: Whether it is cut into windows.
        points: Points that it has in the store, once it is final.
        failures: What of it could not be indexed.
        skip_reason: Why it was skipped.
    """

    path: Path
    record: FileRecord
    before: FileRecord | None = None
    is_rechunked: bool = False
    is_resumed: bool = False
    retried: tuple[str, ...] = ()
    twins: deque[FileState] = field(default_factory=deque)
    undecoded: int = 1
    pending: int = 0
    any_decoded: bool = False
    is_video: bool = False
    points: int = 0
    failures: list[Failure] = field(default_factory=list)
    skip_reason: str = ""

    @property
    def uri(self) -> str:
        """The file's path under its root."""
        return self.record.uri

    @property
    def asset_id(self) -> str:
        """SHA-256 of its bytes."""
        return self.record.asset_id

    @property
    def is_final(self) -> bool:
        """Whether all chunks are decoded and all points are durable."""
        return not (self.undecoded or self.pending)

    def fail(self, error: InputError, chunk: Chunk | None = None) -> None:
        """Note that the file, or one of its chunks, cannot be indexed."""
        # A model that refuses an item gives no reason: the item is something that it cannot use.
        reason = error.reason if isinstance(error, MediaError) else "unsupported"
        self.failures.append(Failure(chunk_uri(self, chunk), reason, str(error)))

    def one_chunk(self) -> FileState:
        """The state of one decoded chunk, which other processes embed and write; :meth:`merge` adds its outcome."""
        return FileState(self.path, self.record, undecoded=0, pending=1)

    def merge(self, found: FileState, *, is_chunk: bool) -> None:
        """Add what another process found out about the file.

        Args:
            found: The outcome of one chunk, which is durable; or the state of the file once all of it is decoded, with
                the number of chunks as ``pending``. Chunks may come first, so ``pending`` may be negative until then.
            is_chunk: Which of the two it is.
        """
        self.points += found.points
        self.failures += found.failures
        if is_chunk:
            self.pending -= 1
        else:
            self.undecoded, self.pending = 0, self.pending + found.pending
            self.skip_reason, self.is_video = found.skip_reason, found.is_video

    def outcome(self, chunking: ChunkingConfig) -> FileRecord:
        """What the ledger keeps of the file once it is final.

        Args:
            chunking: Into which windows videos were cut in this run.
        """
        is_refused = any(failure.uri == self.uri for failure in self.failures)  # the file as a whole
        state: State = "WRITTEN" if self.points or self.retried else "FAILED" if self.failures else "SKIPPED"
        first = self.failures[0] if self.failures else Failure(self.uri, self.skip_reason, "")
        missing: tuple[str, ...] = ()
        if state == "WRITTEN":
            names = tuple(failure.uri.removeprefix(f"{self.uri}#") for failure in self.failures)
            missing = self.retried if is_refused else names
        chunkings: tuple[str, ...] = (str(chunking),) if self.is_video else ()
        if state == "FAILED" or is_refused:  # the store may still hold what earlier runs wrote
            chunkings = self.record.chunkings
        return replace(
            self.record, state=state, chunkings=chunkings, reason=first.reason, message=first.message, missing=missing
        )


def chunk_uri(file: FileState, chunk: Chunk | None) -> str:
    """The name of a chunk in messages, such as ``a.pdf#page=3``; that of the file for a whole one."""
    return f"{file.uri}#{chunk.name}" if chunk is not None and chunk.name else file.uri
