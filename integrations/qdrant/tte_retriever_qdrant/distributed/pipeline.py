"""Index a source on a Ray cluster: this process plans and keeps the books, workers decode, embed and write."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import ray

from tte_retriever.errors import InputError, TTEError
from tte_retriever.media import DEFAULT_LIMITS, MediaLimits
from tte_retriever.sources.chunking import DEFAULT_WINDOW_S, ChunkingConfig
from tte_retriever.sources.discovery import check_source, root_of
from tte_retriever_qdrant.distributed.attempts import Attempts
from tte_retriever_qdrant.distributed.blocks import pack, unpack
from tte_retriever_qdrant.distributed.cluster import Shares, connected, own_errors, share_out
from tte_retriever_qdrant.distributed.describing import Description, describe_on_ray
from tte_retriever_qdrant.distributed.stages import Decode, Embed, Sink
from tte_retriever_qdrant.ingestion.decoding import DEFAULT_MEMORY_LIMIT, DEFAULT_TIME_LIMIT_S, check_decoding
from tte_retriever_qdrant.ingestion.events import NearDuplicate
from tte_retriever_qdrant.ingestion.journal import RunJournal
from tte_retriever_qdrant.ingestion.reading import Key, Outcome
from tte_retriever_qdrant.ingestion.updating import update
from tte_retriever_qdrant.ingestion.worker import Settings
from tte_retriever_qdrant.ingestion.writing import check_writing
from tte_retriever_qdrant.stores.opening import is_for_many_writers, open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    import pyarrow as pa

    from tte_retriever.sources.chunking import Chunk
    from tte_retriever_qdrant.encoder import Encoder
    from tte_retriever_qdrant.ingestion.events import Event, Report
    from tte_retriever_qdrant.ingestion.planning import Task
    from tte_retriever_qdrant.ingestion.updating import Tally
    from tte_retriever_qdrant.records import CollectionSpec
    from tte_retriever_qdrant.stores import VectorStore

_FILES_PER_BLOCK = 16  # what a worker process takes at a time, and has to do again if it dies


def ingest_on_ray(
    source: str | Path,
    store: VectorStore,
    load_encoder: Callable[[], Encoder],
    *,
    uri: str | None = None,
    address: str | None = None,
    model_name: str = "",
    window_s: float = DEFAULT_WINDOW_S,
    overlap_s: float = 0.0,
    prefix: int | None = None,
    batch_size: int = 32,
    limits: MediaLimits = DEFAULT_LIMITS,
    near_duplicate: float | None = None,
    workers: int | None = None,
    models: int | None = None,
    time_limit_s: float = DEFAULT_TIME_LIMIT_S,
    memory_limit: int = DEFAULT_MEMORY_LIMIT,
    description: Description | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Report:
    """Do what :func:`tte_retriever_qdrant.ingest` does, with the same result, on a Ray cluster.

    Every machine needs this package in the same version, the source under the same path, and for a server with a key
    ``QDRANT_API_KEY`` in its environment. Whatever dies, points are written at least once and by ids that their content
    gives, which amounts to exactly once.

    Args:
        source: A folder, which is searched with all its subfolders, or one file.
        store: An open store; its collection is made if it is not there. What was done is noted beside it.
        load_encoder: Loads the model; it is called in the workers, so it must be something that can be pickled.
        uri: By which workers open the same store to write to it, of a server (:func:`next_uri` for a next generation);
            ``None`` has this process write everything, which is what a store needs that one process has open at a time.
        address: ``host:6379`` of the cluster's head, or ``auto``; ``None`` starts a cluster of this machine alone.
        model_name: Name or folder by which the model can be loaded again; the store remembers it.
        window_s: Length of the windows that videos are cut into, in seconds.
        overlap_s: How much of each window is in the next one too, in seconds.
        prefix: Of a Matryoshka model, by how many leading dimensions candidates are found; 0 for none. ``None`` is that
            of the store, and none of a new one.
        batch_size: Points per write; items per call of a model that does not stream.
        limits: What may be opened.
        near_duplicate: Report points whose cosine similarity to one of another content is at least this.
        workers: Processes that decode, each with a core; ``None`` for all cores that the models leave.
        models: Copies of the model, each with a GPU, or a core where the cluster has no GPU; ``None`` for one per GPU,
            or one.
        time_limit_s: Longest that one item may take to decode, in seconds.
        memory_limit: Most memory (address space) that a process that decodes may have, in bytes.
        description: What :func:`describe_on_ray` has said, if it was asked already to open the store; ``None`` asks it.
        on_event: Is called as files are dealt with, in the caller's thread.

    Raises:
        InputError: The source is missing, empty, or holds not a single file that can be indexed; the cluster is too
            small; the store was made with another prefix; or ``uri`` is of one that only one process can write to.
        ModelMismatch: The store holds vectors of another model.
        StoreError: The store failed. What was written until then stays.
        TTEError: The cluster failed. What was written until then stays.
    """
    cut = ChunkingConfig(window_s, overlap_s)
    check_writing(batch_size, near_duplicate)
    check_decoding(time_limit_s, memory_limit)
    source = check_source(source)
    if uri is not None and not is_for_many_writers(uri):
        raise InputError(
            f"the store {uri!r} takes one writer at a time, and workers of a cluster are many; leave uri out, and this "
            "process writes for all, or give the http(s):// URI of a server"
        )
    with connected(address):
        shares = share_out(workers, models)
        if description is None:
            description = describe_on_ray(load_encoder, models=models)
        if prefix is None:
            prefix = store.spec.prefix if store.spec is not None else 0
        spec = replace(description.spec, model=model_name, prefix=prefix)
        decode = (root_of(source), Settings(description.sampling, cut, limits, memory_limit), time_limit_s)

        def work(tasks: Sequence[Task], tally: Tally) -> list[NearDuplicate]:
            if not tasks:
                return []
            tally.begin()
            # Before anything is written: the points of a file are written here and there, in no order.
            if recut := sorted({task.row.asset_id for task in tasks if task.is_recut}):
                store.delete(filter={"asset_id": recut})
            with RunJournal(store.state_dir, [task.row for task in tasks]) as manifest, own_errors():
                tally.record = manifest.add
                embedded = _embedded(tasks, decode, (load_encoder, spec, batch_size, Attempts()), shares)
                results: Iterator[pa.Table]
                if uri is None:
                    sink = Sink(lambda: store, spec, batch_size, near_duplicate)
                    results = map(sink, _tables(embedded))
                else:
                    sinks = (partial(open_store, uri, create=False), spec, batch_size, near_duplicate)
                    results = _tables(_staged(embedded, Sink, sinks, shares.models, num_cpus=0))
                return _settle_all(tasks, results, tally)

        return update(source, store, spec, work, cut=cut, limits=limits, on_event=on_event)


@dataclass
class _File:
    """What is known so far of a file whose parts are dealt with here and there."""

    outcome: Outcome
    parts: int | None = None  # as many as could be decoded, once that is known
    seen: set[Chunk] = field(default_factory=set)

    def add(self, found: Outcome, chunk: Chunk | None) -> None:
        """Take in the outcome of decoding the file, or of a part of it; of a part that comes again, nothing."""
        if chunk is None:
            self.parts = found.pending
            self.outcome.reason, self.outcome.is_video = found.reason, found.is_video
        elif chunk in self.seen:
            return
        else:
            self.seen.add(chunk)
        self.outcome.points += found.points
        self.outcome.failures += found.failures

    @property
    def is_final(self) -> bool:
        """Whether all of its parts are dealt with."""
        return len(self.seen) == self.parts


def _settle_all(tasks: Sequence[Task], results: Iterable[pa.Table], tally: Tally) -> list[NearDuplicate]:
    """Settle files as they become final."""
    files = {task.row.uri: _File(Outcome(task)) for task in tasks}
    near_duplicates: list[NearDuplicate] = []
    for table in results:
        record: Key | NearDuplicate
        for record in unpack(table):
            if isinstance(record, NearDuplicate):
                near_duplicates.append(record)
                continue
            found, chunk = record
            if (file := files.get(found.uri)) is not None:
                file.add(found, chunk)
                if file.is_final:
                    tally.settle(files.pop(found.uri).outcome)
    if files:
        raise TTEError(
            f"of {len(files)} files, such as {min(files)!r}, the cluster has lost parts; run again, and they are done"
        )
    return near_duplicates


def _embedded(
    tasks: Sequence[Task],
    decode: tuple[Path, Settings, float],
    embed: tuple[Callable[[], Encoder], CollectionSpec, int, Attempts],
    shares: Shares,
) -> ray.data.Dataset:
    """Files, decoded and embedded."""
    files = ray.data.from_arrow(list(_blocks(tasks)))
    parts = _staged(files, Decode, decode, shares.decoders, num_cpus=1)
    return _staged(parts, Embed, embed, shares.models, **shares.model_resources)


def _staged(
    records: ray.data.Dataset, stage: type, arguments: tuple[object, ...], processes: int, **resources: Any
) -> ray.data.Dataset:
    """Put records through a stage, in as many processes."""
    return records.map_batches(
        stage,
        fn_constructor_args=arguments,
        compute=ray.data.ActorPoolStrategy(size=processes),
        batch_size=None,  # whole blocks
        batch_format="pyarrow",
        **resources,
    )


def _tables(records: ray.data.Dataset) -> Iterator[pa.Table]:
    return iter(records.iter_batches(batch_size=None, batch_format="pyarrow"))


def _blocks(tasks: Sequence[Task]) -> Iterator[pa.Table]:
    """Tables of files; those with the same content are in one, for the first that can be decoded stands for all."""
    same: defaultdict[str, list[Task]] = defaultdict(list)
    for task in tasks:
        # What an earlier run has left is dealt with here, not by the workers.
        same[task.row.asset_id].append(replace(task, is_recut=False, is_resumed=False))
    block: list[Task] = []
    for files in same.values():
        block += files
        if len(block) >= _FILES_PER_BLOCK:
            yield pack(block)
            block = []
    if block:
        yield pack(block)
