from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from tte_retriever.errors import InputError
from tte_retriever_qdrant import ingest, open_store, search
from tte_retriever_qdrant.ingestion import decoding, discover
from tte_retriever_qdrant.ingestion.updating import spec_of
from tte_retriever_qdrant.stores import updating
from tte_retriever_qdrant.stores.edge import EdgeStore

CONFTEST = Path(__file__).with_name("conftest.py")


# later runs


def test_a_second_run_does_nothing(small_folder, store, encoder, contents):
    first = ingest(small_folder, store, encoder)
    before, encoder.encoded = contents(store), []
    second = ingest(small_folder, store, encoder)
    assert encoder.encoded == []
    assert (second.indexed, second.points, second.unchanged) == (0, 0, first.indexed)
    assert contents(store) == before


def test_touched_but_equal_files_are_not_embedded_again(small_folder, store, encoder):
    ingest(small_folder, store, encoder)
    encoder.encoded = []
    for path in discover(small_folder):
        os.utime(path, (1, 1))
    assert ingest(small_folder, store, encoder).unchanged == 5
    assert encoder.encoded == []


def test_changed_added_renamed_and_deleted_files(small_folder, store, encoder, contents, uris):
    ingest(small_folder, store, encoder)
    before, encoder.encoded = contents(store), []
    Image.new("RGB", (40, 30), (200, 0, 200)).save(small_folder / "yellow.png")
    Image.new("RGB", (40, 30), (0, 0, 0)).save(small_folder / "black.png")
    (small_folder / "notes.md").rename(small_folder / "zebra.md")
    (small_folder / "doc.pdf").unlink()
    report = ingest(small_folder, store, encoder)
    assert (report.indexed, report.removed, report.unchanged) == (3, 2, 2)
    assert len(encoder.encoded) == 3
    assert dict(uris(store)) == {"yellow.png": 1, "black.png": 1, "zebra.md": 1, "clip.mp4": 3, "sub/cyan.jpg": 1}
    after = contents(store)
    untouched = {key for key, (payload, *_) in before.items() if payload["uri"] in ("clip.mp4", "sub/cyan.jpg")}
    assert {key: before[key] for key in untouched} == {key: after[key] for key in untouched}
    assert search(store, encoder, image=Image.new("RGB", (9, 9), (200, 0, 200)), top_k=1)[0].uri == "yellow.png"


def test_one_content_under_two_names(small_folder, store, encoder, uris):
    shutil.copy(small_folder / "yellow.png", small_folder / "sub" / "again.png")
    report = ingest(small_folder, store, encoder)
    assert (report.duplicates, report.points) == (1, 9)
    assert ingest(small_folder, store, encoder).duplicates == 1
    (small_folder / "yellow.png").unlink()
    ingest(small_folder, store, encoder)
    assert uris(store)["sub/again.png"] == 1
    assert store.count() == 9
    (small_folder / "sub" / "again.png").unlink()
    ingest(small_folder, store, encoder)
    assert store.count() == 8


def test_a_duplicate_outlives_the_change_of_its_original(small_folder, store, encoder, uris):
    shutil.copy(small_folder / "yellow.png", small_folder / "zz.png")
    ingest(small_folder, store, encoder)
    Image.new("RGB", (40, 30), "black").save(small_folder / "yellow.png")
    ingest(small_folder, store, encoder)
    assert uris(store)["zz.png"] == uris(store)["yellow.png"] == 1


def test_two_files_swap_their_contents(small_folder, store, encoder):
    ingest(small_folder, store, encoder)
    a, b = small_folder / "yellow.png", small_folder / "sub" / "cyan.jpg"
    a_bytes, b_bytes = a.read_bytes(), b.read_bytes()
    a.write_bytes(b_bytes)
    b.write_bytes(a_bytes)
    ingest(small_folder, store, encoder)
    assert store.count() == 9
    cyan = Image.new("RGB", (9, 9), (10, 240, 250))
    assert search(store, encoder, image=cyan, top_k=1)[0].uri == "yellow.png"


def test_a_bad_name_does_not_hide_a_good_one(tmp_path, store, encoder, uris):
    folder = tmp_path / "src"
    folder.mkdir()
    for name in ("a.csv", "b.jpg", "c.txt"):
        (folder / name).write_text("same words everywhere")
    report = ingest(folder, store, encoder)
    assert dict(uris(store)) == {"c.txt": 1}
    assert report.skipped == 1
    assert [failure.uri for failure in report.failed] == ["b.jpg"]


def test_two_sources_in_one_store(small_folder, tmp_path, store, encoder):
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(small_folder / "yellow.png", other / "copy.png")
    Image.new("RGB", (40, 30), "black").save(other / "yellow.png")
    ingest(small_folder, store, encoder)
    assert ingest(other, store, encoder).duplicates == 1
    assert store.count() == 10
    (small_folder / "yellow.png").unlink()
    ingest(small_folder, store, encoder)
    assert store.count() == 10  # the other folder still has that content
    ingest(other, store, encoder)
    assert store.count({"uri": "copy.png"}) == 1
    assert store.count() == 10


@pytest.mark.parametrize("how", ["at once", "by way of a copy"])
def test_a_folder_that_was_moved_is_taken_over(small_folder, tmp_path, store, encoder, uris, how):
    shutil.copy(small_folder / "yellow.png", small_folder / "zz.png")
    ingest(small_folder, store, encoder)
    new, encoder.encoded = tmp_path / "new", []
    if how == "at once":
        small_folder.rename(new)
    else:
        shutil.copytree(small_folder, new)
        assert ingest(new, store, encoder).duplicates == 6
        shutil.rmtree(small_folder)
    report = ingest(new, store, encoder)
    assert (report.indexed, report.unchanged, report.duplicates, report.absent) == (0, 5, 1, ())
    assert (encoder.encoded, store.count()) == ([], 9)

    for name in ("yellow.png", "zz.png"):
        (new / name).unlink()
    (new / "notes.md").write_text("giraffe")
    report = ingest(new, store, encoder)
    assert (report.indexed, report.unchanged, report.removed) == (1, 3, 2)
    assert dict(uris(store)) == {"clip.mp4": 3, "doc.pdf": 3, "notes.md": 1, "sub/cyan.jpg": 1}


def test_what_a_folder_lost_before_it_was_moved_is_still_found_and_the_run_says_so(
    small_folder, tmp_path, store, encoder, uris
):
    """The old folder may be on a disk that is not mounted."""
    ingest(small_folder, store, encoder)
    new = small_folder.rename(tmp_path / "new")
    kept = new / "yellow.png"
    kept.rename(tmp_path / "yellow.png")
    assert ingest(new, store, encoder).absent == (str(small_folder),)
    assert uris(store)["yellow.png"] == 1
    small_folder.mkdir()
    (tmp_path / "yellow.png").rename(small_folder / "yellow.png")
    encoder.encoded = []
    report = ingest(small_folder, store, encoder)
    assert (report.unchanged, report.removed, report.absent, encoder.encoded) == (1, 0, (), [])


def test_other_windows_replace_the_old_ones(small_folder, store, encoder, contents):
    ingest(small_folder, store, encoder, window_s=6)
    encoder.encoded = []
    ingest(small_folder, store, encoder, window_s=3)
    assert [list(item) for item in encoder.encoded] == [["video"]] * 5
    assert sorted(p["start_s"] for p, *_ in contents(store).values() if "start_s" in p) == [0, 3, 6, 9, 12]


def test_windows_that_were_cut_otherwise_go_even_after_crashes_and_under_new_names(
    small_folder, store, encoder, standin, contents
):
    class Dying(standin):
        def encode_document(self, inputs, **settings):
            if self.encoded:
                raise RuntimeError("out of memory")
            return super().encode_document(inputs, **settings)

    def starts():
        return sorted(p["start_s"] for p, *_ in contents(store).values() if "start_s" in p)

    clip = small_folder / "clip.mp4"
    ingest(clip, store, encoder, window_s=6)
    with pytest.raises(RuntimeError):
        ingest(clip, store, Dying(), window_s=3, batch_size=2)
    clip = clip.rename(small_folder / "renamed.mp4")
    ingest(small_folder, store, encoder, window_s=6)
    assert starts() == [0, 6, 12]
    ingest(small_folder, store, encoder, window_s=6, overlap_s=2)
    assert starts() == [0, 4, 8]


@pytest.mark.parametrize("meanwhile", ["nothing", "renamed", "a twin is left"])
def test_a_document_is_taken_up_where_a_crash_left_it(small_folder, store, encoder, standin, uris, meanwhile):
    class Dying(standin):
        def encode_document(self, inputs, **settings):
            if len(self.encoded) == 2:
                raise RuntimeError("out of memory")
            return super().encode_document(inputs, **settings)

    folder = small_folder / "documents"
    folder.mkdir()
    document, twin = folder / "doc.pdf", folder / "twin.pdf"
    shutil.move(small_folder / "doc.pdf", document)
    if meanwhile == "a twin is left":
        shutil.copy(document, twin)
    with pytest.raises(RuntimeError):
        ingest(folder, store, Dying(), batch_size=1)
    before = store.count()
    assert before >= 1
    if meanwhile == "renamed":
        document.rename(twin)
    elif meanwhile == "a twin is left":
        document.unlink()
    report = ingest(folder, store, encoder)
    assert len(encoder.encoded) == (3 - before if meanwhile == "nothing" else 3)
    assert (report.indexed, report.points, store.count()) == (1, 3, 3)
    assert list(uris(store)) == ["doc.pdf" if meanwhile == "nothing" else "twin.pdf"]


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


def test_a_part_that_failed_is_tried_again_alone_until_it_is_there(uri, encoder, without_blue, tmp_path, uris):
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


def test_parts_that_are_there_stay_when_the_file_fails_as_a_whole(uri, encoder, without_blue, monkeypatch):
    refusing, run = without_blue
    run(uri, refusing)
    ask = decoding._Worker.ask

    def killed(worker, request, seconds):
        worker.kill()
        return ask(worker, request, seconds)

    with monkeypatch.context() as patched:
        patched.setattr(decoding._Worker, "ask", killed)
        report = run(uri, refusing)
    assert [(failure.uri, failure.reason) for failure in report.failed] == [("a.pdf", "corrupt")]
    assert (report.indexed, report.unchanged) == (0, 5)
    assert run(uri, encoder).failed == ()
    assert len(encoder.encoded) == 1
    with open_store(uri) as store:
        assert store.count() == 9


def test_a_ledger_that_does_not_say_which_part_is_missing(uri, encoder, without_blue, tmp_path):
    refusing, run = without_blue
    run(uri, refusing)
    (path,) = tmp_path.glob("store/generations/*/ledger.sqlite")
    ledger = sqlite3.connect(path)
    ledger.execute("ALTER TABLE files DROP COLUMN missing")
    ledger.close()
    assert run(uri, encoder).failed == ()
    assert len(encoder.encoded) == 1
    with open_store(uri) as store:
        assert store.count() == 9


def test_a_file_that_changes_under_the_reader_is_not_stored(small_folder, store, standin):
    class Meddler(standin):
        @property
        def video_sampling(self):
            Image.new("RGB", (40, 30), "black").save(small_folder / "yellow.png")  # after it was hashed
            return standin.video_sampling

    report = ingest(small_folder, store, Meddler())
    assert [(failure.uri, failure.reason) for failure in report.failed] == [("yellow.png", "unreadable")]
    assert store.count({"uri": "yellow.png"}) == 0
    ingest(small_folder, store, standin())
    assert store.count({"uri": "yellow.png"}) == 1


def test_what_cannot_be_listed_is_not_taken_for_deleted(small_folder, store, encoder, monkeypatch, uris):
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


# crashes

INGEST = f"""
    import runpy, sys
    from pathlib import Path
    from tte_retriever_qdrant import ingest, open_store
    encoder = runpy.run_path({str(CONFTEST)!r})["StandInEncoder"](delay_s=0.02)
    with open_store(sys.argv[2]) as store:
        ingest(Path(sys.argv[1]), store, encoder, batch_size=4, on_event=lambda event: print(event.kind, flush=True))
"""


def test_killed_at_any_moment_nothing_is_lost_and_nothing_twice(real_files, tmp_path, encoder, contents):
    folder, _ = real_files
    with open_store(f"edge://{tmp_path}/reference") as store:
        ingest(folder, store, encoder)
        expected = contents(store)
    total, encoder.encoded = len(encoder.encoded), []

    uri = f"edge://{tmp_path}/killed"
    for lines in (1, 2, 15):
        with subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(INGEST), str(folder), uri], stdout=subprocess.PIPE, text=True
        ) as process:
            for _ in range(lines):
                assert process.stdout.readline()
            process.kill()
        assert process.returncode == -9
    with open_store(uri) as store:
        report = ingest(folder, store, encoder)
        assert contents(store) == expected
        assert 0 < len(encoder.encoded) < total  # what was done was not done again
        assert report.unchanged > 0
        ledger = sqlite3.connect(store.home / "ledger.sqlite")
        states = Counter(state for (state,) in ledger.execute("SELECT state FROM files"))
        ledger.close()
    assert states["NEW"] == 0
    assert states["WRITTEN"] == len({payload["uri"] for payload, *_ in expected.values()})


@pytest.fixture
def index_is_stopped(monkeypatch):
    """A function that has a type of store die when it builds its index, or count how often it does, and of how much."""
    built = []

    def stop(type_of_store, *, dies):
        def finalize(store):
            if dies:
                raise KeyboardInterrupt
            built.append(store.count())

        monkeypatch.setattr(type_of_store, "finalize", finalize)
        return built

    return stop


def test_an_index_that_a_run_did_not_live_to_build_is_built_by_the_next_one(
    small_folder, store, encoder, index_is_stopped
):
    index_is_stopped(type(store), dies=True)
    with pytest.raises(KeyboardInterrupt):
        ingest(small_folder, store, encoder)
    built, encoder.encoded = index_is_stopped(type(store), dies=False), []
    assert [ingest(small_folder, store, encoder).unchanged for _ in range(2)] == [5, 5]
    assert (built, encoder.encoded) == ([9], [])


@pytest.mark.parametrize("before", ["nothing", "one file"])
def test_the_same_in_a_copy(small_folder, uri, encoder, index_is_stopped, before):
    def run(source):
        with updating(uri, spec_of(encoder, "")) as store:
            return ingest(source, store, encoder)

    if before == "one file":
        run(small_folder / "notes.md")
    index_is_stopped(EdgeStore, dies=True)
    with pytest.raises(KeyboardInterrupt):
        run(small_folder)
    built, encoder.encoded = index_is_stopped(EdgeStore, dies=False), []
    assert [run(small_folder).unchanged for _ in range(2)] == [5, 5]
    assert (built, encoder.encoded) == ([9], [])
    with open_store(uri) as store:
        assert store.count() == 9


def test_a_file_that_is_deleted_after_a_crash_leaves_nothing_behind(small_folder, store, standin, uris):
    class Dying(standin):
        def encode_document(self, inputs, **settings):
            if len(self.encoded) >= 4:
                raise RuntimeError("out of memory")
            return super().encode_document(inputs, **settings)

    with pytest.raises(RuntimeError, match="out of memory"):
        ingest(small_folder, store, Dying(), batch_size=2)
    assert store.count() == 4  # the clip and the first page
    (small_folder / "doc.pdf").unlink()
    (small_folder / "clip.mp4").unlink()
    ingest(small_folder, store, standin())
    assert dict(uris(store)) == {"notes.md": 1, "yellow.png": 1, "sub/cyan.jpg": 1}
