"""Records as Ray moves them between processes: tables of one column, with a pickled object per row.

The records are those that pass between the steps on one machine: file states, decoded chunks, embedded chunks.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_SCHEMA = pa.schema([("record", pa.large_binary())])


def pack(records: Iterable[object]) -> pa.Table:
    """Make a table of records."""
    return pa.table({"record": [pickle.dumps(record) for record in records]}, _SCHEMA)


def unpack(table: pa.Table) -> Iterator[Any]:
    """The records of a table, one at a time, so that their pixels are not in memory twice."""
    if table.num_rows:  # Ray drops the columns of a table without rows
        for pickled in table.column("record"):
            yield pickle.loads(pickled.as_py())  # noqa: S301 - from a worker of the same cluster
