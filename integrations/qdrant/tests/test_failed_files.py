"""Files that fail, wholly or in part, and what a later run makes of them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tte_retriever.errors import InputError
from tte_retriever.sources import discover
from tte_retriever_qdrant import ingest, open_store
from tte_retriever_qdrant.encoder import spec_of
from tte_retriever_qdrant.ingestion import decoder_pool
from tte_retriever_qdrant.stores import updating


def test_a_file_that_broke_is_gone_and_comes_back_when_repaired(small_folder, store, encoder):
    good = (small_folder / "yellow.png").read_bytes()
    ingest(small_folder, store, encoder)
    (small_folder / "yellow.png").write_bytes(good[:60])
    for _ in range(2):  # it is tried again each time
        report = ingest(small_folder, store, encoder)
        assert [failure.uri for failure in report.failed] == ["yellow.png"]
        assert store.count() == 8
    (small_folder / "yellow.png").write_bytes(good)
    assert ingest(small_folder, store, encoder).failed == ()
    assert store.count() == 9


@pytest.mark.slow
@pytest.mark.parametrize("gone", ["deleted", "broken"])
def test_the_last_files_that_could_be_indexed_go(small_folder, uri, encoder, gone):
    def run():
        with updating(uri, spec_of(encoder, "")) as store:
            return ingest(small_folder, store, encoder)

    run()
    (small_folder / "table.csv").write_text("a,b")
    for path in discover(small_folder):
        if path.suffix != ".csv":
            path.unlink() if gone == "deleted" else path.write_bytes(b"\0")
    report = run()
    assert (report.files, report.removed, len(report.failed)) == ((1, 5, 0) if gone == "deleted" else (6, 0, 5))
    with open_store(uri) as store:
        assert store.count() == 0
    with pytest.raises(InputError, match=r"none of the .* files"):  # nothing is left to be cleared away
        run()


@pytest.fixture
def without_blue(small_folder, standin):
    """The folder with a copy of the document before it; a model that refuses its blue page; and how to index them."""
    shutil.copy(small_folder / "doc.pdf", small_folder / "a.pdf")

    class Refusing(standin):
        def encode_document(self, inputs, **settings):
            for item in inputs:
                if "image" in item and item["image"].resize((1, 1)).getpixel((0, 0)) == (0, 0, 254):
                    raise InputError("this model refuses blue pages")
            return super().encode_document(inputs, **settings)

    def run(uri, encoder):
        encoder.encoded = []
        with updating(uri, spec_of(encoder, "")) as store:
            return ingest(small_folder, store, encoder)

    return Refusing(), run


@pytest.mark.slow
def test_a_chunk_that_failed_is_tried_again_alone_until_it_is_indexed(uri, encoder, without_blue, tmp_path, uris):
    refusing, run = without_blue
    first = run(uri, refusing)
    assert [failure.uri for failure in first.failed] == ["a.pdf#page=3"]
    assert (first.indexed, first.duplicates, first.points) == (5, 1, 8)
    (before,) = tmp_path.glob("store/generations/*/ledger.sqlite")
    for _ in range(2):
        report = run(uri, refusing)
        assert report.failed == first.failed
        assert (report.indexed, report.points, report.unchanged, report.duplicates) == (0, 0, 5, 1)
        assert refusing.encoded == []
        assert list(tmp_path.glob("store/generations/*/ledger.sqlite")) == [before]  # no point changed: no copy
        assert '"a.pdf#page=3"' in before.with_name("quarantine.jsonl").read_text()
    report = run(uri, encoder)
    assert (report.failed, report.indexed, report.points, report.unchanged, report.duplicates) == ((), 1, 3, 4, 1)
    assert len(encoder.encoded) == 1
    assert run(uri, encoder).unchanged == 5
    assert encoder.encoded == []
    with open_store(uri) as store:
        assert uris(store)["a.pdf"] == 3


@pytest.mark.slow
def test_chunks_in_the_store_stay_when_the_file_fails_as_a_whole(uri, encoder, without_blue, monkeypatch):
    refusing, run = without_blue
    run(uri, refusing)
    ask = decoder_pool._Worker.ask

    def killed(worker, request, seconds):
        worker.kill()
        return ask(worker, request, seconds)

    with monkeypatch.context() as patched:
        patched.setattr(decoder_pool._Worker, "ask", killed)
        report = run(uri, refusing)
    assert [(failure.uri, failure.reason) for failure in report.failed] == [("a.pdf", "corrupt")]
    assert (report.indexed, report.unchanged) == (0, 5)
    assert run(uri, encoder).failed == ()
    assert len(encoder.encoded) == 1
    with open_store(uri) as store:
        assert store.count() == 9


@pytest.mark.slow
def test_a_file_that_changes_under_the_reader_is_not_stored(small_folder, store, standin):
    def meddle(event):
        if event.kind == "planned":  # after it was hashed
            Image.new("RGB", (40, 30), "black").save(small_folder / "yellow.png")

    report = ingest(small_folder, store, standin(), on_event=meddle)
    assert [(failure.uri, failure.reason) for failure in report.failed] == [("yellow.png", "unreadable")]
    assert store.count({"uri": "yellow.png"}) == 0
    ingest(small_folder, store, standin())
    assert store.count({"uri": "yellow.png"}) == 1


def test_a_folder_that_cannot_be_listed_does_not_count_as_deleted(small_folder, store, encoder, monkeypatch, uris):
    ingest(small_folder, store, encoder)
    scandir = os.scandir

    def refusing(path):
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    report = ingest(small_folder, store, encoder)
    assert [(failure.uri, failure.reason) for failure in report.failed] == [("sub", "unreadable")]
    assert uris(store)["sub/cyan.jpg"] == 1


def test_a_folder_that_is_listed_and_not_entered_costs_only_itself(small_folder, store, encoder, monkeypatch, uris):
    ingest(small_folder, store, encoder)
    Image.new("RGB", (40, 30), "black").save(small_folder / "black.png")
    lstat = Path.lstat

    def refusing(path):
        if path.parent.name == "sub":
            raise PermissionError(13, "Permission denied", str(path))
        return lstat(path)

    monkeypatch.setattr(Path, "lstat", refusing)  # as if it lacked the bit for entering, which stops no administrator
    report = ingest(small_folder, store, encoder)
    assert [(failure.uri, failure.reason) for failure in report.failed] == [("sub/cyan.jpg", "unreadable")]
    assert (report.indexed, report.unchanged, report.removed) == (1, 4, 0)
    assert uris(store)["sub/cyan.jpg"] == uris(store)["black.png"] == 1
