from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from PIL import Image

from tte_retriever_qdrant import ingest, open_store

CONFTEST = Path(__file__).with_name("conftest.py")
pytestmark = pytest.mark.usefixtures("decode_here")


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def test_index_then_search(run, small_folder, uri):
    (small_folder / "cut.png").write_bytes((small_folder / "yellow.png").read_bytes()[:50])
    code, out, _ = run("index", small_folder, "--store", uri)
    assert code == 0
    assert "cut.png" in out
    assert "corrupt" in out
    assert f"6 files: 5 indexed as 9 points, 1 failed; store {uri}" in out

    code, out, _ = run("search", "zebra", "--store", uri, "--top-k", 2)
    assert code == 0
    assert "notes.md" in out
    code, out, _ = run("search", "x", "--store", uri, "--filter", "modality=video", "--filter", "start_s=6")
    assert "clip.mp4  0:06.0 to 0:12.0" in out
    code, out, _ = run("search", "x", "--store", uri, "--filter", "page=3")
    assert "doc.pdf  page 3" in out
    code, out, _ = run("search", "x", "--store", uri, "--filter", "uri=none.png")
    assert (code, out) == (0, "nothing found\n")


def test_options_of_index(run, small_folder, uri):
    (small_folder / "cut.png").write_bytes((small_folder / "yellow.png").read_bytes()[:50])
    Image.new("RGB", (80, 60), (249, 240, 11)).save(small_folder / "almost yellow.webp")
    options = ["--overlap-s", 2, "--workers", 1, "--near-duplicate", 0.999, "--max-failures", 1]
    code, out, _ = run("index", small_folder, "--store", uri, *options)
    assert code == 0
    assert "near-duplicates" in out
    assert "almost yellow.webp" in out
    code, out, _ = run("search", "x", "--store", uri, "--filter", "modality=video", "--moments")
    assert "0:04.0 to 0:10.0" in out
    code, _, err = run("index", small_folder, "--store", uri, "--overlap-s", 2, "--max-failures", 0)
    assert code == 1
    assert "quarantine.jsonl" in err


def test_a_folder_that_is_gone_is_named(run, small_folder, uri, tmp_path):
    assert run("index", small_folder, "--store", uri)[0] == 0
    new = small_folder.rename(tmp_path / "new")
    code, _, err = run("index", new / "sub", "--store", uri)
    assert code == 0
    assert f"not there: '{small_folder}'; if they are gone for good" in err
    assert "not there" not in run("index", new, "--store", uri)[2]


def test_json_lines(run, small_folder, uri):
    code, out, _ = run("index", small_folder, "--store", uri, "--json")
    assert code == 0
    *events, report = lines(out)
    assert [event["event"] for event in events] == ["planned"] + ["written"] * 5
    assert {event["uri"]: event["points"] for event in events[1:]} == {
        "clip.mp4": 3,
        "doc.pdf": 3,
        "notes.md": 1,
        "yellow.png": 1,
        "sub/cyan.jpg": 1,
    }
    assert report["event"] == "report"
    assert (report["files"], report["points"], report["failed"]) == (5, 9, [])

    code, out, _ = run("search", "--image", small_folder / "yellow.png", "--store", uri, "--top-k", 9, "--json")
    hits = lines(out)
    assert [hit["rank"] for hit in hits] == list(range(1, 10))
    by_kind = {hit["modality"]: set(hit) for hit in hits}
    always = {"rank", "score", "uri", "modality", "asset_id"}
    assert by_kind == {
        "image": always,
        "page": always | {"page"},
        "video": always | {"start_s", "end_s"},
        "text": always | {"text"},
    }
    assert hits[0]["uri"] == "yellow.png"
    code, out, _ = run("search", "--video", small_folder / "clip.mp4", "--store", uri, "--top-k", 1, "--json")
    assert lines(out)[0]["modality"] == "video"


def test_search_takes_the_model_of_the_store(run, small_folder, uri, tmp_path, monkeypatch):
    (tmp_path / "my-model").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run("index", small_folder, "--store", uri, "--model", "my-model")[0] == 0
    monkeypatch.chdir("/")
    assert run("search", "zebra", "--store", uri)[0] == 0
    assert run.loaded == ["my-model", str(tmp_path / "my-model")]
    code, _, err = run("search", "zebra", "--store", uri, "--model", "other")
    assert code == 2
    assert "fingerprint of my-model" in err
    assert "fingerprint of other" in err
    assert run("index", small_folder, "--store", uri)[0] == 2  # the default is another model, too


def test_a_store_that_does_not_know_its_model(run, small_folder, uri, standin):
    with open_store(uri) as store:
        ingest(small_folder, store, standin("fingerprint of x"))
    assert run("search", "zebra", "--store", uri)[0] == 2
    assert run("search", "zebra", "--store", uri, "--model", "x")[0] == 0


def test_bad_usage_is_one_sentence_and_exit_code_2(run, tmp_path, small_folder, uri):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"")
    cases = (
        (["index", "{tmp}/none", "--store", "{uri}"], "does not exist"),
        (["index", "{tmp}/empty", "--store", "{uri}"], "no files to index"),
        (["index", "{tmp}/bad", "--store", "{uri}"], "none of the 1 files"),
        (["index", "{tmp}/media", "--store", "{tmp}/store"], "edge://relative/dir"),
        (["index", "{tmp}/media", "--store", "{uri}", "--window-s", "0"], "window_s"),
        (["index", "{tmp}/media"], "--store"),
        (["search", "x", "--store", "{uri}"], "there is no store"),
        (["search", "--store", "{uri}"], "neither text nor media"),
        (["search", " ", "--store", "{uri}"], "neither text nor media"),
        (["search", "x", "--store", "{uri}", "--filter", "kind=page"], "modality"),
        (["search", "x", "--store", "{uri}", "--filter", "page"], "key=value"),
        (["search", "x", "--store", "{uri}", "--filter", "page=one"], "type int"),
    )
    for i, (arguments, said) in enumerate(cases):
        code, out, err = run(*(argument.format(tmp=tmp_path, uri=f"{uri}-{i}") for argument in arguments))
        assert (code, out) == (2, ""), arguments
        assert said in err
        assert "Traceback" not in err


def test_queries_on_a_store_that_are_refused(run, indexed_folder):
    folder, uri = indexed_folder
    for arguments, said in (
        (["x", "--top-k", "0"], "1 or more"),
        (["--image", folder / "none.png"], "does not exist"),
        (["--image", folder / "notes.md"], "not an image"),
    ):
        code, _, err = run("search", *arguments, "--store", uri)
        assert (code, said in err) == (2, True), err


def test_a_locked_store_is_a_failed_run(run, small_folder, uri):
    with open_store(uri):
        code, _, err = run("index", small_folder, "--store", uri)
    assert code == 1
    assert "in use by another process" in err


def test_a_missing_source_leaves_no_store_behind(run, tmp_path, uri):
    run("index", tmp_path / "none", "--store", uri)
    assert not (tmp_path / "store").exists()


def test_an_empty_source_leaves_no_model_behind(run, tmp_path, small_folder, uri):
    (tmp_path / "empty").mkdir()
    assert run("index", tmp_path / "empty", "--store", uri, "--model", "one")[0] == 2
    assert run("index", small_folder, "--store", uri, "--model", "another")[0] == 0


SLOW = f"""
    import runpy, sys
    from tte_retriever.cli import loading
    from tte_retriever.cli.main import main
    loading.load_encoder = lambda name: runpy.run_path({str(CONFTEST)!r})["StandInEncoder"](
        fingerprint="fingerprint of tte-flash-tiny", delay_s=60
    )
    main(["index", sys.argv[1], "--store", sys.argv[2], "--json"])
"""


@pytest.mark.slow  # stores/test_edge.py: readers have the last complete state while another process writes
def test_searches_go_on_while_another_process_indexes(run, small_folder, uri):
    run("index", small_folder, "--store", uri)
    (small_folder / "black.txt").write_text("giraffe")
    giraffe = ("search", "giraffe", "--store", uri, "--filter", "modality=text", "--json")
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SLOW), str(small_folder), uri],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert json.loads(process.stdout.readline())["event"] == "planned"
        code, out, _ = run(*giraffe)
        assert (code, [hit["uri"] for hit in lines(out)]) == (0, ["notes.md"])
        process.kill()
    assert len(lines(run(*giraffe)[1])) == 1
    code, out, _ = run("index", small_folder, "--store", uri, "--json")
    assert (code, lines(out)[-1]["indexed"], lines(out)[-1]["unchanged"]) == (0, 1, 5)
    assert [hit["uri"] for hit in lines(run(*giraffe)[1])] == ["black.txt", "notes.md"]


@pytest.mark.slow  # tests/cli tests the exit code in process
def test_ctrl_c_ends_cleanly_and_the_next_run_finishes(run, small_folder, uri):
    Image.new("RGB", (8, 8)).save(small_folder / "black.png")
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SLOW), str(small_folder), uri],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # A shell starts background jobs with interrupts ignored, and Python would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert json.loads(process.stdout.readline())["event"] == "planned"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "stopped" in err
    assert "Traceback" not in err
    code, out, _ = run("index", small_folder, "--store", uri, "--json")
    assert (code, lines(out)[-1]["indexed"], lines(out)[-1]["points"]) == (0, 6, 10)


def test_options_of_a_cluster_need_a_cluster(run, small_folder, uri):
    for options in (["--address", "auto"], ["--models", 2]):
        code, _, err = run("index", small_folder, "--store", uri, *options)
        assert (code, "--engine ray" in err) == (2, True)
    assert run.loaded == []


def test_a_cluster_without_ray(run, small_folder, uri, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in [name for name in sys.modules if name.startswith("tte_retriever_qdrant.distributed")]:
        monkeypatch.delitem(sys.modules, name)
    code, _, err = run("index", small_folder, "--store", uri, "--engine", "ray")
    assert (code, "tte-retriever-qdrant[ray]" in err) == (2, True)
