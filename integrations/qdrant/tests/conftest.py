from __future__ import annotations

import hashlib
import importlib.metadata
import io
import pickle
import shutil
import threading
import time
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tte_retriever.cli import loading
from tte_retriever.cli.main import main
from tte_retriever.errors import InputError
from tte_retriever.media import VideoSampling
from tte_retriever_qdrant import ingest, open_store
from tte_retriever_qdrant.ingestion import decoder_pool, worker

SIDE, WORDS = 4, 64


class StandInEncoder:
    """A deterministic model: what an item's colours and words are, without any learning; counts what it encodes."""

    video_sampling = VideoSampling(fps=2.0, min_frames=2, max_frames=8)

    def __init__(self, fingerprint: str = "standin-1", delay_s: float = 0.0) -> None:
        self.fingerprint = fingerprint
        self.delay_s = delay_s
        self.encoded: list[dict] = []

    def get_embedding_dimension(self) -> int:
        return SIDE * SIDE * 3 + WORDS

    def encode_document(self, inputs, *, batch_size, show_progress_bar):
        time.sleep(self.delay_s)
        for item in inputs:
            if "image" in item and item["image"].size == (13, 13):
                raise InputError("this model refuses pictures of 13 x 13 pixels")
        self.encoded.extend(inputs)
        return np.stack([self._vector(item) for item in inputs])

    def encode_query(self, inputs, *, batch_size, show_progress_bar):
        return np.stack([self._vector(item) for item in inputs])

    def _vector(self, item):
        pictures = [item["image"]] if "image" in item else []
        pictures += item["video"].frames if "video" in item else []
        for picture in pictures:
            assert picture.mode == "RGB"
        colours = np.zeros(SIDE * SIDE * 3)
        if pictures:
            small = [np.asarray(p.resize((SIDE, SIDE), Image.Resampling.BOX), float) for p in pictures]
            colours = np.mean(small, axis=0).ravel() / 255 - 0.45
        words = np.zeros(WORDS)
        for word in item.get("text", "").lower().split():
            words[int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big") % WORDS] += 1
        vector = np.concatenate([colours, words]).astype(np.float32)
        if pictures and pictures[0].size == (17, 17):
            vector[0] = np.nan
        return vector


class DecoderHere:
    """Decodes as a decoder process does, in this process: starting one takes half a second, and other tests do so."""

    _one_at_a_time = threading.Lock()

    def __init__(self, settings):
        self._settings = settings

    def ask(self, request, _seconds):
        with self._one_at_a_time:
            return pickle.loads(worker._answer(request, self._settings))

    def kill(self):
        pass

    close = kill


@pytest.fixture
def decode_here(monkeypatch):
    """Decode without a process, in tests that are not about decoding."""
    monkeypatch.setattr(decoder_pool, "_Worker", DecoderHere)


@pytest.fixture
def encoder():
    return StandInEncoder()


@pytest.fixture(scope="session")
def standin():
    return StandInEncoder


@pytest.fixture
def run(monkeypatch, capsys, standin):
    """Run ``tte-retriever`` with the stand-in for its model; returns exit code, stdout, stderr."""
    loaded = []

    def load(options):
        loaded.append(options.model)
        return standin(fingerprint=f"fingerprint of {Path(options.model).name}")

    monkeypatch.setattr(loading, "load_encoder", load)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        return caught.value.code or 0, *capsys.readouterr()

    call.loaded = loaded
    return call


@pytest.fixture
def uri(tmp_path):
    return f"edge://{tmp_path / 'store'}"


@pytest.fixture
def store(tmp_path):
    """A store in a directory; that other engines behave alike is the subject of stores/test_contract.py."""
    with open_store(f"edge://{tmp_path / 'a store'}") as opened:
        yield opened


@pytest.fixture(params=["edge", "memory"])
def any_store(request, tmp_path):
    uri = f"edge://{tmp_path / 'a store'}" if request.param == "edge" else "memory://"
    with open_store(uri) as opened:
        yield opened


@pytest.fixture(scope="session")
def clip_bytes():
    """An H.264 clip of 14 s: red, green, blue and a last bit of white, five seconds each but the last."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(70):
            colour = [(220, 20, 20), (20, 220, 20), (20, 20, 220)][i // 25]
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), colour, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


@pytest.fixture
def small_folder(tmp_path, clip_bytes, pdf_bytes):
    """One file of every kind, and a subfolder."""
    return _fill(tmp_path / "media", clip_bytes, pdf_bytes)


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory, clip_bytes, pdf_bytes):
    """The files of ``small_folder``, for tests that change nothing in it."""
    return _fill(tmp_path_factory.mktemp("shared") / "media", clip_bytes, pdf_bytes)


@pytest.fixture(scope="module")
def indexed(tmp_path_factory, shared_folder, standin):
    """A store of ``shared_folder``, for tests that change nothing in it."""
    with open_store(f"edge://{tmp_path_factory.mktemp('indexed')}/store") as opened:
        ingest(shared_folder, opened, standin())
        yield opened


def _fill(folder: Path, clip_bytes: bytes, pdf_bytes: bytes) -> Path:
    (folder / "sub").mkdir(parents=True)
    Image.new("RGB", (40, 30), (250, 240, 10)).save(folder / "yellow.png")
    Image.new("RGB", (40, 30), (10, 240, 250)).save(folder / "sub" / "cyan.jpg")
    (folder / "clip.mp4").write_bytes(clip_bytes)
    (folder / "doc.pdf").write_bytes(pdf_bytes)
    (folder / "notes.md").write_text("# Zebra\nstripes and hooves", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def indexed_folder(tmp_path_factory, clip_bytes, pdf_bytes):
    """The small folder and a video of 14 s of one colour, and the URI of a store of them: for tests that only read."""
    top = tmp_path_factory.mktemp("indexed-folder")
    folder, uri = _fill(top / "media", clip_bytes, pdf_bytes), f"edge://{top / 'store'}"
    frames = [Image.new("RGB", (40, 30), (250, 10, 200 + i)) for i in range(14)]
    frames[0].save(folder / "pink.gif", save_all=True, append_images=frames[1:], duration=1000)
    name = "tte-flash-tiny"
    with pytest.MonkeyPatch.context() as patch, open_store(uri) as store:
        patch.setattr(decoder_pool, "_Worker", DecoderHere)
        ingest(folder, store, StandInEncoder(f"fingerprint of {name}"), model_name=name)
    return folder, uri


@pytest.fixture(scope="session")
def real_files(tmp_path_factory, clip_bytes, pdf_bytes):
    """A folder as people have them, with what goes wrong in it.

    Returns the folder, and the names of files that cannot be indexed with the reason expected of each.
    """
    folder = tmp_path_factory.mktemp("real")
    for path in _installed_pictures():
        target = folder / "installed" / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    _odd_but_good(folder, clip_bytes, pdf_bytes)
    return folder, _broken(folder, clip_bytes, pdf_bytes)


def _installed_pictures() -> list[Path]:
    suffixes = {".png", ".jpg", ".gif", ".tif", ".pdf"}
    return sorted(
        {
            Path(str(file.locate()))
            for distribution in importlib.metadata.distributions()
            for file in distribution.files or []
            if file.suffix.lower() in suffixes and Path(str(file.locate())).is_file()
        }
    )


def _odd_but_good(folder: Path, clip_bytes: bytes, pdf_bytes: bytes) -> None:
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64)
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(folder / "turned.jpg", exif=exif)
    photo.convert("CMYK").save(folder / "cmyk.jpg")
    photo.convert("P").save(folder / "palette.png", transparency=0)
    photo.save(folder / "photo.webp")
    Image.new("RGBA", (50, 50), (255, 0, 0, 0)).save(folder / "alpha.png")
    Image.fromarray(ramp.astype(np.uint16)).save(folder / "sixteen.png")
    Image.fromarray((ramp / 65535).astype(np.float32)).save(folder / "float.tiff")
    Image.new("1", (50, 50), 1).save(folder / "one-bit.bmp")
    frames = [Image.new("RGB", (32, 32), (25 * i, 10, 90)) for i in range(9)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:], duration=500)
    frames[0].save(folder / "moving.png", save_all=True, append_images=frames[1:], duration=1000)
    (folder / "no suffix at all").write_bytes((folder / "photo.webp").read_bytes() + b"\0")
    (folder / "clip.mp4").write_bytes(clip_bytes)
    (folder / "paper.PDF").write_bytes(pdf_bytes)
    (folder / "poem.txt").write_text("\ufeffthe moon over the lake", encoding="utf-8")
    (folder / "ümläut — 図.txt").write_text("katze hund maus", encoding="utf-8")


def _broken(folder: Path, clip_bytes: bytes, pdf_bytes: bytes) -> dict[str, str]:
    photo = (folder / "turned.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(photo[: len(photo) // 2])
    (folder / "nothing.png").write_bytes(b"")
    (folder / "page.jpg").write_text("<html>not found</html>", encoding="utf-8")
    (folder / "cut.mp4").write_bytes(clip_bytes[: len(clip_bytes) // 2])
    (folder / "cut.pdf").write_bytes(b"%PDF-1.4\n" + pdf_bytes[50:90])
    (folder / "white.txt").write_text(" \n\t\n", encoding="utf-8")
    (folder / "drawing.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>", encoding="utf-8")
    (folder / "latin.txt").write_bytes(b"caf\xe9 " * 10)
    (folder / "table.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    (folder / "data.bin").write_bytes(bytes(range(256)))
    (folder / ".hidden.png").write_bytes((folder / "alpha.png").read_bytes())
    return {
        "cut.jpg": "corrupt",
        "nothing.png": "empty",
        "page.jpg": "unsupported",
        "cut.mp4": "corrupt",
        "cut.pdf": "corrupt",
        "white.txt": "empty",
        "drawing.svg": "unsupported",
        "latin.txt": "unsupported",
        "installed/data/multipage_rgb.tif": "corrupt",  # a layout that Pillow does not know
    }


def _contents(store):
    """Every point of a store by id: its payload and its similarity to two fixed directions."""
    dim = store.spec.dim
    found = {}
    for direction in (np.linspace(1, 2, dim), np.linspace(-1, 3, dim)):
        for hit in store.search(direction, limit=10_000):
            found.setdefault(hit.id, [hit.payload]).append(round(hit.score, 5))
    return found


@pytest.fixture
def contents():
    return _contents


@pytest.fixture
def uris():
    """A function that counts the points of a store by uri."""
    return lambda store: Counter(payload["uri"] for payload, *_ in _contents(store).values())
