"""What a distributed run did with which file, in Parquet, until the ledger takes it over.

The folder holds parts with the ledger's columns: the first is the plan, in which every record is NEW, and the others hold
the records of files that are final. A run merges its journal into the ledger when it ends, also by an error; the journal
of a run that was killed is merged by the next one, on one machine or many.
"""

from __future__ import annotations

import json
import shutil
import time
from typing import TYPE_CHECKING, Any

from tte_retriever.atomic import atomic_write
from tte_retriever_qdrant.errors import StoreError
from tte_retriever_qdrant.ingestion.ledger import COLUMNS, LISTS, from_columns, to_columns

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from typing_extensions import Self

    from tte_retriever_qdrant.ingestion.ledger import Ledger
    from tte_retriever_qdrant.ingestion.state import FileRecord

JOURNAL = "manifest"
"""Name of the folder in a store's state directory."""

_PART_RECORDS = 1_000
_PART_S = 2.0  # at most so many seconds of work are lost with the machine


class RunJournal:
    """Writes the parts of one run.

    Args:
        state_dir: Of the store.
        planned: The records of the files that the run decodes.
    """

    def __init__(self, state_dir: Path, planned: Iterable[FileRecord]) -> None:
        self._folder = state_dir / JOURNAL
        self._folder.mkdir(parents=True)
        self._parts, self._records = 0, list(planned)
        self._flush()

    def add(self, record: FileRecord) -> None:
        """Note a file that is final; it is on the disk a little later."""
        self._records.append(record)
        if len(self._records) >= _PART_RECORDS or time.monotonic() - self._written >= _PART_S:
            self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._flush()

    def _flush(self) -> None:
        # Imported here and below, since a run on one machine needs no pyarrow.
        import pyarrow as pa
        from pyarrow import parquet

        self._written = time.monotonic()
        if not self._records:
            return
        types = {"size": pa.int64(), "mtime_ns": pa.int64()}
        schema = pa.schema([(name, types.get(name, pa.string())) for name in COLUMNS])
        rows = [dict(zip(COLUMNS, to_columns(record), strict=True)) for record in self._records]
        with atomic_write(self._folder / f"part-{self._parts:06d}.parquet") as draft:
            parquet.write_table(pa.Table.from_pylist(rows, schema), draft)
        self._records = []
        self._parts += 1


def merge_journal(state_dir: Path, ledger: Ledger) -> None:
    """Write what a journal says into the ledger, if there is a journal, and remove it.

    Raises:
        StoreError: It cannot be read.
    """
    folder = state_dir / JOURNAL
    if not folder.is_dir():
        return
    planned = {_content(record) for record in ledger.records() if record.state == "NEW"}
    ledger.write(record for record in _read(folder) if record.state != "NEW" and _content(record) in planned)
    shutil.rmtree(folder)


def _content(record: FileRecord) -> tuple[str, str, int, int, str]:
    return record.root, record.uri, record.size, record.mtime_ns, record.asset_id


def _read(folder: Path) -> Iterator[FileRecord]:
    try:
        from pyarrow import parquet

        for part in sorted(folder.glob("part-*.parquet")):
            for row in parquet.read_table(part).to_pylist():
                yield from_columns([(row if "cut" not in row else _converted(row))[name] for name in COLUMNS])
    except (ImportError, OSError, ValueError, TypeError, KeyError) as error:
        raise StoreError(
            f"the manifest of an earlier run in {str(folder)!r} cannot be read ({error}); install pyarrow if it is "
            "missing, or remove the folder: then the files of that run are embedded again"
        ) from error


def _converted(row: dict[str, Any]) -> dict[str, Any]:
    """A row of an older format, in which lists are separated by spaces."""
    row = {**row, "chunkings": row["cut"]}
    return {**row, **{name: json.dumps(row[name].split()) for name in LISTS}}
