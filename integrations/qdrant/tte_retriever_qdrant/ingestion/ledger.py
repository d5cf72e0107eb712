"""What has been done with which file, in SQLite beside the vectors.

A row is written as NEW before anything of the file is stored, and as WRITTEN only after its points are durable. Content
that no row speaks of any more is listed as obsolete until its points are deleted. That the index may lag behind the
points is noted before the first of them is touched. So a run that dies at any moment leaves enough behind for the next
one to finish the work.
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from typing import TYPE_CHECKING, Literal, TypeAlias

from tte_retriever_qdrant.errors import StoreError, StoreLocked

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from types import TracebackType

    from typing_extensions import Self

State: TypeAlias = Literal["NEW", "WRITTEN", "SKIPPED", "FAILED"]

LEDGER = "ledger.sqlite"
"""Its name in a store's home."""

DUPLICATE = "duplicate"
"""Why a file was SKIPPED whose content is stored under another name."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    root TEXT NOT NULL, uri TEXT NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, asset_id TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('NEW', 'WRITTEN', 'SKIPPED', 'FAILED')),
    cut TEXT NOT NULL, reason TEXT NOT NULL, message TEXT NOT NULL, missing TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (root, uri)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS files_by_asset ON files (asset_id);
CREATE TABLE IF NOT EXISTS obsolete (asset_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS index_due (one INTEGER PRIMARY KEY CHECK (one = 1));
"""


@dataclass(frozen=True)
class Row:
    """What is known of a file.

    Attributes:
        root: The source folder, absolute.
        uri: The file's path under it.
        size: Bytes.
        mtime_ns: Time of its last change, in nanoseconds.
        asset_id: SHA-256 of its bytes; empty if they could not be read.
        state: How far it got.
        cut: Into which windows it is cut, if it is a video; as long as it is not WRITTEN, all ways in which it may be,
            separated by spaces.
        reason: Why it was SKIPPED or FAILED; of a WRITTEN file, why parts of it are missing.
        message: The same for people.
        missing: Names of the parts of a WRITTEN file that could not be indexed, separated by spaces; all others are in
            the store.
    """

    root: str
    uri: str
    size: int
    mtime_ns: int
    asset_id: str
    state: State
    cut: str = ""
    reason: str = ""
    message: str = ""
    missing: str = ""


_COLUMNS = ", ".join(field.name for field in fields(Row))
_PLACES = ", ".join("?" for _ in fields(Row))


class Ledger:
    """The rows of all sources that were indexed into one store."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._errors():
            self._connection = sqlite3.connect(path)
            self._connection.execute("PRAGMA journal_mode=WAL")
            # Whole after a power cut, perhaps without the last rows: their files are done again, which changes nothing.
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.executescript(_SCHEMA)
            if "missing" not in {name for _, name, *_ in self._connection.execute("PRAGMA table_info(files)")}:
                # A ledger of before it was noted which parts are missing; of those files the store is asked.
                self._connection.execute("ALTER TABLE files ADD COLUMN missing TEXT NOT NULL DEFAULT ''")

    def rows(self) -> list[Row]:
        """All rows."""
        with self._errors():
            return [Row(*values) for values in self._connection.execute(f"SELECT {_COLUMNS} FROM files")]  # noqa: S608

    def roots(self, asset_id: str, uri: str) -> list[str]:
        """The sources that have that content under that name."""
        query = "SELECT root FROM files WHERE asset_id = ? AND uri = ? ORDER BY root"
        with self._errors():
            return [root for (root,) in self._connection.execute(query, (asset_id, uri))]

    def record(self, rows: Iterable[Row], removed: Iterable[tuple[str, str]] = ()) -> None:
        """Write rows and drop the ``removed`` ones (root, uri), all at once or not at all."""
        with self._errors(), self._connection as transaction:
            for row in rows:
                self._retire(row.root, row.uri, row.asset_id)
                transaction.execute(f"REPLACE INTO files ({_COLUMNS}) VALUES ({_PLACES})", astuple(row))  # noqa: S608
            for root, uri in removed:
                self._retire(root, uri, "")
                transaction.execute("DELETE FROM files WHERE root = ? AND uri = ?", (root, uri))

    def obsolete(self) -> list[str]:
        """The assets whose points are to be deleted, since no file has that content any more."""
        query = "SELECT asset_id FROM obsolete WHERE asset_id NOT IN (SELECT asset_id FROM files)"
        with self._errors():
            return [asset_id for (asset_id,) in self._connection.execute(query)]

    def forget_obsolete(self) -> None:
        """Say that the points of all obsolete assets are deleted."""
        with self._errors(), self._connection as transaction:
            transaction.execute("DELETE FROM obsolete")

    def expect_index(self) -> None:
        """Note that points are to be touched, so that the index is to be brought up to date."""
        with self._errors(), self._connection as transaction:
            transaction.execute("INSERT OR IGNORE INTO index_due VALUES (1)")

    def is_index_due(self) -> bool:
        """Whether points may have been touched since the index was brought up to date."""
        with self._errors():
            return self._connection.execute("SELECT one FROM index_due").fetchone() is not None

    def index_is_done(self) -> None:
        """Say that the index is up to date."""
        with self._errors(), self._connection as transaction:
            transaction.execute("DELETE FROM index_due")

    def close_for_copy(self) -> None:
        """Close the file, which holds all by itself then, even while another process looks at it.

        Raises:
            StoreLocked: That process does not come to an end.
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _retire(self, root: str, uri: str, asset_id: str) -> None:
        """Note the asset that a row speaks of until now, if it is to speak of another."""
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
