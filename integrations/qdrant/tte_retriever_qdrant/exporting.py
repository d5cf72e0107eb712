"""Export a collection as Parquet, for Spark, Daft, DuckDB and other column readers."""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from tte_retriever.atomic import atomic_write
from tte_retriever.errors import InputError
from tte_retriever_qdrant.errors import StoreError, StoreNotFound
from tte_retriever_qdrant.records import PAYLOAD_FIELDS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tte_retriever_qdrant.records import CollectionSpec, Point
    from tte_retriever_qdrant.stores import VectorStore

_GROUP_BYTES = 32 * 1024**2  # of vectors per row group; one group is in memory at a time
_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64()}
_COLUMNS: dict[str, type] = {**PAYLOAD_FIELDS, "start_char": int, "end_char": int, "text": str}


def export_parquet(store: VectorStore, out: Path) -> int:
    """Write every point of a store to a Parquet file.

    The columns are ``id``; ``vector``, a list of D float32, the stored vector of length 1; one column for each payload
    key of ingestion (``uri``, ``modality``, ``asset_id``, ``page``, ``start_s``, ``end_s``, ``start_char``, ``end_char``,
    ``text``), null where it does not apply; and ``other``, the rest of the payload as JSON, or null. The metadata of the
    schema hold ``model`` and ``fingerprint``.

    Args:
        store: An open store.
        out: A new file; it exists only when it is complete.

    Returns:
        The number of points.

    Raises:
        InputError: The file exists, or its folder does not.
        StoreNotFound: The store holds nothing.
        StoreError: The store or the disk failed.
    """
    if store.spec is None:
        raise StoreNotFound("the store holds nothing yet; index something first")
    if out.exists() or not out.parent.is_dir():
        what = "exists" if out.exists() else "is in a folder that does not"
        raise InputError(f"the file {str(out)!r} {what}; give a new file in a folder that exists")
    schema, count = _schema(store.spec), 0
    points, size = store.scroll(), max(1, _GROUP_BYTES // (4 * store.spec.dim))
    try:
        with atomic_write(out) as draft, parquet.ParquetWriter(draft, schema) as writer:
            while group := list(islice(points, size)):
                writer.write_table(_table(group, schema))
                count += len(group)
    except OSError as error:
        raise StoreError(f"the file {str(out)!r} cannot be written: {error.strerror or error}") from error
    return count


def _schema(spec: CollectionSpec) -> pa.Schema:
    columns = [(name, _TYPES[kind]) for name, kind in _COLUMNS.items()]
    return pa.schema(
        [("id", pa.string()), ("vector", pa.list_(pa.float32(), spec.dim)), *columns, ("other", pa.string())],
        metadata={"model": spec.model, "fingerprint": spec.fingerprint},
    )


def _table(points: Sequence[Point], schema: pa.Schema) -> pa.Table:
    payloads: list[dict[str, Any]] = [point.payload for point in points]
    vectors = np.stack([point.vector for point in points])  # (N, D)
    rest = [{key: value for key, value in payload.items() if key not in _COLUMNS} for payload in payloads]
    columns = {
        "id": [point.id for point in points],
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]),
        **{name: [payload.get(name) for payload in payloads] for name in _COLUMNS},
        "other": [json.dumps(each, ensure_ascii=False) if each else None for each in rest],
    }
    return pa.table(columns, schema)
