"""Later runs over a folder: what they leave as it is, and what they replace."""

from __future__ import annotations

import os
import shutil

import pytest
from PIL import Image

from tte_retriever.sources import discover
from tte_retriever_qdrant import ingest, search

pytestmark = pytest.mark.usefixtures("decode_here")


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


def test_two_files_swap_their_contents(small_folder, any_store, encoder):
    ingest(small_folder, any_store, encoder)
    a, b = small_folder / "yellow.png", small_folder / "sub" / "cyan.jpg"
    a_bytes, b_bytes = a.read_bytes(), b.read_bytes()
    a.write_bytes(b_bytes)
    b.write_bytes(a_bytes)
    ingest(small_folder, any_store, encoder)
    assert any_store.count() == 9
    cyan = Image.new("RGB", (9, 9), (10, 240, 250))
    assert search(any_store, encoder, image=cyan, top_k=1)[0].uri == "yellow.png"


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


def test_files_that_a_moved_folder_lost_are_still_found_and_the_report_names_the_folder(
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


def test_other_windows_replace_the_old_ones(small_folder, any_store, encoder, contents):
    ingest(small_folder, any_store, encoder, window_s=6)
    encoder.encoded = []
    ingest(small_folder, any_store, encoder, window_s=3)
    assert [list(item) for item in encoder.encoded] == [["video"]] * 5
    assert sorted(p["start_s"] for p, *_ in contents(any_store).values() if "start_s" in p) == [0, 3, 6, 9, 12]
