"""Ledgers of older formats are converted when they are opened, and their stores stay up to date."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import textwrap
from dataclasses import astuple

import pytest

from tte_retriever.errors import InputError
from tte_retriever_qdrant import ingest, open_store
from tte_retriever_qdrant.ingestion.ledger import Ledger
from tte_retriever_qdrant.ingestion.state import FileRecord

pytestmark = pytest.mark.usefixtures("decode_here")

OLD_FILES = """
CREATE TABLE IF NOT EXISTS files (
    root TEXT NOT NULL, uri TEXT NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, asset_id TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('NEW', 'WRITTEN', 'SKIPPED', 'FAILED')),
    cut TEXT NOT NULL, reason TEXT NOT NULL, message TEXT NOT NULL, missing TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (root, uri)
) WITHOUT ROWID;
"""
"""The table of files as it was at commit ed95dfd; lists are separated by spaces."""

OLD_REST = """
CREATE INDEX IF NOT EXISTS files_by_asset ON files (asset_id);
CREATE TABLE IF NOT EXISTS obsolete (asset_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS index_due (one INTEGER PRIMARY KEY CHECK (one = 1));
"""

ROWS = [
    ("/a", "broken.png", 0, 0, "", "FAILED", "", "corrupt", "it is broken; 'replace' \"it\"", ""),
    ("/a", "clip.mp4", 9, 1, "c1", "NEW", "3/0 6/0 6/2.5", "", "", ""),
    ("/a", "doc.pdf", 9, 2, "d1", "WRITTEN", "", "unsupported", "this model refuses blue", "page=1 page=3"),
    ("/a", "film.mp4", 9, 3, "f1", "WRITTEN", "6/0", "corrupt", "half of it", "t=6,12 t=12,14"),
    ("/a", "note.md", 9, 4, "n1", "SKIPPED", "", "duplicate", "", ""),
    ("/a", "poem.txt", 9, 5, "p1", "WRITTEN", "", "", "", ""),
]

RECORDS = [
    FileRecord(*ROWS[0][:6], (), *ROWS[0][7:9], ()),
    FileRecord(*ROWS[1][:6], ("3/0", "6/0", "6/2.5"), "", "", ()),
    FileRecord(*ROWS[2][:6], (), *ROWS[2][7:9], ("page=1", "page=3")),
    FileRecord(*ROWS[3][:6], ("6/0",), *ROWS[3][7:9], ("t=6,12", "t=12,14")),
    FileRecord(*ROWS[4][:6], (), "duplicate", "", ()),
    FileRecord(*ROWS[5][:6], (), "", "", ()),
]


def write_old(path, rows, *, with_missing=True):
    ledger = sqlite3.connect(path)
    ledger.execute("PRAGMA journal_mode=WAL")
    ledger.executescript(OLD_FILES + OLD_REST)
    ledger.executemany(f"INSERT INTO files VALUES ({', '.join('?' * 10)})", rows)
    ledger.execute("INSERT INTO obsolete VALUES ('gone')")
    ledger.execute("INSERT INTO index_due VALUES (1)")
    ledger.commit()
    if not with_missing:  # the oldest format
        ledger.execute("ALTER TABLE files DROP COLUMN missing")
    ledger.close()


@pytest.mark.parametrize("with_missing", [True, False])
def test_nothing_is_lost(tmp_path, with_missing):
    write_old(tmp_path / "ledger.sqlite", ROWS, with_missing=with_missing)
    expected = RECORDS if with_missing else [FileRecord(**{**vars(each), "missing": ()}) for each in RECORDS]
    for _ in range(2):
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            assert ledger.records() == expected
            assert ledger.obsolete() == ["gone"]
            assert ledger.is_index_due()
            ledger.write([])


KILL = """
    import os, sqlite3, sys
    from tte_retriever_qdrant.ingestion import ledger

    class Dying(sqlite3.Connection):
        left = 0
        def execute(self, *arguments):
            if Dying.left == 0:
                os._exit(9)
            Dying.left -= 1
            return super().execute(*arguments)

        def commit(self):
            os._exit(9)

    connect = sqlite3.connect
    ledger.sqlite3.connect = lambda path: connect(path, factory=Dying)
    for left, path in enumerate(sys.argv[1:]):
        if not (child := os.fork()):
            Dying.left = left
            ledger.Ledger(path)
            os._exit(0)  # the conversion takes fewer statements
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.slow
def test_a_conversion_that_is_killed_at_any_statement_loses_nothing(tmp_path):
    paths = []
    for index in range(12):
        paths.append(tmp_path / str(index) / "ledger.sqlite")
        paths[-1].parent.mkdir()
        write_old(paths[-1], ROWS)
    command = [sys.executable, "-c", textwrap.dedent(KILL), *map(str, paths)]
    codes = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert codes.count("9") >= 8  # pragmas, BEGIN, the columns, ALTER TABLE and both UPDATEs
    for path in paths:
        with Ledger(path) as ledger:
            assert ledger.records() == RECORDS
            assert ledger.obsolete() == ["gone"]


def test_two_processes_may_convert_at_once(tmp_path, monkeypatch):
    """The second one finds the ledger converted once it has the lock."""
    write_old(tmp_path / "ledger.sqlite", ROWS)
    convert = Ledger._convert

    def second(ledger):
        convert(ledger)
        convert(ledger)

    monkeypatch.setattr(Ledger, "_convert", second)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.records() == RECORDS


@pytest.mark.parametrize("with_missing", [True, False])
def test_a_store_that_was_made_before_is_up_to_date(small_folder, uri, encoder, standin, with_missing):
    """Only the page that is missing is embedded, also where the ledger does not say which one it is."""

    class Refusing(standin):
        def encode_document(self, inputs, **settings):
            for item in inputs:
                if "image" in item and item["image"].resize((1, 1)).getpixel((0, 0)) == (0, 0, 254):
                    raise InputError("this model refuses blue pages")
            return super().encode_document(inputs, **settings)

    shutil.copy(small_folder / "yellow.png", small_folder / "zz.png")
    with open_store(uri) as store:
        assert ingest(small_folder, store, Refusing()).points == 8
        path = store.state_dir / "ledger.sqlite"
    with Ledger(path) as ledger:
        records = ledger.records()
    path.unlink()
    lists = [(" ".join(each.chunkings), " ".join(each.missing)) for each in records]
    rows = [
        (*astuple(each)[:6], chunkings, each.reason, each.message, missing)
        for each, (chunkings, missing) in zip(records, lists, strict=True)
    ]
    write_old(path, rows, with_missing=with_missing)
    with open_store(uri) as store:
        report = ingest(small_folder, store, encoder)
        assert (report.unchanged, report.duplicates, report.failed, store.count()) == (4, 1, (), 9)
        assert len(encoder.encoded) == 1
        again = ingest(small_folder, store, encoder)
        assert (again.indexed, again.unchanged, len(encoder.encoded)) == (0, 5, 1)


def test_a_draft_of_a_manifest_from_before_is_not_a_foreign_file(uri, tmp_path, small_folder, encoder):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "tte-store.json.new").touch()
    with open_store(uri) as store:
        assert ingest(small_folder / "notes.md", store, encoder).points == 1
