"""The journal of a distributed run that was killed is merged by the next run, on one machine or many."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tte_retriever_qdrant import ingest
from tte_retriever_qdrant.errors import StoreError
from tte_retriever_qdrant.ingestion import journal
from tte_retriever_qdrant.ingestion.journal import JOURNAL, RunJournal
from tte_retriever_qdrant.ingestion.ledger import LEDGER, Ledger

pytestmark = pytest.mark.usefixtures("decode_here")


@pytest.fixture
def killed(small_folder, store, encoder, monkeypatch):
    """``killed(uri)`` leaves the state of a run that wrote all points and was killed when its journal had one file."""
    monkeypatch.setattr(journal, "_PART_S", 0.0)

    def kill(uri):
        ingest(small_folder, store, encoder)
        encoder.encoded = []
        with Ledger(store.state_dir / LEDGER) as ledger:
            written = {row.uri: row for row in ledger.records()}
            planned = [replace(row, state="NEW") for row in written.values()]
            ledger.write(planned)
        RunJournal(store.state_dir, planned).add(written[uri])

    return kill


def test_files_in_the_journal_are_not_done_again(small_folder, store, encoder, killed, contents):
    killed("clip.mp4")
    before = contents(store)
    report = ingest(small_folder, store, encoder)
    assert (report.unchanged, report.indexed) == (1, 4)
    assert not [item for item in encoder.encoded if "video" in item]
    assert contents(store) == before
    assert not (store.state_dir / JOURNAL).exists()


def test_a_file_that_has_changed_since_is_done_again(small_folder, store, encoder, killed):
    killed("notes.md")
    with Ledger(store.state_dir / LEDGER) as ledger:
        ledger.write(replace(row, asset_id="another") for row in ledger.records() if row.uri == "notes.md")
    report = ingest(small_folder, store, encoder)
    assert (report.unchanged, report.indexed) == (0, 5)


def test_a_broken_journal_is_an_error(small_folder, store, encoder, killed):
    killed("notes.md")
    (store.state_dir / JOURNAL / "part-000000.parquet").write_bytes(b"PAR1")
    with pytest.raises(StoreError, match="remove the folder"):
        ingest(small_folder, store, encoder)
