from __future__ import annotations

import json
import shutil
import webbrowser

import av
import pytest
from PIL import Image


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def folder(indexed_folder):
    return indexed_folder[0]


@pytest.fixture
def uri(indexed_folder):
    return indexed_folder[1]


@pytest.fixture
def pink(run, uri, tmp_path):
    Image.new("RGB", (40, 30), (250, 10, 205)).save(tmp_path / "pink.png")
    return lambda *options: run("search", "--image", tmp_path / "pink.png", "--store", uri, *options)


def spans(out):
    return [(hit["rank"], hit["uri"], hit.get("start_s"), hit.get("end_s")) for hit in lines(out)]


def test_moments_are_merged_into_clips_unless_they_are_asked_for(pink):
    code, out, _ = pink("--top-k", 2, "--json")
    assert code == 0
    assert spans(out)[0] == (1, "pink.gif", 0, 14)
    assert spans(out)[1][:2] != (2, "pink.gif")
    merged = lines(out)[0]
    code, out, _ = pink("--top-k", 3, "--json", "--moments")
    assert {(uri, start, end) for _, uri, start, end in spans(out)} == {
        ("pink.gif", 0, 6),
        ("pink.gif", 6, 12),
        ("pink.gif", 12, 14),
    }
    assert [hit["rank"] for hit in lines(out)] == [1, 2, 3]
    assert merged["score"] == lines(out)[0]["score"]
    assert set(merged) == set(lines(out)[0])
    code, out, _ = pink("--top-k", 1)
    assert "pink.gif  0:00.0 to 0:14.0" in out


def test_one_hit_per_file(pink):
    for options in ((), ("--moments",)):
        _, out, _ = pink("--per-asset", "--json", *options)
        uris = [hit["uri"] for hit in lines(out)]
        assert sorted(uris) == ["clip.mp4", "doc.pdf", "notes.md", "pink.gif", "sub/cyan.jpg", "yellow.png"]
        assert uris[0] == "pink.gif"


def test_exact_search_finds_the_same_here(pink):
    assert spans(pink("--json", "--exact")[1]) == spans(pink("--json")[1])


def test_a_hit_becomes_a_file(run, uri, tmp_path):
    out_file = tmp_path / "out.mp4"
    Image.new("RGB", (9, 9), (20, 220, 20)).save(tmp_path / "green.png")
    green = ("search", "--image", tmp_path / "green.png", "--store", uri, "--filter", "uri=clip.mp4", "--moments")
    code, out, err = run(*green, "--clip", out_file, "--json")
    assert code == 0
    assert (lines(out)[0]["start_s"], lines(out)[0]["end_s"]) == (6, 12)
    assert "out.mp4: clip.mp4  0:06.0 to 0:12.0" in err
    with av.open(str(out_file)) as container:
        assert container.duration == 6 * av.time_base
        frames = [frame.to_ndarray(format="rgb24")[24, 32] for frame in container.decode(video=0)]
    assert len(frames) == 30
    assert frames[0][1] > 200  # green, and from 10 s on blue
    assert frames[-1][2] > 200

    third = next(hit for hit in lines(out) if hit["start_s"] == 12)
    code, _, err = run(*green, "--clip", tmp_path / "last.mp4", "--hit", third["rank"])
    assert code == 0
    assert "0:12.0 to 0:14.0" in err


def test_clips_that_are_refused(run, uri, tmp_path, pink):
    (tmp_path / "there.mp4").write_bytes(b"precious")
    zebra = ("search", "zebra", "--store", uri)
    for arguments, said in (
        ((*zebra, "--clip", tmp_path / "a.mp4"), "hit 1 (notes.md) is of the kind text"),
        ((*zebra, "--clip", tmp_path / "a.mp4", "--hit", 40), "hit 40 was asked for"),
        ((*zebra, "--clip", tmp_path / "a.mp4", "--filter", "uri=none"), "0 were found"),
        ((*zebra, "--clip", tmp_path / "there.mp4"), "exists already"),
        ((*zebra, "--clip", tmp_path / "a.avi"), "named .mp4"),
        ((*zebra, "--clip", tmp_path / "none" / "a.mp4"), "does not exist"),
        ((*zebra, "--open", "--hit", 0), "--hit"),
    ):
        code, _, err = run(*arguments)
        assert (code, said in err) == (2, True), err
    loaded = len(run.loaded)
    run(*zebra, "--clip", tmp_path / "there.mp4")
    assert len(run.loaded) == loaded  # the model is not waited for
    (tmp_path / "empty").mkdir()
    code, _, err = pink("--clip", tmp_path / "a.mp4", "--root", tmp_path / "empty")
    assert (code, "--root" in err) == (2, True), err
    assert (tmp_path / "there.mp4").read_bytes() == b"precious"
    assert not (tmp_path / "a.mp4").exists()


@pytest.mark.parametrize(
    ("options", "opened"),
    [
        (["--filter", "page=3"], "doc.pdf#page=3"),
        (["--filter", "uri=clip.mp4", "--filter", "start_s=6"], "clip.mp4#t=6,12"),
        (["--filter", "uri=notes.md"], "notes.md"),
        (["--filter", "modality=image", "--filter", "uri=sub/cyan.jpg"], "sub/cyan.jpg"),
    ],
)
def test_a_hit_is_opened_at_its_place(run, folder, uri, monkeypatch, options, opened):
    urls = []
    monkeypatch.setattr(webbrowser, "open", lambda url: urls.append(url) or True)
    code, _, err = run("search", "x", "--store", uri, "--open", *options)
    assert code == 0
    assert urls == [f"{folder.as_uri()}/{opened}"]
    assert "opened" in err


def test_a_system_without_a_viewer(run, uri, monkeypatch):
    monkeypatch.setattr(webbrowser, "open", lambda _url: False)
    code, out, err = run("search", "zebra", "--store", uri, "--open")
    assert code == 1
    assert "notes.md" in out
    assert "no viewer" in err


@pytest.mark.slow
def test_a_folder_that_was_moved(folder, tmp_path, pink):
    moved = shutil.move(folder, tmp_path / "moved")
    try:
        assert pink("--clip", tmp_path / "a.mp4")[0] == 2
        assert pink("--clip", tmp_path / "a.mp4", "--root", moved)[0] == 0
    finally:
        shutil.move(moved, folder)
    assert (tmp_path / "a.mp4").stat().st_size > 0
