from __future__ import annotations

import io
import shutil

import av
import numpy as np
import pytest
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.embeddings.tte import TTEEmbedding, TTERetriever
from PIL import Image, ImageDraw

from tte_retriever import TTEEncoder
from tte_retriever_qdrant import ingest, open_store


@pytest.fixture(scope="session")
def embedding():
    return TTEEmbedding(model_name="tte-flash-tiny", embed_batch_size=2)


def picture(color, size=(96, 96)):
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).ellipse((20, 20, 70, 70), fill=color)
    return image


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Paths of three pictures."""
    folder = tmp_path_factory.mktemp("images")
    paths = []
    for color in ("red", "blue", "green"):
        paths.append(str(folder / f"{color}.png"))
        picture(color).save(paths[-1])
    return paths


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """A video of 9 s: a red circle, from 6 s on a blue one."""
    path = tmp_path_factory.mktemp("videos") / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 96, 96, "yuv420p"
        for i in range(45):
            frame = np.asarray(picture("red" if i < 30 else "blue"))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="session")
def animation(tmp_path_factory):
    """An animated image of 4 s: red, then blue."""
    path = tmp_path_factory.mktemp("animations") / "moving.gif"
    frames = [picture(color) for color in ("red", "red", "blue", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=1000)
    return path


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory, clip):
    """Two images, a PDF of two pages, a video of two windows, a text; not to be changed."""
    home = tmp_path_factory.mktemp("shared") / "media"
    (home / "sub").mkdir(parents=True)
    picture("red").save(home / "red.png")
    picture("blue").save(home / "sub" / "blue.jpg")
    pages = [picture(color, (200, 280)) for color in ("green", "yellow")]
    pages[0].save(home / "doc.pdf", save_all=True, append_images=pages[1:])
    (home / "clip.mp4").write_bytes(clip.read_bytes())
    (home / "notes.md").write_text("a purple star above a black square", encoding="utf-8")
    return home


@pytest.fixture
def folder(tmp_path, shared_folder):
    """A copy of that folder."""
    return shutil.copytree(shared_folder, tmp_path / "media")


@pytest.fixture(scope="session")
def encoder():
    return TTEEncoder("tte-flash-tiny")


@pytest.fixture(scope="session")
def store(shared_folder, encoder, tmp_path_factory):
    """URI of a store in which the folder is."""
    uri = f"edge://{tmp_path_factory.mktemp('store')}"
    with open_store(uri) as opened:
        ingest(shared_folder, opened, encoder, model_name="tte-flash-tiny")
    return uri


@pytest.fixture
def opened(store):
    """That store, for several retrievers: one at a time may have it by URI."""
    with open_store(store) as opened:
        yield opened


@pytest.fixture
def make(opened, folder, embedding, tmp_path):
    """``make(…)`` is a retriever over that store and a copy of the folder."""

    def make(**options):
        given = {"embed_model": embedding, "similarity_top_k": 20, "views_dir": tmp_path / "views", **options}
        return TTERetriever(opened, folder, **given)

    return make


@pytest.fixture
def found():
    """A function that names what was hit: uri, page and start of each."""
    return lambda hits: [
        (hit.node.metadata["uri"], hit.node.metadata.get("page"), hit.node.metadata.get("start_s")) for hit in hits
    ]


@pytest.fixture
def truncated_png():
    buffer = io.BytesIO()
    picture("red").save(buffer, "PNG")
    return buffer.getvalue()[:100]


class _Recorder(BaseEventHandler):
    events: list

    def handle(self, event, **kwargs):
        self.events.append(event)


@pytest.fixture
def events():
    """The instrumentation events of a test; ``events("Name")`` are those of that class."""
    root, recorder = get_dispatcher(), _Recorder(events=[])
    root.add_event_handler(recorder)
    yield lambda name: [event for event in recorder.events if event.class_name() == name]
    root.event_handlers.remove(recorder)
