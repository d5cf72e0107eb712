from __future__ import annotations

import itertools
import os
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tte_retriever.errors import InputError
from tte_retriever.sources import chunks_of, discover
from tte_retriever.sources.chunking import WINDOW_CHARACTERS
from tte_retriever_qdrant import ingest, open_store, search
from tte_retriever_qdrant.errors import ModelMismatch

CONFTEST = Path(__file__).with_name("conftest.py")


# what is indexed


def test_chunks_of_every_kind(shared_folder):
    kinds = {
        path.name: [(chunk.modality, chunk.name) for chunk in chunks_of(path)] for path in discover(shared_folder)
    }
    assert kinds == {
        "clip.mp4": [("video", "t=0,6"), ("video", "t=6,12"), ("video", "t=12,14")],
        "doc.pdf": [("page", "page=1"), ("page", "page=2"), ("page", "page=3")],
        "notes.md": [("text", "")],
        "yellow.png": [("image", "")],
        "cyan.jpg": [("image", "")],
    }


def test_discovery_stays_inside_and_out_of_stores(small_folder, tmp_path, encoder, uris):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("secret")
    (small_folder / "link.txt").symlink_to(outside / "secret.txt")
    (small_folder / "linked").symlink_to(outside)
    (small_folder / "loop").symlink_to(small_folder)
    (small_folder / ".git").mkdir()
    (small_folder / ".git" / "x.txt").write_text("x")
    (small_folder / ".x.txt").write_text("x")
    os.mkfifo(small_folder / "pipe.txt")
    with open_store(f"edge://{small_folder}/store") as store:
        ingest(small_folder, store, encoder)
        names = [path.relative_to(small_folder).as_posix() for path in discover(small_folder)]
        assert names == ["clip.mp4", "doc.pdf", "notes.md", "yellow.png", "sub/cyan.jpg"]
        assert set(uris(store)) == set(names)


# a first run


def test_everything_is_found_again(small_folder, any_store, encoder):
    events = []
    report = ingest(small_folder, any_store, encoder, on_event=events.append)
    assert (report.files, report.indexed, report.points, report.failed) == (5, 5, 9, ())
    assert any_store.count() == 9
    assert [event.kind for event in events] == ["planned"] + ["written"] * 5
    assert (events[0].done, events[0].total) == (0, 5)
    assert (events[-1].done, events[-1].total) == (5, 5)

    def best(**query):
        return search(any_store, encoder, top_k=1, **query)[0]

    assert best(image=Image.new("RGB", (9, 9), (10, 240, 250))).uri == "sub/cyan.jpg"
    assert best(image=small_folder / "yellow.png").score == pytest.approx(1, abs=1e-4)
    page = best(image=Image.new("RGB", (9, 9), "lime"), filter={"modality": "page"})
    assert (page.uri, page.page) == ("doc.pdf", 2)
    moment = best(image=Image.new("RGB", (9, 9), (20, 20, 220)), filter={"modality": "video"})
    assert (moment.uri, moment.start_s, moment.end_s) == ("clip.mp4", 12.0, 14.0)
    note = best(text="zebra hooves")
    assert (note.uri, note.modality) == ("notes.md", "text")
    assert note.text == "# Zebra\nstripes and hooves"
    assert best(video=small_folder / "clip.mp4", filter={"modality": "video"}).uri == "clip.mp4"


@pytest.mark.slow
def test_real_files_good_and_bad(real_files, any_store, encoder, uris):
    folder, broken = real_files
    report = ingest(folder, any_store, encoder, batch_size=7)
    assert {failure.uri: failure.reason for failure in report.failed} == broken
    assert all(failure.message for failure in report.failed)
    assert report.skipped == 2  # a table and a file of bytes: nobody claims that they are media
    assert report.files == report.indexed + report.duplicates + report.skipped + len(broken)
    found = uris(any_store)
    assert sum(found.values()) == any_store.count() == report.points
    hidden_or_bad = {".hidden.png", "table.csv", "data.bin", *broken}
    assert not hidden_or_bad & set(found)
    assert found["paper.PDF"] == 3
    assert found["moving.png"] == 2  # nine seconds
    assert sum(uri.startswith("installed/") for uri in found) > 20

    for name in ("ümläut — 図.txt", "poem.txt", "no suffix at all", "sixteen.png", "cmyk.jpg", "float.tiff"):
        assert found[name] == 1
    assert search(any_store, encoder, text="katze", top_k=1)[0].uri == "ümläut — 図.txt"
    assert search(any_store, encoder, text="the moon over the lake", top_k=1)[0].score == pytest.approx(1, abs=1e-4)
    for name in ("turned.jpg", "alpha.png", "sixteen.png"):
        hit = search(any_store, encoder, image=folder / name, top_k=1, filter={"uri": name})[0]
        assert hit.score == pytest.approx(1, abs=1e-4)


def test_a_long_text_is_cut_between_words_and_every_word_is_found(tmp_path, store, encoder):
    (tmp_path / "src").mkdir()
    words = [f"wörd{number}" for number in range(2_000)]
    text = "\ufeff" + "\n".join(" ".join(words[i : i + 10]) for i in range(0, len(words), 10))
    (tmp_path / "src" / "long.txt").write_text(text, encoding="utf-8")
    ingest(tmp_path / "src", store, encoder)
    pieces = [item["text"] for item in encoder.encoded]
    assert {word for piece in pieces for word in piece.split()} == set(words)
    assert all(len(piece) <= WINDOW_CHARACTERS for piece in pieces)
    assert all(set(a.split()) & set(b.split()) for a, b in itertools.pairwise(pieces))

    hit = search(store, encoder, text=pieces[3], top_k=1)[0]
    assert (hit.uri, hit.text) == ("long.txt", pieces[3])
    assert store.count() == len(pieces) == pytest.approx(len(text) / (WINDOW_CHARACTERS - 200), abs=2)


def test_a_long_text_without_a_space(tmp_path, store, encoder):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "long.txt").write_text("äöü" * 3000, encoding="utf-8")
    ingest(tmp_path / "src", store, encoder)
    assert [len(item["text"]) for item in encoder.encoded] == [2000, 2000, 2000, 2000, 1800]


def test_names_that_are_no_utf8(tmp_path, store, encoder, uris):
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("hello there")
    ingest(tmp_path, store, encoder)
    assert list(uris(store)) == ["caf\\xe9.txt"]
    assert search(store, encoder, text="hello", top_k=1)[0].uri == "caf\\xe9.txt"


def test_a_source_that_is_named_by_a_string(small_folder, store, encoder):
    assert ingest(str(small_folder), store, encoder).points == 9


@pytest.mark.slow
def test_a_single_file(small_folder, store, encoder, uris):
    report = ingest(small_folder / "sub" / "cyan.jpg", store, encoder)
    assert (report.files, report.points) == (1, 1)
    assert dict(uris(store)) == {"cyan.jpg": 1}
    ingest(small_folder / "yellow.png", store, encoder)
    assert store.count() == 2  # one file says nothing about the others


def test_an_item_that_the_model_refuses_does_not_cost_its_neighbours(small_folder, store, encoder):
    Image.new("RGB", (13, 13), "red").save(small_folder / "refused.png")
    Image.new("RGB", (17, 17), "red").save(small_folder / "nan.png")
    report = ingest(small_folder, store, encoder)
    assert {failure.uri: failure.reason for failure in report.failed} == {
        "refused.png": "unsupported",
        "nan.png": "unsupported",
    }
    assert report.points == store.count() == 9


def test_only_the_broken_page_is_missing(small_folder, store, encoder, pdf_bytes):
    kids = re.search(rb"/Kids\s*\[[^]]*\]", pdf_bytes).group()
    second = re.findall(rb"\d+ 0 R", kids)[1]
    nowhere = re.sub(rb"^\d+", lambda number: b"0" * len(number.group()), second)
    (small_folder / "doc.pdf").write_bytes(pdf_bytes.replace(kids, kids.replace(second, nowhere)))
    report = ingest(small_folder, store, encoder)
    assert [(failure.uri, failure.reason) for failure in report.failed] == [("doc.pdf#page=2", "corrupt")]
    assert report.indexed == 5
    assert {hit.page for hit in search(store, encoder, text="x", filter={"uri": "doc.pdf"})} == {1, 3}


# what is refused as a whole


def test_sources_without_anything_to_index(tmp_path, store, encoder):
    (tmp_path / "empty" / ".hidden").mkdir(parents=True)
    with pytest.raises(InputError, match="does not exist"):
        ingest(tmp_path / "none", store, encoder)
    with pytest.raises(InputError, match="no files to index"):
        ingest(tmp_path / "empty", store, encoder)
    (tmp_path / "empty" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "empty" / "b.csv").write_text("1,2")
    with pytest.raises(InputError, match=r"none of the 2 files.*a\.png"):
        ingest(tmp_path / "empty", store, encoder)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="neither a file nor a folder"):
        ingest(tmp_path / "pipe", store, encoder)


def test_an_emptied_folder_does_not_empty_the_store(small_folder, store, encoder):
    """It is more likely a disk that is not mounted."""
    ingest(small_folder, store, encoder)
    shutil.rmtree(small_folder)
    small_folder.mkdir()
    with pytest.raises(InputError, match="no files"):
        ingest(small_folder, store, encoder)
    assert store.count() == 9


@pytest.mark.parametrize(
    "settings",
    [
        {"window_s": 0},
        {"window_s": 0.001},
        {"window_s": float("nan")},
        {"overlap_s": -1},
        {"overlap_s": 4},
        {"overlap_s": float("nan")},
        {"batch_size": 0},
        {"workers": 0},
        {"time_limit_s": 0},
        {"memory_limit": 1000},
    ],
)
def test_settings_that_make_no_sense(small_folder, store, encoder, settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        ingest(small_folder, store, encoder, **settings)


def test_another_model_is_refused_before_it_encodes(small_folder, store, encoder, standin):
    ingest(small_folder, store, encoder)
    other = standin("standin-2")
    with pytest.raises(ModelMismatch, match=r"standin-1.*standin-2"):
        ingest(small_folder, store, other)
    with pytest.raises(ModelMismatch, match=r"standin-1.*standin-2"):
        search(store, other, text="zebra")
    assert other.encoded == []


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({}, "neither text nor media"),
        ({"text": "  "}, "neither text nor media"),
        ({"text": "x", "top_k": 0}, "1 or more"),
        ({"text": "x", "filter": {"kind": "page"}}, "modality"),
        ({"image": "yellow.png"}, "never a path"),
        ({"video": Path("/nonexistent/x.mp4")}, "does not exist"),
    ],
)
def test_queries_that_are_refused(indexed, encoder, query, said):
    with pytest.raises(InputError, match=said):
        search(indexed, encoder, **query)
