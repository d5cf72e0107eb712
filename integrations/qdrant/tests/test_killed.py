"""An ingestion that is killed again and again ends with what an undisturbed one ends with."""

from __future__ import annotations

import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tte_retriever_qdrant import ingest, open_store

CONFTEST = Path(__file__).with_name("conftest.py")
KILLS = 20

RUN = """
    import runpy, sys
    from pathlib import Path
    from tte_retriever_qdrant import ingest, open_store
    encoder = runpy.run_path(sys.argv[3])["StandInEncoder"](delay_s=0.15)
    with open_store(sys.argv[2]) as store:
        ingest(Path(sys.argv[1]), store, encoder, batch_size=4, on_event=lambda event: print(event.kind, flush=True))
"""


@pytest.fixture(scope="module")
def hundreds(tmp_path_factory, real_files, clip_bytes, pdf_bytes):
    """Over 300 files of all kinds, good, bad and twice there."""
    folder = tmp_path_factory.mktemp("hundreds") / "media"
    shutil.copytree(real_files[0], folder)
    noise = np.random.default_rng(0)
    for i in range(180):
        pixels = noise.integers(0, 255, (30 + i % 7, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"picture-{i:03d}.{('jpg', 'png', 'webp', 'bmp', 'tiff')[i % 5]}")
    for i in range(30):
        (folder / f"note-{i:02d}.md").write_text(" ".join(f"word{j}" for j in range(i, i + 40 * (1 + i % 12))))
        (folder / f"paper-{i:02d}.pdf").write_bytes(pdf_bytes + b"\n%%%d" % i)
    for i in range(8):
        (folder / f"clip-{i}.mp4").write_bytes(clip_bytes + bytes([0, 0, 0, 9]) + b"free" + bytes([i]))
        shutil.copy(folder / f"picture-{i:03d}.{('jpg', 'png', 'webp', 'bmp', 'tiff')[i % 5]}", folder / f"twin-{i}")
    assert sum(path.is_file() for path in folder.rglob("*")) >= 300
    return folder


def states(store):
    ledger = sqlite3.connect(store.state_dir / "ledger.sqlite")
    rows = ledger.execute("SELECT uri, state FROM files").fetchall()
    ledger.close()
    return dict(rows)


@pytest.mark.slow
def test_killed_at_twenty_random_moments(hundreds, tmp_path, encoder, contents, uris):
    with open_store(f"edge://{tmp_path}/reference") as store:
        ingest(hundreds, store, encoder)
        expected, expected_states = contents(store), states(store)

    uri, moments, progress = f"edge://{tmp_path}/killed", random.Random(7), []
    for attempt in range(KILLS):
        arguments = [str(hundreds), uri, str(CONFTEST)]
        with subprocess.Popen([sys.executable, "-c", textwrap.dedent(RUN), *arguments], stdout=subprocess.PIPE) as run:
            if attempt % 4:  # the rest are killed while they start or plan
                assert run.stdout.readline() == b"planned\n"
                for _ in range(moments.randint(0, 25)):  # files, of over 300
                    assert run.stdout.readline()
            time.sleep(moments.uniform(0, 0.5))
            run.kill()
        assert run.returncode == -signal.SIGKILL  # each was at work
        if attempt % 4:
            with open_store(uri) as store:
                found = contents(store)
                progress.append(len(found))
                assert all(expected[point] == value for point, value in found.items())
    assert progress == sorted(progress)  # what was written once is not written again
    assert 0 < progress[len(progress) // 2] < len(expected)

    with open_store(uri) as store:
        report = ingest(hundreds, store, encoder)
        assert report.unchanged > 0
        assert contents(store) == expected
        assert states(store) == expected_states
        written = {name for name, state in expected_states.items() if state == "WRITTEN"}
        assert set(uris(store)) == written
        assert Counter(expected_states.values())["NEW"] == 0
        encoder.encoded = []
        again = ingest(hundreds, store, encoder)
    assert (encoder.encoded, again.indexed) == ([], 0)
