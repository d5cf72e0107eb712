"""Index a source on a Ray cluster: this process plans and records, workers decode, embed and write."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import ray

from tte_retriever.errors import InputError, TTEError
from tte_retriever.media import DEFAULT_LIMITS, MediaLimits
from tte_retriever.sources import DEFAULT_WINDOW_S, ChunkingConfig, check_source, root_of
from tte_retriever_qdrant.distributed.attempts import Attempts
from tte_retriever_qdrant.distributed.blocks import pack, unpack
from tte_retriever_qdrant.distributed.cluster import Shares, connected, own_errors, share_out
from tte_retriever_qdrant.distributed.describing import Description, describe_on_ray
from tte_retriever_qdrant.distributed.stages import Decode, Embed, Sink
from tte_retriever_qdrant.ingestion.decoder_pool import DEFAULT_MEMORY_LIMIT, DEFAULT_TIME_LIMIT_S, check_decoding
from tte_retriever_qdrant.ingestion.events import NearDuplicate
from tte_retriever_qdrant.ingestion.journal import RunJournal
from tte_retriever_qdrant.ingestion.run import IndexingRun, indexing_run, stored_prefix
from tte_retriever_qdrant.ingestion.worker import DecoderSettings
from tte_retriever_qdrant.ingestion.writing import check_writing
from tte_retriever_qdrant.stores.opening import is_for_many_writers, open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    import pyarrow as pa

    from tte_retriever.sources import Chunk
    from tte_retriever_qdrant.encoder import Encoder
    from tte_retriever_qdrant.ingestion.events import Event, Report
    from tte_retriever_qdrant.ingestion.state import FileState
    from tte_retriever_qdrant.records import CollectionSpec
    from tte_retriever_qdrant.stores import VectorStore

_FILES_PER_BLOCK = 16  # a worker process gets so many at a time, and does them again if it dies


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

    Every machine needs this package in the same version, the source under the same path, and ``QDRANT_API_KEY`` in its
    environment for a server with a key. Whatever process dies, each point is written at least once, under an id that its
    content gives, so the result is the same as if it had been written exactly once.

    Args:
        source: A folder, which is searched with all its subfolders, or one file.
        store: An open store; its collection is made if it does not exist. Its ledger is on this machine.
        load_encoder: Loads the model; workers call it, so it must be possible to pickle it.
        uri: URI by which workers open the same store, of a server (:func:`next_uri` for a next generation). With
            ``None`` this process writes everything, as a store needs that only one process can open.
        address: ``host:6379`` of the cluster's head, or ``auto``; ``None`` starts a cluster of this machine alone.
        model_name: Name or folder by which the model can be loaded again; the store remembers it.
        window_s: Length of the windows that videos are cut into, in seconds.
        overlap_s: How much of each window is in the next one too, in seconds.
        prefix: Of a Matryoshka model, by how many leading dimensions candidates are found; 0 for none. ``None`` is the
            prefix of the store, and none for a new one.
        batch_size: Points per write; items per call of a model that does not stream.
        limits: What may be opened.
        near_duplicate: Report points whose cosine similarity to one of another content is at least this.
        workers: Processes that decode, each with a core; ``None`` is all cores that the models leave.
        models: Copies of the model, each with a GPU, or with a core where the cluster has no GPU; ``None`` is one per
            GPU, or one.
        time_limit_s: Longest that one item may take to decode, in seconds.
        memory_limit: Most memory (address space) of each process that decodes, in bytes.
        description: The result of :func:`describe_on_ray`, if it was needed to open the store; ``None`` calls it.
        on_event: Is called as files become final, in the caller's thread.

    Raises:
        InputError: The source is missing, empty, or holds not a single file that can be indexed; the cluster is too
            small; the store was made with another prefix; or ``uri`` is a store that only one process can write to.
        ModelMismatch: The store holds vectors of another model.
        StoreError: The store failed. What was written until then stays.
        TTEError: The cluster failed. What was written until then stays.

    Example:
        >>> from functools import partial
        >>> from tte_retriever import TTEEncoder
        >>> from tte_retriever_qdrant import open_store
        >>> with open_store("edge://my-store") as store:  # doctest: +SKIP
        ...     report = ingest_on_ray("my-folder", store, partial(TTEEncoder, "tte-flash-tiny"))
    """
    chunking = ChunkingConfig(window_s, overlap_s)
    check_writing(batch_size, near_duplicate)
    check_decoding(time_limit_s, memory_limit)
    source = check_source(source)
    if uri is not None and not is_for_many_writers(uri):
        raise InputError(
            f"the store {uri!r} takes one writer at a time, and a cluster has many workers; leave uri out, and this "
            "process writes for all, or give the http(s):// URI of a server"
        )
    with connected(address):
        shares = share_out(workers, models)
        description = description or describe_on_ray(load_encoder, models=models)
        prefix = stored_prefix(store) if prefix is None else prefix
        spec = replace(description.spec, model=model_name, prefix=prefix)
        settings = DecoderSettings(description.sampling, chunking, limits, memory_limit)
        decode, embed = (root_of(source), settings, time_limit_s), (load_encoder, spec, batch_size)
        write = _writing(store, uri, shares, (spec, batch_size, near_duplicate))
        with indexing_run(source, store, spec, chunking=chunking, limits=limits, on_event=on_event) as run:
            if run.files:
                _process(run, store, lambda files: write(_embedded(files, decode, embed, shares)))
        return run.report()


def _process(run: IndexingRun, store: VectorStore, work: Callable[[Sequence[FileState]], Iterable[pa.Table]]) -> None:
    """Have the cluster index the files of a run, and record their outcomes in a journal first."""
    run.begin()
    # Before anything is written, since the points of a file are written by several processes, in no order.
    if rechunked := sorted({file.asset_id for file in run.files if file.is_rechunked}):
        store.delete(filter={"asset_id": rechunked})
    with RunJournal(store.state_dir, [file.record for file in run.files]) as journal, own_errors():
        run.record = journal.add
        _record_all(run, work(run.files))


def _record_all(run: IndexingRun, results: Iterable[pa.Table]) -> None:
    """Add up what workers did with files and their chunks, and record each file once all of it is known."""
    files = {file.uri: file for file in run.files}
    seen: set[tuple[str, Chunk]] = set()  # Ray may hand on a result twice
    for table in results:
        for result in unpack(table):
            if isinstance(result, NearDuplicate):
                run.near_duplicates.append(result)
                continue
            found, chunk = result
            if (file := files.get(found.uri)) is None or (found.uri, chunk) in seen:
                continue
            seen.add((found.uri, chunk))
            file.merge(found, is_chunk=chunk is not None)
            if file.is_final:
                run.record_outcome(files.pop(file.uri))
    if files:
        raise TTEError(
            f"the cluster lost chunks of {len(files)} files, such as {min(files)!r}; run again to index them"
        )


def _writing(
    store: VectorStore, uri: str | None, shares: Shares, settings: tuple[CollectionSpec, int, float | None]
) -> Callable[[ray.data.Dataset], Iterator[pa.Table]]:
    """Write in this process, which has the store open; with a URI, in as many as there are models, which open it too."""
    if uri is None:
        return lambda embedded: map(Sink(lambda: store, *settings), _tables(embedded))
    arguments = (partial(open_store, uri, create=False), *settings)
    return lambda embedded: _tables(_staged(embedded, Sink, arguments, shares.models, num_cpus=0))


def _embedded(
    files: Sequence[FileState],
    decode: tuple[Path, DecoderSettings, float],
    embed: tuple[Callable[[], Encoder], CollectionSpec, int],
    shares: Shares,
) -> ray.data.Dataset:
    """Files, decoded and embedded."""
    chunks = _staged(ray.data.from_arrow(list(_blocks(files))), Decode, decode, shares.decoders, num_cpus=1)
    return _staged(chunks, Embed, (*embed, Attempts()), shares.models, **shares.model_resources)


def _staged(
    records: ray.data.Dataset, stage: type, arguments: tuple[object, ...], processes: int, **resources: Any
) -> ray.data.Dataset:
    """Pass records through a stage, in several processes."""
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


def _blocks(files: Sequence[FileState]) -> Iterator[pa.Table]:
    """Tables of files; those with the same content are in one, since the first that can be decoded stands for all."""
    same: defaultdict[str, list[FileState]] = defaultdict(list)
    for file in files:
        # This process deals with what an earlier run left, not the workers.
        same[file.asset_id].append(replace(file, is_rechunked=False, is_resumed=False))
    block: list[FileState] = []
    for group in same.values():
        block += group
        if len(block) >= _FILES_PER_BLOCK:
            yield pack(block)
            block = []
    if block:
        yield pack(block)
