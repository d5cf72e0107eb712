"""From files to decoded chunks."""

from __future__ import annotations

import mimetypes
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from tte_retriever.errors import MediaError
from tte_retriever.media.files import describe
from tte_retriever.sources import TEXT_SUFFIXES, Chunk
from tte_retriever_qdrant.ingestion.state import DUPLICATE, FileState
from tte_retriever_qdrant.ingestion.worker import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from tte_retriever.sources import Item
    from tte_retriever_qdrant.ingestion.decoder_pool import DecoderPool

_MEDIA_TYPES = mimetypes.MimeTypes()  # Python's own table, not what happens to be registered on this machine
for _suffix in (".avif", ".heic", ".jp2", ".mkv", ".ppm", ".webp"):  # not every version of Python has them
    _MEDIA_TYPES.add_type("video/x-matroska" if _suffix == ".mkv" else "image/" + _suffix[1:], _suffix)


class DecodedChunk(NamedTuple):
    """A chunk of a file, decoded."""

    file: FileState
    chunk: Chunk
    item: Item


Job: TypeAlias = tuple[FileState, Chunk | None]
"""What is decoded: a file, or one of its chunks."""


def decode(
    files: Iterable[FileState],
    pool: DecoderPool[Job],
    *,
    look_ahead: int,
    stored: Callable[[FileState, Sequence[Chunk]], set[Chunk]],
    on_final: Callable[[FileState], None],
) -> Iterator[DecodedChunk]:
    """Decode files, and yield their chunks as they are done.

    Args:
        files: The files. Of those with the same content, the first that can be decoded stands for all.
        pool: Decodes them.
        look_ahead: Most chunks to request in advance.
        stored: Returns which chunks of a file the store has; called for files that an earlier run did not finish.
        on_final: Is called with each file of which nothing is left to be written.
    """
    jobs: deque[Job] = deque((file, None) for file in _group_by_content(files))
    while jobs or pool.pending:
        while jobs and pool.pending < look_ahead:
            file, chunk = job = jobs.popleft()
            pool.submit(job, Request(file.path, (file.record.size, file.record.mtime_ns), chunk))
        (file, chunk), answer = pool.take()
        decoded = None
        if isinstance(answer, MediaError):
            file.undecoded -= 1
            file.fail(answer, chunk)
        elif answer.item is None:
            todo = _chunks_to_do(file, answer.chunks, stored)
            jobs.extendleft((file, each) for each in reversed(todo))
        else:
            decoded = DecodedChunk(file, answer.chunks[0], answer.item)
            file.undecoded -= 1
            file.pending += 1
            file.any_decoded, file.is_video = True, decoded.chunk.modality == "video"
        if file.is_final:
            on_final(file)
        if (twin := _settle_twins(file, on_final)) is not None:
            jobs.append((twin, None))
        if decoded is not None:
            yield decoded


def _group_by_content(files: Iterable[FileState]) -> Iterable[FileState]:
    """The first file of each content, with the others as its twins."""
    firsts: dict[str, FileState] = {}
    for file in files:
        if (first := firsts.setdefault(file.asset_id, file)) is not file:
            first.twins.append(file)
    return firsts.values()


def _chunks_to_do(
    file: FileState, chunks: Sequence[Chunk], stored: Callable[[FileState, Sequence[Chunk]], set[Chunk]]
) -> list[Chunk]:
    """The chunks of a file that are not in the store yet; now it is known how many there are."""
    done = stored(file, chunks) if file.is_resumed else set()
    if file.retried:
        done = {each for each in chunks if each.name not in file.retried}
    todo = [each for each in chunks if each not in done]
    file.points, file.undecoded, file.any_decoded = len(done), len(todo), bool(done)
    file.is_video = any(each.modality == "video" for each in chunks)
    if not chunks:
        _explain_no_chunks(file)
    return todo


def _settle_twins(file: FileState, on_final: Callable[[FileState], None]) -> FileState | None:
    """Once a file is decoded, its twins are duplicates of it; if nothing could be decoded, the next twin is tried.

    Returns:
        The twin to decode, if there is one.
    """
    if file.undecoded or not file.twins:
        return None
    if not file.any_decoded:
        twin = file.twins.popleft()
        twin.twins, file.twins = file.twins, deque()
        return twin
    while file.twins:
        twin = file.twins.popleft()
        twin.undecoded, twin.skip_reason = 0, DUPLICATE
        on_final(twin)
    return None


def _explain_no_chunks(file: FileState) -> None:
    """A file whose name promises media is a failure; any other is of a kind that is not indexed."""
    promised = _MEDIA_TYPES.guess_type(file.path.name)[0] or ""
    is_media = promised.startswith(("image/", "video/")) or promised == "application/pdf"
    if is_media or file.path.suffix.lower() in TEXT_SUFFIXES:
        message = f"{describe(file.path)} is no image, video, PDF or text that can be opened, whatever its name says"
        file.fail(MediaError(message, "unsupported"))
    else:
        file.skip_reason = "unsupported"
