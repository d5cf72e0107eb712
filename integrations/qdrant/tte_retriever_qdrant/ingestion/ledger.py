"""What has been done with which file, in SQLite beside the vectors.

A record is NEW before anything of the file is stored, and WRITTEN only after its points are durable. The content that no
record names any more is listed as obsolete until its points are deleted. That the index may lag behind the points is
noted before the first of them changes. So a run that dies at any moment leaves enough behind for the next one to finish.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import contextmanager
from dataclasses import astuple, fields
from typing import TYPE_CHECKING, Any

from tte_retriever_qdrant.errors import StoreError, StoreLocked
from tte_retriever_qdrant.ingestion.state import FileRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from typing_extensions import Self

LEDGER = "ledger.sqlite"
"""Its name in a store's state directory."""

COLUMNS = tuple(field.name for field in fields(FileRecord))
"""Columns of a table of records."""

LISTS = ("chunkings", "missing")
"""The columns that hold a list, as JSON."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    root TEXT NOT NULL, uri TEXT NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, asset_id TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('NEW', 'WRITTEN', 'SKIPPED', 'FAILED')),
    chunkings TEXT NOT NULL, reason TEXT NOT NULL, message TEXT NOT NULL, missing TEXT NOT NULL,
    PRIMARY KEY (root, uri)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS files_by_asset ON files (asset_id);
CREATE TABLE IF NOT EXISTS obsolete (asset_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS index_due (one INTEGER PRIMARY KEY CHECK (one = 1));
"""


def to_columns(record: FileRecord) -> tuple[Any, ...]:
    """The values of a record in the order of :data:`COLUMNS`, lists as JSON."""
    return tuple(json.dumps(value) if isinstance(value, tuple) else value for value in astuple(record))


def from_columns(values: Sequence[Any]) -> FileRecord:
    """The record that :func:`to_columns` was given."""
    named = dict(zip(COLUMNS, values, strict=True))
    return FileRecord(**{**named, **{name: tuple(json.loads(named[name])) for name in LISTS}})


class Ledger:
    """The records of all sources that were indexed into one store.

    A ledger of an older format is converted when it is opened, completely or not at all.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._errors():
            self._connection = sqlite3.connect(path)
            self._connection.execute("PRAGMA journal_mode=WAL")
            # Whole after a power cut, perhaps without the last records: their files are done again, which changes nothing.
            self._connection.execute("PRAGMA synchronous=NORMAL")
            if "cut" in self._columns():
                self._convert()
            self._connection.executescript(_SCHEMA)

    def records(self) -> list[FileRecord]:
        """All records."""
        query = f"SELECT {', '.join(COLUMNS)} FROM files"  # noqa: S608
        with self._errors():
            return [from_columns(values) for values in self._connection.execute(query)]

    def roots(self, asset_id: str, uri: str) -> list[str]:
        """The sources that have that content under that name."""
        query = "SELECT root FROM files WHERE asset_id = ? AND uri = ? ORDER BY root"
        with self._errors():
            return [root for (root,) in self._connection.execute(query, (asset_id, uri))]

    def write(self, records: Iterable[FileRecord], removed: Iterable[tuple[str, str]] = ()) -> None:
        """Write records and drop the ``removed`` ones (root, uri), all at once or not at all."""
        places = ", ".join("?" for _ in COLUMNS)
        replace = f"REPLACE INTO files ({', '.join(COLUMNS)}) VALUES ({places})"  # noqa: S608
        with self._errors(), self._connection as transaction:
            for record in records:
                self._retire(record.root, record.uri, record.asset_id)
                transaction.execute(replace, to_columns(record))
            for root, uri in removed:
                self._retire(root, uri, "")
                transaction.execute("DELETE FROM files WHERE root = ? AND uri = ?", (root, uri))

    def obsolete(self) -> list[str]:
        """The assets whose points are to be deleted, since no file has that content any more."""
        query = "SELECT asset_id FROM obsolete WHERE asset_id NOT IN (SELECT asset_id FROM files)"
        with self._errors():
            return [asset_id for (asset_id,) in self._connection.execute(query)]

    def clear_obsolete(self) -> None:
        """Note that the points of all obsolete assets are deleted."""
        with self._errors(), self._connection as transaction:
            transaction.execute("DELETE FROM obsolete")

    def set_index_due(self) -> None:
        """Note that points are about to change, so that the index must be brought up to date."""
        with self._errors(), self._connection as transaction:
            transaction.execute("INSERT OR IGNORE INTO index_due VALUES (1)")

    def is_index_due(self) -> bool:
        """Whether points may have changed since the index was brought up to date."""
        with self._errors():
            return self._connection.execute("SELECT one FROM index_due").fetchone() is not None

    def clear_index_due(self) -> None:
        """Note that the index is up to date."""
        with self._errors(), self._connection as transaction:
            transaction.execute("DELETE FROM index_due")

    def close_for_copy(self) -> None:
        """Close the file so that it can be copied alone, without SQLite's files beside it.

        Raises:
            StoreLocked: Another process reads it and does not end.
        """
        with self._errors():
            blocked, *_ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if blocked:
            raise StoreLocked(
                f"the ledger {str(self._path)!r} is read by another process; run again when it has ended"
            )
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _columns(self) -> set[str]:
        return {name for _, name, *_ in self._connection.execute("PRAGMA table_info(files)")}

    def _convert(self) -> None:
        """Turn lists that are separated by spaces into JSON, in one transaction."""
        with self._connection as transaction:
            transaction.execute("BEGIN IMMEDIATE")
            columns = self._columns()  # another process may have been faster
            if "cut" not in columns:
                return
            transaction.execute("ALTER TABLE files RENAME COLUMN cut TO chunkings")
            if "missing" not in columns:  # the oldest format; the store is asked which chunks of those files it has
                transaction.execute("ALTER TABLE files ADD COLUMN missing TEXT NOT NULL DEFAULT ''")
            for name in LISTS:
                as_json = f"""CASE {name} WHEN '' THEN '[]' ELSE '["' || replace({name}, ' ', '", "') || '"]' END"""
                transaction.execute(f"UPDATE files SET {name} = {as_json}")  # noqa: S608

    def _retire(self, root: str, uri: str, asset_id: str) -> None:
        """List the content that a record names until now as obsolete, if it is to name another."""
        self._connection.execute(
            "INSERT OR IGNORE INTO obsolete SELECT asset_id FROM files"
            " WHERE root = ? AND uri = ? AND asset_id NOT IN ('', ?)",
            (root, uri, asset_id),
        )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            message = f"the ledger {str(self._path)!r} failed: {error}; check the disk, or index into a new store"
            raise StoreError(message) from error
