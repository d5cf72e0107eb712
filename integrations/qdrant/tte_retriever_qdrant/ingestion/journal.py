"""What a distributed run does with which file, in Parquet, until the ledger takes it in.

The folder holds parts with the ledger's columns: the first is the plan, in which every row is NEW, and the others hold
the rows of files that are dealt with. A run that ends, in whichever way it can, has its manifest taken in; that of a run
that was killed is taken in by the next one, on one machine or many.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, fields
from typing import TYPE_CHECKING

from tte_retriever_qdrant.errors import StoreError
from tte_retriever_qdrant.ingestion.ledger import Row

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    from typing_extensions import Self

    from tte_retriever_qdrant.ingestion.ledger import Ledger

MANIFEST = "manifest"
"""Name of the folder in a store's home."""

_PART_ROWS = 1_000
_PART_S = 2.0  # a part is written after so many seconds, too, so that no more work than that is lost with the machine


class RunJournal:
    """Writes the parts of one run.

    Args:
        home: Of the store.
        planned: The rows of the files that there are to do.
    """

    def __init__(self, home: Path, planned: Iterable[Row]) -> None:
        self._folder = home / MANIFEST
        self._folder.mkdir(parents=True)
        self._parts, self._rows = 0, list(planned)
        self._written = 0.0
        self._flush()

    def add(self, row: Row) -> None:
        """Note a file that is dealt with; it is on the disk a little later."""
        self._rows.append(row)
        if len(self._rows) >= _PART_ROWS or time.monotonic() - self._written >= _PART_S:
            self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._flush()

    def _flush(self) -> None:
        # Imported here, as below: whoever stays on one machine needs no pyarrow.
        import pyarrow as pa
        from pyarrow import parquet

        self._written = time.monotonic()
        if not self._rows:
            return
        types = {"size": pa.int64(), "mtime_ns": pa.int64()}
        schema = pa.schema([(field.name, types.get(field.name, pa.string())) for field in fields(Row)])
        draft = self._folder / "draft"
        parquet.write_table(pa.Table.from_pylist([asdict(row) for row in self._rows], schema), draft)
        draft.replace(self._folder / f"part-{self._parts:06d}.parquet")
        self._rows = []
        self._parts += 1


def merge_journal(home: Path, ledger: Ledger) -> None:
    """Have the ledger take over what a manifest says, if there is one, and remove it.

    Raises:
        StoreError: It cannot be read.
    """
    folder = home / MANIFEST
    if not folder.is_dir():
        return
    planned = {_content(row) for row in ledger.rows() if row.state == "NEW"}
    ledger.record(row for row in _read(folder) if row.state != "NEW" and _content(row) in planned)
    shutil.rmtree(folder)


def _content(row: Row) -> tuple[str, str, int, int, str]:
    return row.root, row.uri, row.size, row.mtime_ns, row.asset_id


def _read(folder: Path) -> Iterator[Row]:
    parts: Sequence[Path] = sorted(folder.glob("part-*.parquet"))
    try:
        from pyarrow import parquet

        for part in parts:
            yield from (Row(**values) for values in parquet.read_table(part).to_pylist())
    except (ImportError, OSError, ValueError, TypeError) as error:
        raise StoreError(
            f"the manifest of an earlier run in {str(folder)!r} cannot be read ({error}); install pyarrow if it is "
            "missing, or remove the folder: then the files of that run are embedded again"
        ) from error
