from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from PIL import Image

from tte_retriever.errors import MediaError, TTEError
from tte_retriever.media import DEFAULT_LIMITS, VideoSampling
from tte_retriever.sources.chunking import Chunk, ChunkingConfig
from tte_retriever.sources.identity import stamp
from tte_retriever_qdrant.ingestion import decoder_pool
from tte_retriever_qdrant.ingestion.decoder_pool import DEFAULT_MEMORY_LIMIT, LEAST_MEMORY, DecoderPool
from tte_retriever_qdrant.ingestion.worker import DecoderSettings, Request

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes as Linux shows them")

CONFTEST = Path(__file__).with_name("conftest.py")


def settings(memory_limit=DEFAULT_MEMORY_LIMIT):
    return DecoderSettings(VideoSampling(fps=1.0, max_frames=4), ChunkingConfig(), DEFAULT_LIMITS, memory_limit)


def children(pid):
    """Ids of the decoder processes of a process."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_text()
        except (OSError, ValueError):
            continue  # it ended meanwhile
        if parent == pid and "ingestion.worker" in command:
            found.append(int(folder.name))
    return found


def is_alive(pid):
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ask(pool, path, chunk=None):
    pool.submit(path.name, Request(path, stamp(path), chunk))


def endless_gif(frames=60_000, side=1_000):
    """A GIF of a few hundred kB that takes a decoder many minutes: each tiny frame makes it paint the whole canvas."""
    buffer = io.BytesIO()
    pictures = [Image.new("P", (side, side), colour) for colour in (1, 2)]
    pictures[0].save(buffer, "GIF", save_all=True, append_images=[pictures[1]], duration=10, disposal=2)
    dot = io.BytesIO()
    Image.new("P", (1, 1), 1).save(dot, "GIF")
    image = dot.getvalue()
    frame = b"\x21\xf9\x04\x08\x01\x00\x00\x00" + image[image.index(b"\x2c") : -1]
    return buffer.getvalue()[:-1] + frame * frames + b"\x3b"


@pytest.fixture
def one_worker():
    with DecoderPool(settings(), workers=1, time_limit_s=3) as pool:
        yield pool


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "good.png"
    Image.new("RGB", (40, 30), "red").save(path)
    return path


def test_answers_hold_chunks_and_items(small_folder):
    with DecoderPool(settings(), workers=2, time_limit_s=60) as pool:
        for path in (small_folder / "yellow.png", small_folder / "notes.md", small_folder / "doc.pdf"):
            ask(pool, path)
        ask(pool, small_folder / "clip.mp4", Chunk("video", start_s=6.0, end_s=12.0))
        answers = dict(pool.take() for _ in range(4))
        assert pool.pending == 0
    assert answers["yellow.png"].item["image"].getpixel((0, 0)) == (250, 240, 10)
    assert answers["notes.md"].item["text"].startswith("# Zebra")
    assert [chunk.page for chunk in answers["doc.pdf"].chunks] == [1, 2, 3]
    assert answers["doc.pdf"].item is None
    assert answers["clip.mp4"].item["video"].timestamps_s == pytest.approx((6.6, 8.2, 9.6, 11.2), abs=0.2)


@pytest.mark.parametrize("sign", [signal.SIGSEGV, signal.SIGKILL])  # a broken decoder, and the kernel out of memory
def test_a_crash_costs_one_item(one_worker, picture, sign):
    ask(one_worker, picture)
    assert one_worker.take()[1].item is not None
    (worker,) = children(os.getpid())
    os.kill(worker, signal.SIGSTOP)
    ask(one_worker, picture)
    ask(one_worker, picture)
    os.kill(worker, sign)
    os.kill(worker, signal.SIGCONT)
    lost, good = one_worker.take()[1], one_worker.take()[1]
    assert isinstance(lost, MediaError)
    assert lost.reason == "corrupt"
    assert "crashed" in str(lost)
    assert str(picture) in str(lost)
    assert good.item["image"].size == (40, 30)


@pytest.mark.slow
def test_a_hang_costs_one_item(one_worker, picture, tmp_path):
    endless = tmp_path / "endless.gif"
    endless.write_bytes(endless_gif())
    ask(one_worker, endless)
    ask(one_worker, picture)
    lost, good = one_worker.take()[1], one_worker.take()[1]
    assert isinstance(lost, MediaError)
    assert lost.reason == "too-large"
    assert "longer than 3 s" in str(lost)
    assert good.item is not None


def test_running_out_of_memory_costs_one_item(picture, tmp_path):
    wide = tmp_path / "wide.png"
    Image.new("1", (7_900, 7_900)).save(wide)  # allowed, and 187 MB as RGB
    with DecoderPool(settings(LEAST_MEMORY), workers=1, time_limit_s=60) as pool:
        ask(pool, wide)
        ask(pool, picture)
        lost, good = pool.take()[1], pool.take()[1]
    assert isinstance(lost, MediaError)
    assert lost.reason == "too-large"
    assert "512 MiB" in str(lost)
    assert good.item is not None


def test_closing_ends_processes_whatever_they_do(picture):
    pool = DecoderPool(settings(), workers=2, time_limit_s=600)
    for _ in range(2):
        ask(pool, picture)
    pool.take(), pool.take()
    workers = children(os.getpid())
    assert workers
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    ask(pool, picture)
    pool.close()
    assert not any(map(is_alive, workers))


@pytest.mark.slow
def test_processes_die_with_their_parent_even_when_they_hang(picture):
    script = """
        import runpy, sys, time
        test = runpy.run_path(sys.argv[1])
        pool = test["DecoderPool"](test["settings"](), workers=1, time_limit_s=600)
        test["ask"](pool, test["Path"](sys.argv[2]))
        print(pool.take()[0], flush=True)
        time.sleep(600)
    """
    arguments = [sys.executable, "-c", textwrap.dedent(script), __file__, str(picture)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as parent:
        assert parent.stdout.readline()  # it decodes
        (worker,) = children(parent.pid)
        os.kill(worker, signal.SIGSTOP)
        parent.kill()
    wait_until(lambda: not is_alive(worker))


def test_decoded_pixels_that_wait_are_bounded(monkeypatch, picture):
    monkeypatch.setattr(decoder_pool, "_MAX_WAITING_PIXELS", 3 * 40 * 30)
    with DecoderPool(settings(), workers=1, time_limit_s=60) as pool:
        for _ in range(9):
            ask(pool, picture)
        wait_until(lambda: len(pool._done) == 3)
        time.sleep(0.3)
        assert len(pool._done) == 3
        assert all(pool.take()[1].item is not None for _ in range(9))


def test_processes_that_cannot_start(monkeypatch, picture):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with DecoderPool(settings(), workers=1, time_limit_s=60) as pool:
        ask(pool, picture)
        with pytest.raises(TTEError, match="could not start"):
            pool.take()


@pytest.mark.slow
def test_a_script_without_a_main_guard_runs_once_and_its_decoders_load_no_model(tmp_path, small_folder):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
            import runpy, sys
            from pathlib import Path
            from tte_retriever_qdrant import ingest, open_store
            print("started")
            encoder = runpy.run_path({str(CONFTEST)!r})["StandInEncoder"]()
            with open_store("memory://") as store:
                print(ingest(Path(sys.argv[1]), store, encoder).points)
        """)
    )
    result = subprocess.run([sys.executable, script, small_folder], capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == ("started\n9\n", "")
    loads = "import sys, tte_retriever_qdrant.ingestion.worker; print({'torch', 'qdrant_client'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", loads], capture_output=True, text=True).stdout == "set()\n"
