"""The steps of ingestion as Ray runs them: each is made once per worker process, and called with tables of records.

Ray starts a process that died again, has it repeat the table that it was at, and leaves out as many results as it has
got before. So a stage must give the same results in the same order each time. What a stage needs it gets in its first
call, for Ray makes stages that fail while they are made again and again.
"""

from __future__ import annotations

import socket
from dataclasses import replace
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING

from tte_retriever.errors import InputError, TTEError
from tte_retriever_qdrant.distributed.blocks import pack, unpack
from tte_retriever_qdrant.ingestion.decoding import DecoderPool
from tte_retriever_qdrant.ingestion.embedding import Embedded, embed
from tte_retriever_qdrant.ingestion.reading import Key, Outcome, Part, read
from tte_retriever_qdrant.ingestion.updating import spec_of
from tte_retriever_qdrant.ingestion.writing import Writer
from tte_retriever_qdrant.stores.checks import is_same_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import pyarrow as pa

    from tte_retriever.sources.chunking import Chunk
    from tte_retriever_qdrant.distributed.attempts import Attempts
    from tte_retriever_qdrant.encoder import Encoder
    from tte_retriever_qdrant.ingestion.worker import Settings
    from tte_retriever_qdrant.records import CollectionSpec
    from tte_retriever_qdrant.stores import VectorStore

_DEATHS = 2  # after which a part is given up: once may be by chance
_ATTEMPTS = 8  # at a table: some for parts that are given up, not for a model that cannot work at all
_LOOK_AHEAD = 4  # parts that are decoded while the last one is passed on


class Decode:
    """Files in; their parts out, and after them the outcome of each file as far as decoding goes.

    Args:
        root: The source, which every machine must have.
        settings: How to decode.
        time_limit_s: Longest for one item, in seconds.
    """

    def __init__(self, root: Path, settings: Settings, time_limit_s: float) -> None:
        self._root, self._settings, self._time_limit_s = root, settings, time_limit_s

    def __call__(self, tasks: pa.Table) -> Iterator[pa.Table]:
        """Decode files; those with the same content are in one table."""
        files: dict[Outcome, None] = {}
        parts = read(
            unpack(tasks),
            self._pool,
            look_ahead=_LOOK_AHEAD,
            stored=_none_of_them,
            on_final=lambda outcome: files.setdefault(outcome),
        )
        for part in parts:
            files.setdefault(part.outcome)
            # Parts go their own ways from here on, so each has an outcome of its own.
            yield pack([replace(part, outcome=Outcome(part.outcome.task, undecoded=0, pending=1))])
        if files:
            yield pack((outcome, None) for outcome in files)

    @cached_property
    def _pool(self) -> DecoderPool[Key]:
        if not self._root.is_dir():
            raise InputError(
                f"the source {str(self._root)!r} is not there on the machine {socket.gethostname()!r}; give a folder "
                "that every machine of the cluster has under the same path"
            )
        # One process answers in the order of the requests; for more, Ray makes more of these.
        return DecoderPool[Key](self._settings, workers=1, time_limit_s=self._time_limit_s)


class Embed:
    """Parts in, embedded parts out; whatever else there is passes through.

    Args:
        load_encoder: Loads the model.
        spec: What the collection holds.
        batch_size: Items per call of a model that does not stream.
        attempts: Counts those of the whole cluster.
    """

    def __init__(
        self, load_encoder: Callable[[], Encoder], spec: CollectionSpec, batch_size: int, attempts: Attempts
    ) -> None:
        self._load_encoder, self._spec, self._batch_size = load_encoder, spec, batch_size
        self._attempts = attempts

    def __call__(self, records: pa.Table) -> Iterator[pa.Table]:
        """Encode parts as documents; after a process has died of the same table, one by one."""
        others: list[object] = []
        parts = _parts(records, others)
        if (first := next(parts, None)) is not None:
            table, parts = f"from {_name(first)}", chain([first], parts)
            attempt = self._attempts.begin(table)
            if attempt > _ATTEMPTS:  # Ray itself would go on for ever
                raise TTEError(
                    f"the model's process died each of {_ATTEMPTS} times at {_name(first)!r} and the files after it; what "
                    "was written stays, but the next run will stop there, too: see whether the machines have enough "
                    "memory for the model, and index these files without --engine ray to see what it dies of"
                )
            encoder = self._encoder  # here, for a process that dies while it loads the model dies of no part
            for embedded in self._embed(encoder, parts) if attempt == 1 else self._one_by_one(encoder, parts):
                yield pack([embedded])
            self._attempts.end(table)
        if others:
            yield pack(others)

    def _embed(self, encoder: Encoder, parts: Iterator[Part]) -> Iterator[Embedded]:
        return embed(encoder, parts, batch_size=self._batch_size, dim=self._spec.dim)

    def _one_by_one(self, encoder: Encoder, parts: Iterator[Part]) -> Iterator[Embedded]:
        """Embed parts, but for those that processes have died of when they had nothing else to do."""
        for part in parts:
            name = _name(part)
            if self._attempts.begin(name) > _DEATHS:
                error = InputError(
                    f"the model's process died each of the {_DEATHS} times that it was given {name!r} alone; see "
                    "whether it has enough memory, make the file smaller, or leave it out: the next run tries it again"
                )
                yield Embedded(part.outcome, part.chunk, "", error)
            else:
                yield from self._embed(encoder, iter([part]))
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
    """Embedded parts in; for each, once it is durable, its outcome out; whatever else there is passes through.

    Args:
        open_store: Opens the store to write to.
        spec: What it holds.
        batch_size: Most points of one write.
        near_duplicate: As of :class:`Writer`.
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
        written: dict[Outcome, Chunk] = {}
        done: list[object] = []
        with Writer(
            self._store,
            self._spec.fingerprint,
            batch_size=self._batch_size,
            near_duplicate=self._near_duplicate,
            begin=_begun,
            on_final=lambda outcome: done.append((outcome, written.pop(outcome))),
        ) as writer:
            for embedded in _embedded(records, done):
                written[embedded.outcome] = embedded.chunk
                writer.add(embedded)
            writer.finish()
        return pack([*done, *writer.near_duplicates])

    @cached_property
    def _store(self) -> VectorStore:
        store = self._open_store()
        store.ensure(self._spec)  # which it did: this refuses one that another model has replaced since
        return store


def _name(part: Part) -> str:
    return f"{part.outcome.uri}#{part.chunk.name}" if part.chunk.name else part.outcome.uri


def _begun() -> None:
    """The run has begun to write before it has tables for this stage."""


def _none_of_them(_outcome: Outcome, _units: Sequence[Chunk]) -> set[Chunk]:
    return set()  # an unfinished file is done again as a whole, for not every worker can ask the store


def _parts(records: pa.Table, others: list[object]) -> Iterator[Part]:
    for record in unpack(records):
        if isinstance(record, Part):
            yield record
        else:
            others.append(record)


def _embedded(records: pa.Table, others: list[object]) -> Iterator[Embedded]:
    for record in unpack(records):
        if isinstance(record, Embedded):
            yield record
        else:
            others.append(record)
