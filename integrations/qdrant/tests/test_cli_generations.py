"""Re-embedding from the command line."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tte_retriever.cli import loading
from tte_retriever.errors import TTEError
from tte_retriever_qdrant import open_store

pytestmark = pytest.mark.usefixtures("decode_here")


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def listed(run, uri):
    """The generations, as (role, model, files)."""

    def call():
        code, out, _ = run("generations", "ls", "--store", uri, "--json")
        assert code == 0
        return [(row["generation"], row["model"], row["files"]) for row in lines(out)]

    return call


@pytest.fixture
def answering(run, uri):
    """The model that a search uses, which is the store's."""

    def call():
        code, out, _ = run("search", "zebra", "--store", uri, "--top-k", 1)
        assert (code, "notes.md" in out) == (0, True)
        return run.loaded[-1]

    return call


def test_another_model_takes_over_when_it_is_done_and_goes_back(run, small_folder, uri, listed, answering):
    assert run("index", small_folder, "--store", uri, "--model", "old")[0] == 0
    code, _, err = run("index", small_folder, "--store", uri, "--model", "new")
    assert code == 2
    for said in ("fingerprint of old", "fingerprint of new", "--reembed"):
        assert said in err
    assert listed() == [("current", "old", 5)]

    code, out, err = run("index", small_folder, "--store", uri, "--model", "new", "--reembed")
    assert code == 0
    assert "5 indexed as 9 points" in out
    assert f"tte-retriever generations rollback --store {uri}" in err
    assert listed() == [("current", "new", 5), ("previous", "old", 5)]
    assert answering() == "new"

    for model in ("old", "new", "old"):
        assert run("generations", "rollback", "--store", uri)[0] == 0
        assert answering() == model
    assert run("index", small_folder, "--store", uri, "--model", "old", "--json")[0] == 0
    assert listed() == [("current", "old", 5), ("previous", "new", 5)]  # bringing it up to date is no new generation

    assert run("generations", "drop", "previous", "--store", uri)[0] == 0
    assert listed() == [("current", "old", 5)]
    code, _, err = run("generations", "rollback", "--store", uri)
    assert (code, "no generation to go back to" in err) == (2, True)
    code, out, _ = run("generations", "ls", "--store", uri)
    assert "fingerprint of old" in out


@pytest.mark.slow
def test_who_searches_meanwhile_is_not_disturbed(run, small_folder, uri):
    run("index", small_folder, "--store", uri, "--model", "old")
    with open_store(uri, create=False) as serving:
        assert run("index", small_folder, "--store", uri, "--model", "new", "--reembed")[0] == 0
        assert serving.spec.model == "old"
        assert serving.count() == 9
        with open_store(uri, create=False) as store:
            assert store.spec.model == "new"
        assert run("generations", "rollback", "--store", uri)[0] == 0


@pytest.mark.slow
def test_nothing_is_left_behind(run, small_folder, uri, tmp_path, listed, answering):
    """Of two sources, both are to be embedded again before the new vectors are searched."""
    other = tmp_path / "other"
    other.mkdir()
    shutil.move(small_folder / "notes.md", other / "notes.md")
    (other / "gone.txt").write_text("giraffe")
    for source in (small_folder, other):
        assert run("index", source, "--store", uri, "--model", "old")[0] == 0
    (other / "gone.txt").unlink()
    code, _, err = run("index", small_folder, "--store", uri, "--model", "new", "--reembed")
    assert code == 0
    assert "1 files of other sources" in err
    assert str(other / "notes.md") in err
    assert listed() == [("current", "old", 6), ("next", "new", 4)]
    assert answering() == "old"
    assert run("index", other, "--store", uri, "--model", "new", "--reembed")[0] == 0
    assert listed() == [("current", "new", 5), ("previous", "old", 6)]
    assert answering() == "new"


@pytest.mark.slow
def test_too_many_failures_are_not_swapped_in_but_by_hand(run, small_folder, uri, listed):
    run("index", small_folder, "--store", uri, "--model", "old")
    (small_folder / "broken.png").write_bytes(b"x")
    reembed = ("index", small_folder, "--store", uri, "--model", "new", "--reembed")
    code, _, err = run(*reembed, "--max-failures", 0)
    assert code == 1
    assert "next generation" in err
    assert listed() == [("current", "old", 5), ("next", "new", 5)]
    code, out, _ = run("generations", "commit", "--store", uri, "--json")
    assert code == 0
    assert [row["generation"] for row in lines(out)] == ["current", "previous"]
    assert listed() == [("current", "new", 5), ("previous", "old", 5)]


def test_a_first_generation_that_nobody_sees_before_it_is_done(run, small_folder, uri, listed):
    (small_folder / "broken.png").write_bytes(b"x")
    first = ("index", small_folder, "--store", uri, "--model", "m", "--reembed")
    assert run(*first, "--max-failures", 0)[0] == 1
    assert run("search", "zebra", "--store", uri)[0] == 2
    assert run(*first)[0] == 0
    assert listed() == [("current", "m", 5)]


@pytest.fixture
def shards(uri):
    """The engine's files, and when they changed."""

    def call():
        folder = Path(uri.removeprefix("edge://"))
        found = {
            path: path.stat() for path in [folder, *folder.glob("generations/**/*")] if not path.name.endswith("-shm")
        }
        return {path: (status.st_ino, status.st_mtime_ns) for path, status in found.items() if "shard-" in str(path)}

    return call


@pytest.mark.slow
def test_a_run_that_changes_no_point_copies_nothing(run, small_folder, uri, shards):
    """Though it decodes again what failed, takes notice of what was touched, and meets what is there twice."""
    (small_folder / "cut.png").write_bytes((small_folder / "yellow.png").read_bytes()[:50])
    (small_folder / "empty.png").touch()
    Image.new("RGB", (13, 13)).save(small_folder / "refused.png")

    def index():
        code, out, _ = run("index", small_folder, "--store", uri, "--json")
        report = lines(out)[-1]
        return code, report["indexed"], report["unchanged"], report["duplicates"], len(report["failed"])

    assert index() == (0, 5, 0, 0, 3)
    before = shards()
    assert index() == (0, 0, 5, 0, 3)
    os.utime(small_folder / "notes.md", (1, 1))
    shutil.copy(small_folder / "yellow.png", small_folder / "zz.png")
    (small_folder / "table.csv").write_text("a,b")
    assert index() == (0, 0, 5, 1, 3)
    (small_folder / "zz.png").unlink()
    assert index() == (0, 0, 5, 0, 3)
    assert shards() == before
    (small_folder / "cut.png").write_bytes(b"a")
    Image.new("RGB", (9, 9)).save(small_folder / "refused.png")
    assert index() == (0, 1, 5, 0, 2)
    assert not shards().keys() & before.keys()
    assert index() == (0, 0, 6, 0, 2)


@pytest.mark.slow
@pytest.mark.parametrize("change", ["renamed", "removed"])
def test_a_run_that_changes_points_copies(run, small_folder, uri, shards, contents, change):
    assert run("index", small_folder, "--store", uri)[0] == 0
    before = shards()
    if change == "renamed":
        (small_folder / "notes.md").rename(small_folder / "zebra.md")
    else:
        (small_folder / "notes.md").unlink()
    assert run("index", small_folder, "--store", uri)[0] == 0
    assert not shards().keys() & before.keys()
    fresh = f"{uri}-2"
    assert run("index", small_folder, "--store", fresh)[0] == 0
    with open_store(uri) as one, open_store(fresh) as other:
        assert contents(one) == contents(other)


@pytest.fixture
def stopped(run, uri, standin, monkeypatch):
    """Index a source with a model that stops after a number of items."""

    def call(source, after):
        class Stopping(standin):
            def encode_document(self, inputs, **settings):
                if len(self.encoded) >= after:
                    raise TTEError("stopped")
                return super().encode_document(inputs, **settings)

        with monkeypatch.context() as patch:
            patch.setattr(loading, "load_encoder", lambda _: Stopping("fingerprint of tte-flash-tiny"))
            code, _, err = run("index", source, "--store", uri)
        assert (code, "stopped" in err) == (1, True)

    return call


@pytest.mark.slow
def test_an_update_that_stops_halfway_is_finished(run, small_folder, uri, stopped):
    assert run("index", small_folder / "sub", "--store", uri)[0] == 0
    for i in range(200):
        (small_folder / f"{i:03}.md").write_text(f"zebra {i}")
    stopped(small_folder, after=160)
    with open_store(uri) as store:
        assert store.count() == 1
    code, out, _ = run("index", small_folder, "--store", uri, "--json")
    report = lines(out)[-1]
    assert code == 0
    assert report["indexed"] + report["unchanged"] + report["duplicates"] == 205
    assert report["unchanged"] > 0
    with open_store(uri) as store:
        assert store.count() == 209


@pytest.mark.slow
def test_a_file_that_was_to_be_written_again_is_not_left_behind(run, small_folder, uri, tmp_path, stopped, listed):
    notes = tmp_path / "notes" / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("giraffe")
    assert run("index", notes.parent, "--store", uri)[0] == 0
    notes.write_text("zebra")
    stopped(notes.parent, after=0)
    code, _, err = run("index", small_folder, "--store", uri, "--model", "new", "--reembed")
    assert (code, str(notes) in err) == (0, True)
    assert [(role, model) for role, model, _ in listed()] == [("current", "tte-flash-tiny"), ("next", "new")]


@pytest.mark.slow
def test_prefixes(run, small_folder, uri):
    def prefixes():
        return [row["prefix"] for row in lines(run("generations", "ls", "--store", uri, "--json")[1])]

    def index(*options):
        code, _, err = run("index", small_folder, "--store", uri, *options)
        return code if code == 0 else (code, "prefix of" in err)

    assert index("--prefix", 400) == (2, True)
    assert index("--prefix", 100) == 0
    assert prefixes() == [100]
    assert index() == index("--prefix", 100) == 0  # without, it is that of the store
    assert index("--prefix", 16) == index("--prefix", 0) == (2, True)
    assert run("search", "zebra", "--store", uri, "--top-k", 1)[0] == 0
    (small_folder / "broken.png").write_bytes(b"x")
    begun = ("--model", "new", "--reembed", "--prefix", 108)
    assert index(*begun, "--max-failures", 0)[0] == 1
    assert prefixes() == [100, 108]
    assert index("--model", "new", "--reembed") == (2, True)
    assert index(*begun) == 0
    assert prefixes() == [108, 100]


def test_bad_usage(run, indexed_folder):
    _, uri = indexed_folder
    for arguments, said in (
        (["ls", "--store", "{uri}x"], "there is no store"),
        (["ls", "--store", "memory://"], "on a disk or a server"),
        (["ls", "--store", "films"], "no known kind"),
        (["ls"], "--store"),
        (["burn", "--store", "{uri}"], "burn"),
        (["drop", "--store", "{uri}"], "previous, next, update"),
        (["drop", "current", "--store", "{uri}"], "current"),
        (["drop", "next", "--store", "{uri}"], "cannot drop its next generation"),
        (["ls", "next", "--store", "{uri}"], "nothing else does"),
        (["commit", "--store", "{uri}"], "--reembed"),
    ):
        code, out, err = run("generations", *(argument.format(uri=uri) for argument in arguments))
        assert (code, out) == (2, ""), arguments
        assert said in err
        assert "Traceback" not in err


@pytest.mark.slow
def test_a_store_of_which_nothing_is_left(run, small_folder, uri):
    run("index", small_folder, "--store", uri, "--reembed", "--max-failures", 0)
    (small_folder / "broken.png").write_bytes(b"x")
    other = f"{uri}-2"
    run("index", small_folder, "--store", other, "--reembed", "--max-failures", 0)
    assert run("generations", "drop", "next", "--store", other)[:2] == (0, "no generations\n")
