"""Index a source on this machine: decode in processes, embed in a stream, write in a thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tte_retriever.errors import InputError
from tte_retriever.media import DEFAULT_LIMITS, MediaLimits
from tte_retriever.sources import DEFAULT_WINDOW_S, ChunkingConfig
from tte_retriever_qdrant.encoder import spec_of
from tte_retriever_qdrant.ingestion import decoder_pool
from tte_retriever_qdrant.ingestion.decoding import Job, decode
from tte_retriever_qdrant.ingestion.embedding import embed
from tte_retriever_qdrant.ingestion.run import indexing_run, stored_prefix
from tte_retriever_qdrant.ingestion.worker import DecoderSettings
from tte_retriever_qdrant.ingestion.writing import Writer, check_writing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tte_retriever_qdrant.encoder import Encoder
    from tte_retriever_qdrant.ingestion.events import Event, Report
    from tte_retriever_qdrant.stores import VectorStore

_LOOK_AHEAD = 4  # batches that are decoded, or being decoded, while the model has another


def ingest(
    source: str | Path,
    store: VectorStore,
    encoder: Encoder,
    *,
    model_name: str = "",
    window_s: float = DEFAULT_WINDOW_S,
    overlap_s: float = 0.0,
    prefix: int | None = None,
    batch_size: int = 32,
    limits: MediaLimits = DEFAULT_LIMITS,
    near_duplicate: float | None = None,
    workers: int | None = None,
    time_limit_s: float = decoder_pool.DEFAULT_TIME_LIMIT_S,
    memory_limit: int = decoder_pool.DEFAULT_MEMORY_LIMIT,
    on_event: Callable[[Event], None] | None = None,
) -> Report:
    """Bring a store up to date with a folder or a file.

    Files that are done and unchanged are skipped, so an interrupted run is resumed by running it again. Points of files
    that changed or are gone are deleted once the new ones are written. Bad files are reported and skipped. The states
    of a file are drawn in :mod:`tte_retriever_qdrant.ingestion.state`.

    Args:
        source: A folder, which is searched with all its subfolders, or one file.
        store: An open store; its collection is made if it does not exist.
        encoder: The model, with the think budget and the pixel limit of what is written, which the collection remembers.
        model_name: Name or folder by which the model can be loaded again; the store remembers it.
        window_s: Length of the windows that videos are cut into, in seconds.
        overlap_s: How much of each window is in the next one too, in seconds.
        prefix: Of a Matryoshka model, by how many leading dimensions candidates are found; 0 for none. ``None`` is the
            prefix of the store, and none for a new one.
        batch_size: Points per write; items per call of a model that does not stream.
        limits: What may be opened.
        near_duplicate: Report points whose cosine similarity to one of another content is at least this, such as 0.98;
            that costs a search per point. ``None`` does not look.
        workers: Processes that decode; ``None`` is one less than the machine has cores, and 8 at most.
        time_limit_s: Longest that one item may take to decode, in seconds.
        memory_limit: Most memory (address space) of each process that decodes, in bytes.
        on_event: Is called as files become final, in the caller's thread.

    Raises:
        InputError: The source is missing, empty, or holds not a single file that can be indexed, nor did it before; or
            the store was made with another prefix, think budget or pixel limit.
        ModelMismatch: The store holds vectors of another model.
        StoreError: The store failed. What was written until then stays.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from tte_retriever import TTEEncoder
        >>> from tte_retriever_qdrant import ingest, open_store
        >>> with TemporaryDirectory() as folder, open_store("memory://") as store:
        ...     _ = Path(folder, "note.txt").write_text("a red circle")
        ...     report = ingest(folder, store, TTEEncoder("tte-flash-tiny"))
        >>> (report.indexed, report.points)
        (1, 1)
    """
    chunking = ChunkingConfig(window_s, overlap_s)
    workers = decoder_pool.default_workers() if workers is None else workers
    check_writing(batch_size, near_duplicate)
    if workers < 1:
        raise InputError(f"workers is {workers!r}; give 1 or more")
    decoder_pool.check_decoding(time_limit_s, memory_limit)
    spec = spec_of(encoder, model_name, prefix=stored_prefix(store) if prefix is None else prefix)
    settings = DecoderSettings(encoder.video_sampling, chunking, limits, memory_limit)
    with indexing_run(source, store, spec, chunking=chunking, limits=limits, on_event=on_event) as run:
        held = store.spec or spec  # another prompt of queries must not change the ids of points
        writer = Writer(store, held.fingerprint, batch_size, near_duplicate, run.begin, run.record_outcome)
        with decoder_pool.DecoderPool[Job](settings, workers=workers, time_limit_s=time_limit_s) as pool, writer:
            look_ahead = _LOOK_AHEAD * batch_size
            chunks = decode(run.files, pool, look_ahead=look_ahead, stored=writer.stored, on_final=run.record_outcome)
            for embedded in embed(encoder, chunks, batch_size=batch_size, dim=spec.dim):
                writer.add(embedded)
            writer.finish()
        run.near_duplicates += writer.near_duplicates
    return run.report()
