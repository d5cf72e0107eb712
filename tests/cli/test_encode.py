"""``tte-retriever encode`` as a user calls it."""

from __future__ import annotations

import json
import os
import threading
from importlib.metadata import EntryPoint

import numpy as np
import pytest
from PIL import Image

from tte_retriever import TTEEncoder
from tte_retriever.cli import main as cli


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command of this checkout, whatever is installed; returns exit code, stdout, stderr."""
    command = EntryPoint("encode", "tte_retriever.cli.encode:encode", cli.GROUP)
    monkeypatch.setattr(cli, "entry_points", lambda *, group, name=None: [command] if name in (None, "encode") else [])

    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            cli.main(["encode", *map(str, arguments)])
        return caught.value.code or 0, *capsys.readouterr()

    return call


@pytest.fixture
def items(tmp_path):
    Image.new("RGB", (96, 96), "red").save(tmp_path / "red.png")
    chat = [{"role": "system", "content": "find it"}, {"role": "user", "content": "two"}]
    lines = ["a red circle", {"text": "what color ?", "image": "red.png"}, chat]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n", encoding="utf-8")
    return tmp_path / "items.jsonl"


def test_items_become_an_array_in_their_order(run, items, tmp_path):
    code, said, _ = run(items, tmp_path / "out.npy", "--think-budget", 2, "--device", "cpu", "--batch-tokens", 64)
    assert (code, "3 vectors of 128 dimensions" in said) == (0, True)
    chat = [{"role": "system", "content": "find it"}, {"role": "user", "content": "two"}]
    given = ["a red circle", {"text": "what color ?", "image": tmp_path / "red.png"}, chat]
    expected = TTEEncoder("tte-flash-tiny", device="cpu").encode_document(given, think_budget=2)
    assert np.abs(np.load(tmp_path / "out.npy") - expected).max() < 1e-5


@pytest.mark.parametrize(
    ("content", "out", "said"),
    [
        ("", "out.npy", "no items"),
        ('"two"\nnonsense', "out.npy", "line 2"),
        ('{"image": "missing.png"}', "out.npy", "missing.png"),
        ('"two"', "out.txt", "OUT.npy"),
        ('"two"', "items.jsonl", "OUT.npy"),
        ('"two"', "missing/out.npy", "OUT.npy"),
    ],
)
def test_what_cannot_be_encoded_is_said_and_nothing_is_written(run, tmp_path, content, out, said):
    (tmp_path / "items.jsonl").write_text(content, encoding="utf-8")
    code, _, err = run(tmp_path / "items.jsonl", tmp_path / out)
    assert (code, said in err) == (2, True)
    assert not (tmp_path / "out.npy").exists()


def test_a_pipe_gives_the_vectors_of_a_file(run, items, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=(items.read_text(encoding="utf-8"),))
    writer.start()
    assert run(tmp_path / "pipe", tmp_path / "piped.npy")[0] == run(items, tmp_path / "read.npy")[0] == 0
    writer.join()
    assert np.abs(np.load(tmp_path / "piped.npy") - np.load(tmp_path / "read.npy")).max() < 1e-6
