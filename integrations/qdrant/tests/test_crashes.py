"""What a run that crashed has left behind, and the next one."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest

from tte_retriever_qdrant import ingest, open_store
from tte_retriever_qdrant.encoder import spec_of
from tte_retriever_qdrant.stores import updating
from tte_retriever_qdrant.stores.edge import EdgeStore

CONFTEST = Path(__file__).with_name("conftest.py")

INGEST = f"""
    import runpy, sys
    from pathlib import Path
    from tte_retriever_qdrant import ingest, open_store
    encoder = runpy.run_path({str(CONFTEST)!r})["StandInEncoder"](delay_s=0.02)
    with open_store(sys.argv[2]) as store:
        ingest(Path(sys.argv[1]), store, encoder, batch_size=4, on_event=lambda event: print(event.kind, flush=True))
"""


@pytest.mark.slow
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
        ledger = sqlite3.connect(store.state_dir / "ledger.sqlite")
        states = Counter(state for (state,) in ledger.execute("SELECT state FROM files"))
        ledger.close()
    assert states["NEW"] == 0
    assert states["WRITTEN"] == len({payload["uri"] for payload, *_ in expected.values()})


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("meanwhile", ["nothing", "renamed", "a twin is left"])
def test_a_document_is_taken_up_where_a_crash_left_it(small_folder, any_store, encoder, standin, uris, meanwhile):
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
        ingest(folder, any_store, Dying(), batch_size=1)
    before = any_store.count()
    assert before >= 1
    if meanwhile == "renamed":
        document.rename(twin)
    elif meanwhile == "a twin is left":
        document.unlink()
    report = ingest(folder, any_store, encoder)
    assert len(encoder.encoded) == (3 - before if meanwhile == "nothing" else 3)
    assert (report.indexed, report.points, any_store.count()) == (1, 3, 3)
    assert list(uris(any_store)) == ["doc.pdf" if meanwhile == "nothing" else "twin.pdf"]


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


def test_an_index_that_a_killed_run_did_not_build_is_built_by_the_next_run(
    small_folder, store, encoder, index_is_stopped
):
    index_is_stopped(type(store), dies=True)
    with pytest.raises(KeyboardInterrupt):
        ingest(small_folder, store, encoder)
    built, encoder.encoded = index_is_stopped(type(store), dies=False), []
    assert [ingest(small_folder, store, encoder).unchanged for _ in range(2)] == [5, 5]
    assert (built, encoder.encoded) == ([9], [])


@pytest.mark.slow
@pytest.mark.parametrize("before", ["nothing", "one file"])
def test_an_index_of_a_copy_is_built_by_the_next_run(small_folder, uri, encoder, index_is_stopped, before):
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
