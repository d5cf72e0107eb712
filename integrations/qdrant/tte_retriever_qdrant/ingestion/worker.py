"""The process in which files are decoded: a crash, a hang or running out of memory fails one item and not the run.

It is started by :mod:`tte_retriever_qdrant.ingestion.decoder_pool`, loads no model, and ends when the other end of its
connection closes or the process that started it dies.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING

from tte_retriever.errors import MediaError
from tte_retriever.media.files import describe
from tte_retriever.sources.chunking import chunks_of, load_chunk
from tte_retriever.sources.identity import stamp

if TYPE_CHECKING:
    from pathlib import Path

    from tte_retriever.media import MediaLimits, VideoSampling
    from tte_retriever.sources import Item
    from tte_retriever.sources.chunking import Chunk, ChunkingConfig

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class DecoderSettings:
    """How files are decoded.

    Attributes:
        sampling: Which frames of a video are taken.
        chunking: Into which windows it is cut.
        limits: What may be opened.
        memory_limit: Most address space of the process, in bytes.
    """

    sampling: VideoSampling
    chunking: ChunkingConfig
    limits: MediaLimits
    memory_limit: int


@dataclass(frozen=True)
class Request:
    """A file to cut into chunks, or with ``chunk`` one of them to decode; ``stamp`` is its size and time of change."""

    path: Path
    stamp: tuple[int, int]
    chunk: Chunk | None = None


@dataclass(frozen=True)
class Decoded:
    """The chunks of a file, and an item if it is one chunk: of a file with a single chunk, or of the requested chunk."""

    chunks: tuple[Chunk, ...]
    item: Item | None = None


def main(fd: int, parent: int) -> None:
    """Answer requests on a connection until it is closed.

    Args:
        fd: The connection's file descriptor.
        parent: Id of the process at its other end.
    """
    _die_with(parent)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with Connection(fd) as connection:
        settings: DecoderSettings = connection.recv()
        resource.setrlimit(resource.RLIMIT_AS, (settings.memory_limit, settings.memory_limit))
        # From here on, the user's terminal does not show what libraries print about broken files.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
        connection.send(None)
        while True:
            try:
                request = connection.recv()
            except EOFError:
                return
            connection.send_bytes(_answer(request, settings))


def _die_with(parent: int) -> None:
    if sys.platform == "linux":  # elsewhere it ends with the connection, after the item that it decodes
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit()


def _answer(request: Request, settings: DecoderSettings) -> bytes:
    answer: Decoded | MediaError
    try:
        return _pickled(_decode(request, settings))
    except Exception as error:  # the bytes are untrusted: whatever they cause, the item has failed
        if _is_out_of_memory(error):
            message = (
                f"decoding {describe(request.path)} takes more than the {settings.memory_limit >> 20} MiB that a "
                "decoder process may have; make it smaller, or allow more"
            )
            answer = MediaError(message, "too-large")
        elif isinstance(error, MediaError):
            answer = error
        else:
            answer = MediaError(f"{describe(request.path)} cannot be decoded: {error}", "corrupt")
    return _pickled(answer)


def _decode(request: Request, settings: DecoderSettings) -> Decoded:
    path = request.path
    found = tuple(chunks_of(path, settings.chunking, settings.limits)) if request.chunk is None else (request.chunk,)
    item = load_chunk(path, found[0], settings.sampling, settings.limits) if len(found) == 1 else None
    if stamp(path) != request.stamp:
        raise MediaError(f"{describe(path)} changed while it was being read; run again", "unreadable")
    return Decoded(found, item)


def _pickled(answer: Decoded | MediaError) -> bytes:
    return bytes(ForkingPickler.dumps(answer))


def _is_out_of_memory(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False
