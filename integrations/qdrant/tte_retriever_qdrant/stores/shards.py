"""The engine's files of one generation of an edge store: make them, and index them while searches continue.

Run as a program, this module indexes a shard. That needs a process of its own, because the engine keeps Python's global
lock for up to a millisecond per vector.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING

import qdrant_edge as edge

from tte_retriever_qdrant.errors import StoreError
from tte_retriever_qdrant.records import PAYLOAD_FIELDS
from tte_retriever_qdrant.stores.indexing import FULL, PREFIX, QUANTIZE_FROM

if TYPE_CHECKING:
    from pathlib import Path

    from tte_retriever_qdrant.records import CollectionSpec

_INDEX_TYPES = {
    str: edge.PayloadSchemaType.Keyword,
    int: edge.PayloadSchemaType.Integer,
    float: edge.PayloadSchemaType.Float,
}


def make_shard(folder: Path, spec: CollectionSpec) -> str:
    """Make an empty shard in ``folder`` and return its name there."""
    name = _new_name()
    folder.mkdir(parents=True)
    shard = edge.EdgeShard.create(str(folder / name), _config(spec))
    for field, kind in PAYLOAD_FIELDS.items():  # before any point: the graph takes these fields into account
        shard.update(edge.UpdateOperation.create_field_index(field, _INDEX_TYPES[kind]))
    shard.close()
    return name


def is_worth_indexing(shard: edge.EdgeShard, spec: CollectionSpec) -> bool:
    """Whether enough vectors are unindexed to slow searches; fewer are compared in a millisecond or two."""
    info = shard.info()
    indexed = info.indexed_vectors_count // (2 if spec.prefix else 1)  # the engine counts every vector of a point
    return info.points_count - indexed >= QUANTIZE_FROM


def indexed_copy(folder: Path, shard: str) -> str:
    """Copy a shard, index the copy in a child process, and return the name of the copy; nothing may write meanwhile.

    Raises:
        StoreError: The child failed; the copy is deleted.
    """
    name = _new_name()
    try:
        shutil.copytree(folder / shard, folder / name)
        command = [sys.executable, "-m", __name__, str(folder / name)]
        child = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)  # noqa: S603
        if child.returncode:
            last = (child.stderr.strip() or "no message").splitlines()[-1]
            raise StoreError(
                f"the index of {str(folder)!r} was not built (exit code {child.returncode}: {last}); nothing is lost "
                "and searches are right but slower: check memory and disk, then index again"
            )
    except BaseException:
        shutil.rmtree(folder / name, ignore_errors=True)
        raise
    return name


def remove_other_shards(folder: Path, shard: str) -> None:
    """Delete what interrupted copies left."""
    for path in folder.glob("shard-*"):
        if path.name != shard:
            shutil.rmtree(path, ignore_errors=True)


def _new_name() -> str:
    # The name is new each time, so that the leftover of an interrupted attempt is never used as a shard.
    return f"shard-{uuid.uuid4().hex[:12]}"


def _config(spec: CollectionSpec) -> edge.EdgeConfig:
    vectors: edge.EdgeVectorParams | dict[str, edge.EdgeVectorParams]
    if spec.prefix:
        no_graph = edge.HnswIndexConfig(m=0, ef_construct=1, full_scan_threshold=1)
        full = edge.EdgeVectorParams(size=spec.dim, distance=edge.Distance.Cosine, hnsw_config=no_graph)
        vectors = {FULL: full, PREFIX: edge.EdgeVectorParams(size=spec.prefix, distance=edge.Distance.Cosine)}
    else:
        vectors = edge.EdgeVectorParams(size=spec.dim, distance=edge.Distance.Cosine)
    # The threshold is in kB per segment. Points may be spread over several segments, so half of them suffice.
    threshold = QUANTIZE_FROM * (spec.prefix or spec.dim) * 4 // 1024 // 2
    return edge.EdgeConfig(
        vectors=vectors,
        quantization_config=edge.ScalarQuantizationConfig(type=edge.ScalarType.Int8, quantile=0.99, always_ram=True),
        optimizers=edge.EdgeOptimizersConfig(indexing_threshold=threshold),
        wal_enabled=True,
    )


def _optimize(path: str) -> None:
    shard = edge.EdgeShard.load(path)
    shard.optimize()
    shard.flush()
    shard.close()


if __name__ == "__main__":
    _optimize(sys.argv[1])
