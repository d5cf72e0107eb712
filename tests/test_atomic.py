"""A file or folder exists completely or not at all."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tte_retriever.atomic import _MACHINE, atomic_write, atomic_write_text


def test_a_file_replaces_an_older_one(tmp_path):
    file = tmp_path / "a.json"
    file.write_text("old")
    with atomic_write(file) as draft:
        draft.write_text("new")
        assert file.read_text() == "old"
        assert draft.parent == file.parent
        assert draft.name.startswith(".")
        assert draft.suffix == ".json"
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_appears_with_all_it_holds(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()  # an empty one is replaced
    with atomic_write(folder) as draft:
        (draft / "inner").mkdir(parents=True)
        (draft / "inner/weights").write_text("1")
        assert not any(folder.iterdir())
    assert (folder / "inner/weights").read_text() == "1"
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_with_content_is_kept(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "mine").touch()
    with pytest.raises(OSError, match="not empty"), atomic_write(folder) as draft:
        draft.mkdir()
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "mine"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("is_folder", [False, True])
def test_a_failure_changes_nothing(tmp_path, error, is_folder):
    file = tmp_path / "a.txt"
    file.write_text("old")
    with pytest.raises(error), atomic_write(file) as draft:  # noqa: PT012
        if is_folder:
            draft.mkdir()
            (draft / "half").touch()
        else:
            draft.write_text("half")
        raise error
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_two_writers_of_one_file_do_not_mix(tmp_path):
    file = tmp_path / "a.txt"
    with atomic_write(file) as first:
        first.write_text("first")
        with atomic_write(file) as second:
            second.write_text("second")
        assert file.read_text() == "second"
    assert file.read_text() == "first"


def test_bytes_are_flushed_before_the_name_changes(tmp_path, monkeypatch):
    """The order that a power cut requires: the file's bytes, its new name, the list of names."""
    calls = []
    real_fsync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append("flush"), real_fsync(descriptor))[1])
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("rename"), real_replace(*paths))[1])
    atomic_write_text(tmp_path / "a.txt", "é")
    assert calls == ["flush", "rename", "flush"]
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "é"


def test_the_next_write_deletes_what_a_killed_process_left(tmp_path):
    file = tmp_path / "a.txt"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = tmp_path / f".partial-{_MACHINE}-{dead.pid}-0.a.txt"
    left.mkdir()
    (left / "half").touch()
    kept = [
        tmp_path / f".partial-{_MACHINE}-{os.getppid()}-0.a.txt",  # of a process that lives
        tmp_path / f".partial-0badcafe-{dead.pid}-0.a.txt",  # of another machine
        tmp_path / f".partial-{_MACHINE}-{dead.pid}-0.b.a.txt",  # of another file
        tmp_path / "a.txt.new",  # of another program
    ]
    for each in kept:
        each.touch()
    atomic_write_text(file, "whole")
    assert sorted(tmp_path.iterdir()) == sorted([file, *kept])
