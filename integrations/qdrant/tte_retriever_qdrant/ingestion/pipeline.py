"""Index a source on this machine: decode in processes, embed in a stream, write in a thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tte_retriever.errors import InputError
from tte_retriever.media import DEFAULT_LIMITS, MediaLimits
from tte_retriever.sources.chunking import DEFAULT_WINDOW_S, ChunkingConfig
from tte_retriever_qdrant.ingestion.decoding import (
    DEFAULT_MEMORY_LIMIT,
    DEFAULT_TIME_LIMIT_S,
    DecoderPool,
    check_decoding,
    default_workers,
)
from tte_retriever_qdrant.ingestion.embedding import embed
from tte_retriever_qdrant.ingestion.reading import Key, read
from tte_retriever_qdrant.ingestion.updating import spec_of, update
from tte_retriever_qdrant.ingestion.worker import Settings
from tte_retriever_qdrant.ingestion.writing import Writer, check_writing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tte_retriever_qdrant.encoder import Encoder
    from tte_retriever_qdrant.ingestion.events import Event, NearDuplicate, Report
    from tte_retriever_qdrant.ingestion.planning import Task
    from tte_retriever_qdrant.ingestion.updating import Tally
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
    time_limit_s: float = DEFAULT_TIME_LIMIT_S,
    memory_limit: int = DEFAULT_MEMORY_LIMIT,
    on_event: Callable[[Event], None] | None = None,
) -> Report:
    """Bring a store up to date with a folder or a file.

    What is done and unchanged is skipped, so an interrupted run is resumed by running it again. Points of files that
    changed or are gone are deleted once the new ones are written. Bad files are reported and skipped.

    Args:
        source: A folder, which is searched with all its subfolders, or one file.
        store: An open store; its collection is made if it is not there.
        encoder: The model.
        model_name: Name or folder by which the model can be loaded again; the store remembers it.
        window_s: Length of the windows that videos are cut into, in seconds.
        overlap_s: How much of each window is in the next one too, in seconds.
        prefix: Of a Matryoshka model, by how many leading dimensions candidates are found; 0 for none. ``None`` is that
            of the store, and none of a new one.
        batch_size: Points per write; items per call of a model that does not stream.
        limits: What may be opened.
        near_duplicate: Report points whose cosine similarity to one of another content is at least this, such as 0.98;
            that costs a search per point. ``None`` does not look.
        workers: Processes that decode; ``None`` for one less than the machine has cores, and 8 at most.
        time_limit_s: Longest that one item may take to decode, in seconds.
        memory_limit: Most memory (address space) that a process that decodes may have, in bytes.
        on_event: Is called as files are dealt with, in the caller's thread.

    Raises:
        InputError: The source is missing, empty, or holds not a single file that can be indexed, nor did it before; or
            the store was made with another prefix.
        ModelMismatch: The store holds vectors of another model.
        StoreError: The store failed. What was written until then stays.
    """
    cut = ChunkingConfig(window_s, overlap_s)
    workers = default_workers() if workers is None else workers
    check_writing(batch_size, near_duplicate)
    if workers < 1:
        raise InputError(f"workers is {workers!r}; give 1 or more")
    check_decoding(time_limit_s, memory_limit)
    if prefix is None:
        prefix = store.spec.prefix if store.spec is not None else 0
    spec = spec_of(encoder, model_name, prefix=prefix)

    def work(tasks: Sequence[Task], tally: Tally) -> list[NearDuplicate]:
        settings = Settings(encoder.video_sampling, cut, limits, memory_limit)
        with (
            DecoderPool[Key](settings, workers=workers, time_limit_s=time_limit_s) as pool,
            Writer(
                store,
                spec.fingerprint,
                batch_size=batch_size,
                near_duplicate=near_duplicate,
                begin=tally.begin,
                on_final=tally.settle,
            ) as writer,
        ):
            look_ahead = _LOOK_AHEAD * batch_size
            parts = read(tasks, pool, look_ahead=look_ahead, stored=writer.stored, on_final=tally.settle)
            for embedded in embed(encoder, parts, batch_size=batch_size, dim=spec.dim):
                writer.add(embedded)
            writer.finish()
        return writer.near_duplicates

    return update(source, store, spec, work, cut=cut, limits=limits, on_event=on_event)
