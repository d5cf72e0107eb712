"""From files to decoded parts, and what becomes of each file."""

from __future__ import annotations

import mimetypes
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tte_retriever.errors import InputError, MediaError
from tte_retriever.media.files import describe
from tte_retriever.sources.chunking import TEXT_SUFFIXES, Chunk
from tte_retriever_qdrant.ingestion.events import Failure
from tte_retriever_qdrant.ingestion.ledger import DUPLICATE
from tte_retriever_qdrant.ingestion.worker import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from tte_retriever.sources import Item
    from tte_retriever_qdrant.ingestion.decoding import DecoderPool
    from tte_retriever_qdrant.ingestion.planning import Task

_MEDIA_TYPES = mimetypes.MimeTypes()  # Python's own table, not what happens to be registered on this machine
for _suffix in (".avif", ".heic", ".jp2", ".mkv", ".ppm", ".webp"):  # which not every version of Python knows
    _MEDIA_TYPES.add_type("video/x-matroska" if _suffix == ".mkv" else "image/" + _suffix[1:], _suffix)


@dataclass(eq=False)
class Outcome:
    """What becomes of a file; it is final when all of it is decoded and nothing is ``pending``.

    Attributes:
        task: The file.
        same: Files with the same content, which are tried in turn if nothing of this one can be decoded.
        points: Points that it has in the store, once it is final.
        failures: What could not be indexed of it.
        reason: Why it was skipped.
        is_video: Whether it is cut into windows.
        undecoded: Parts that are not decoded yet; 1 until it is known how many there are.
        pending: Parts that are decoded and not written yet.
        any_decoded: Whether some part of it could be decoded.
    """

    task: Task
    same: deque[Task] = field(default_factory=deque)
    points: int = 0
    failures: list[Failure] = field(default_factory=list)
    reason: str = ""
    is_video: bool = False
    undecoded: int = 1
    pending: int = 0
    any_decoded: bool = False

    @property
    def uri(self) -> str:
        """The file's path under its root."""
        return self.task.row.uri

    @property
    def is_refused(self) -> bool:
        """Whether the file failed as a whole, not some parts of it."""
        return any(failure.uri == self.uri for failure in self.failures)

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of its parts that are not in the store."""
        if self.is_refused:
            return self.task.missing
        return tuple(failure.uri.removeprefix(f"{self.uri}#") for failure in self.failures)

    @property
    def is_final(self) -> bool:
        """Whether nothing more will become of it."""
        return not (self.undecoded or self.pending)

    def fail(self, error: InputError, chunk: Chunk | None = None) -> None:
        """Note that the file, or a part of it, cannot be indexed."""
        uri = f"{self.uri}#{chunk.name}" if chunk is not None and chunk.name else self.uri
        # The model refuses an item without a word for it: what it got is not something that it can use.
        reason = error.reason if isinstance(error, MediaError) else "unsupported"
        self.failures.append(Failure(uri, reason, str(error)))


@dataclass(frozen=True)
class Part:
    """A decoded chunk of a file."""

    outcome: Outcome
    chunk: Chunk
    item: Item


Key = tuple[Outcome, Chunk | None]
"""What is decoded: a file, or one of its chunks."""


def read(
    tasks: Iterable[Task],
    pool: DecoderPool[Key],
    *,
    look_ahead: int,
    stored: Callable[[Outcome, Sequence[Chunk]], set[Chunk]],
    on_final: Callable[[Outcome], None],
) -> Iterator[Part]:
    """Decode files, and yield their parts as they are done.

    Args:
        tasks: The files. Of those with the same content, the first that can be decoded stands for all.
        pool: Where they are decoded.
        look_ahead: Most parts to ask for in advance.
        stored: Which chunks of a file the store has; asked of files of several chunks that an earlier run did not finish.
        on_final: Is told of files of which nothing is left to be written.
    """
    jobs: deque[Key] = deque((outcome, None) for outcome in _by_content(tasks))
    while jobs or pool.pending:
        while jobs and pool.pending < look_ahead:
            outcome, chunk = key = jobs.popleft()
            row = outcome.task.row
            pool.submit(key, Request(outcome.task.path, (row.size, row.mtime_ns), chunk))
        (outcome, chunk), answer = pool.take()
        part = None
        if isinstance(answer, MediaError):
            outcome.undecoded -= 1
            outcome.fail(answer, chunk)
        elif answer.item is None:
            done = stored(outcome, answer.chunks) if outcome.task.is_resumed else set()
            if outcome.task.missing:
                done = {each for each in answer.chunks if each.name not in outcome.task.missing}
            left = [each for each in answer.chunks if each not in done]
            outcome.points, outcome.undecoded, outcome.any_decoded = len(done), len(left), bool(done)
            outcome.is_video = any(each.modality == "video" for each in answer.chunks)
            jobs.extendleft((outcome, each) for each in reversed(left))
            if not answer.chunks:
                _explain_no_chunks(outcome)
        else:
            part = Part(outcome, answer.chunks[0], answer.item)
            outcome.undecoded -= 1
            outcome.pending += 1
            outcome.any_decoded = True
            outcome.is_video = part.chunk.modality == "video"
        if outcome.is_final:
            on_final(outcome)
        while outcome.same and not outcome.undecoded:
            twin = Outcome(outcome.same.popleft(), outcome.same)
            if not outcome.any_decoded:
                jobs.append((twin, None))
                break
            twin.undecoded, twin.reason = 0, DUPLICATE
            on_final(twin)
        if part is not None:
            yield part


def _by_content(tasks: Iterable[Task]) -> Iterable[Outcome]:
    firsts: dict[str, Outcome] = {}
    for task in tasks:
        if (first := firsts.get(task.row.asset_id)) is not None:
            first.same.append(task)
        else:
            firsts[task.row.asset_id] = Outcome(task)
    return firsts.values()


def _explain_no_chunks(outcome: Outcome) -> None:
    """A file whose name promises media is a failure; any other is of a kind that nobody asked to index."""
    path = outcome.task.path
    promised = _MEDIA_TYPES.guess_type(path.name)[0] or ""
    if (
        promised.startswith(("image/", "video/"))
        or promised == "application/pdf"
        or path.suffix.lower() in TEXT_SUFFIXES
    ):
        message = f"{describe(path)} is no image, video, PDF or text that can be opened, whatever its name says"
        outcome.fail(MediaError(message, "unsupported"))
    else:
        outcome.reason = "unsupported"
