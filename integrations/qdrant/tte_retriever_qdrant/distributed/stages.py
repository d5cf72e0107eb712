"""The steps of ingestion as Ray runs them: each is built once per worker process, and called with tables of records.

When a process dies, Ray starts another one, which repeats the table, and skips as many results as it has received
before. So a stage must give the same results in the same order each time. A stage loads what it needs in its first call,
since Ray builds a stage that fails in its constructor again and again.
"""

from __future__ import annotations

import socket
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

from tte_retriever.errors import InputError, TTEError
from tte_retriever_qdrant.distributed.blocks import pack, unpack
from tte_retriever_qdrant.encoder import spec_of
from tte_retriever_qdrant.ingestion.decoder_pool import DecoderPool
from tte_retriever_qdrant.ingestion.decoding import DecodedChunk, Job, decode
from tte_retriever_qdrant.ingestion.embedding import EmbeddedChunk, embed
from tte_retriever_qdrant.ingestion.state import chunk_uri
from tte_retriever_qdrant.ingestion.writing import Writer
from tte_retriever_qdrant.stores.checks import is_same_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pyarrow as pa

    from tte_retriever.sources import Chunk
    from tte_retriever_qdrant.distributed.attempts import Attempts
    from tte_retriever_qdrant.encoder import Encoder
    from tte_retriever_qdrant.ingestion.state import FileState
    from tte_retriever_qdrant.ingestion.worker import DecoderSettings
    from tte_retriever_qdrant.records import CollectionSpec
    from tte_retriever_qdrant.stores import VectorStore

_DEATHS = 2  # after which a chunk is given up: one may be chance
_ATTEMPTS = 8  # at a table: enough to give up some chunks, too few for a model that cannot work at all
_LOOK_AHEAD = 4  # chunks that are decoded while the last one is passed on

Record = TypeVar("Record")


class Decode:
    """Files in; their chunks out, and after them each file as far as it is known after decoding.

    Args:
        root: The source, which every machine must have.
        settings: How to decode.
        time_limit_s: Longest for one item, in seconds.
    """

    def __init__(self, root: Path, settings: DecoderSettings, time_limit_s: float) -> None:
        self._root, self._settings, self._time_limit_s = root, settings, time_limit_s

    def __call__(self, tasks: pa.Table) -> Iterator[pa.Table]:
        """Decode files; those with the same content are in one table."""
        files: dict[FileState, None] = {}
        chunks = decode(
            unpack(tasks),
            self._pool,
            look_ahead=_LOOK_AHEAD,
            # An unfinished file is done again completely, since not every worker can reach the store.
            stored=lambda _file, _chunks: set(),
            on_final=lambda file: files.setdefault(file),
        )
        for file, chunk, item in chunks:
            files.setdefault(file)
            # Other processes embed and write the chunk, so it has a state of its own.
            yield pack([DecodedChunk(file.one_chunk(), chunk, item)])
        if files:
            yield pack((file, None) for file in files)

    @cached_property
    def _pool(self) -> DecoderPool[Job]:
        if not self._root.is_dir():
            raise InputError(
                f"the source {str(self._root)!r} is not there on the machine {socket.gethostname()!r}; give a folder "
                "that every machine of the cluster has under the same path"
            )
        # One process answers in the order of the requests; for more, Ray makes more of these.
        return DecoderPool[Job](self._settings, workers=1, time_limit_s=self._time_limit_s)


class Embed:
    """Decoded chunks in, embedded chunks out; other records pass through.

    Args:
        load_encoder: Loads the model.
        spec: What the collection holds.
        batch_size: Items per call of a model that does not stream.
        attempts: Counts attempts in the whole cluster.
    """

    def __init__(
        self, load_encoder: Callable[[], Encoder], spec: CollectionSpec, batch_size: int, attempts: Attempts
    ) -> None:
        self._load_encoder, self._spec, self._batch_size = load_encoder, spec, batch_size
        self._attempts = attempts

    def __call__(self, records: pa.Table) -> Iterator[pa.Table]:
        """Encode chunks as documents; after a process has died of the same table, one at a time."""
        others: list[object] = []
        chunks = _of_type(DecodedChunk, records, others)
        if (first := next(chunks, None)) is not None:
            name = chunk_uri(first.file, first.chunk)
            attempt = self._attempts.begin(f"from {name}")
            if attempt > _ATTEMPTS:  # Ray itself would go on for ever
                raise TTEError(
                    f"the model's process died each of {_ATTEMPTS} times at {name!r} and the files after it; what "
                    "was written stays, but the next run will stop there, too: see whether the machines have enough "
                    "memory for the model, and index these files without --engine ray to see what it dies of"
                )
            encoder = self._encoder  # loaded here: a process that dies while it loads the model dies of no chunk
            chunks = chain([first], chunks)
            for embedded in self._embed(encoder, chunks) if attempt == 1 else self._one_by_one(encoder, chunks):
                yield pack([embedded])
            self._attempts.end(f"from {name}")
        if others:
            yield pack(others)

    def _embed(self, encoder: Encoder, chunks: Iterator[DecodedChunk]) -> Iterator[EmbeddedChunk]:
        return embed(encoder, chunks, batch_size=self._batch_size, dim=self._spec.dim)

    def _one_by_one(self, encoder: Encoder, chunks: Iterator[DecodedChunk]) -> Iterator[EmbeddedChunk]:
        """Embed chunks, except those that processes have died of when they had nothing else to do."""
        for each in chunks:
            name = chunk_uri(each.file, each.chunk)
            if self._attempts.begin(name) > _DEATHS:
                error = InputError(
                    f"the model's process died each of the {_DEATHS} times that it was given {name!r} alone; see "
                    "whether it has enough memory, make the file smaller, or leave it out: the next run tries it again"
                )
                yield EmbeddedChunk(each.file, each.chunk, "", error)
            else:
                yield from self._embed(encoder, iter([each]))
                self._attempts.end(name)

    @cached_property
    def _encoder(self) -> Encoder:
        encoder = self._load_encoder()
        found = spec_of(encoder, self._spec.model)
        if not is_same_model(found, self._spec):
            raise TTEError(
                f"the machine {socket.gethostname()!r} loads {found.model or 'the model'} with the fingerprint "
                f"{found.fingerprint}, and another one with {self._spec.fingerprint}; install the same model and the "
                "same versions of everything on all of them"
            )
        return encoder


class Sink:
    """Embedded chunks in; for each, once it is durable, its outcome out; other records pass through.

    Args:
        open_store: Opens the store to write to.
        spec: What it holds.
        batch_size: Most points of one write.
        near_duplicate: As for :class:`Writer`.
    """

    def __init__(
        self,
        open_store: Callable[[], VectorStore],
        spec: CollectionSpec,
        batch_size: int,
        near_duplicate: float | None,
    ) -> None:
        self._open_store, self._spec = open_store, spec
        self._batch_size, self._near_duplicate = batch_size, near_duplicate

    def __call__(self, records: pa.Table) -> pa.Table:
        """Write points; all are durable on return."""
        written: dict[FileState, Chunk] = {}
        done: list[object] = []
        store = self._store
        writer = Writer(
            store,
            (store.spec or self._spec).fingerprint,
            self._batch_size,
            self._near_duplicate,
            begin=lambda: None,  # the run has begun to write before it has tables for this stage
            on_final=lambda file: done.append((file, written.pop(file))),
        )
        with writer:
            for embedded in _of_type(EmbeddedChunk, records, done):
                written[embedded.file] = embedded.chunk
                writer.add(embedded)
            writer.finish()
        return pack([*done, *writer.near_duplicates])

    @cached_property
    def _store(self) -> VectorStore:
        store = self._open_store()
        store.ensure(self._spec)  # it was made for the model already: this refuses one that was replaced since
        return store


def _of_type(kind: type[Record], records: pa.Table, others: list[object]) -> Iterator[Record]:
    """The records of one type; the others are added to ``others``."""
    for record in unpack(records):
        if isinstance(record, kind):
            yield record
        else:
            others.append(record)
