"""The commands on a folder that the demo did not make, with the bundled model and Qdrant's own engine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tte_retriever import TTEEncoder
from tte_retriever_qdrant import open_store, search

pytestmark = pytest.mark.slow  # each test starts the installed command; test_cli.py runs it in process

COMMAND = str(Path(sys.executable).with_name("tte-retriever"))


def run(*arguments):
    result = subprocess.run([COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False)
    return result.returncode, result.stdout, result.stderr


@pytest.fixture(scope="module")
def hundreds(tmp_path_factory, real_files):
    """Photographs cut into 240 files of five formats, beside the odd and the broken ones."""
    folder = tmp_path_factory.mktemp("hundreds") / "media"
    shutil.copytree(real_files[0], folder)
    photographs = [path for path in sorted(folder.glob("installed/data/*")) if path.suffix in (".png", ".jpg")]
    random = np.random.default_rng(0)
    formats = ("jpg", "png", "webp", "bmp", "tiff")
    written = 0
    while written < 240:
        with Image.open(photographs[written % len(photographs)]) as photograph:
            picture = photograph.convert("RGB")
        width, height = (int(random.integers(24, max(25, side))) for side in picture.size)
        left, top = (int(random.integers(0, side)) for side in picture.size)
        cut = picture.crop((left, top, left + width, top + height))
        cut.save(folder / f"cut-{written:03d}.{formats[written % len(formats)]}")
        written += 1
    return folder, real_files[1]


@pytest.fixture(scope="module")
def indexed(hundreds, tmp_path_factory):
    folder, broken = hundreds
    uri = f"edge://{tmp_path_factory.mktemp('store')}/x"
    code, out, err = run("index", folder, "--store", uri, "--json")
    assert code == 0, err
    return folder, broken, uri, [json.loads(line) for line in out.splitlines()]


def test_good_files_are_points_and_bad_ones_have_a_reason(indexed):
    _, broken, _, events = indexed
    report = events[-1]
    assert report["files"] > 300 - 20
    failed = {failure["uri"]: failure["reason"] for failure in report["failed"]}
    assert broken.items() <= failed.items()
    assert report["indexed"] + report["skipped"] + report["duplicates"] + len(failed) == report["files"]
    assert report["points"] >= report["indexed"] > 250


def test_a_second_run_writes_nothing(indexed):
    folder, _, uri, events = indexed
    code, out, _ = run("index", folder, "--store", uri, "--json")
    report = json.loads(out.splitlines()[-1])
    assert code == 0
    assert report["points"] == 0
    assert report["unchanged"] == events[-1]["indexed"]


def test_every_picture_finds_itself(indexed):
    folder, _, uri, _ = indexed
    encoder = TTEEncoder("tte-flash-tiny", device="cpu")
    with open_store(uri, create=False) as store:
        for path in sorted(folder.glob("cut-*"))[::24]:
            best = search(store, encoder, image=path, top_k=1, filter={"modality": "image"})[0]
            assert best.score == pytest.approx(1, abs=1e-4)
            own = search(store, encoder, image=path, top_k=1, filter={"uri": path.name})[0]
            assert own.score == pytest.approx(1, abs=1e-4)


def test_search_prints_stable_keys(indexed):
    _, _, uri, _ = indexed
    code, out, _ = run("search", "a red circle", "--store", uri, "--top-k", 4, "--json")
    hits = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [hit["rank"] for hit in hits] == [1, 2, 3, 4]
    assert all({"score", "uri", "modality", "asset_id"} <= set(hit) for hit in hits)
    code, out, _ = run("search", "a red circle", "--store", uri, "--filter", "modality=video", "--json")
    hits = [json.loads(line) for line in out.splitlines()]
    assert hits
    assert all(0 <= hit["start_s"] < hit["end_s"] for hit in hits)
