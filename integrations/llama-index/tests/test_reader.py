from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from llama_index.core.readers.base import BaseReader
from llama_index.core.schema import ImageNode, MetadataMode
from llama_index.embeddings.tte import TTEMediaReader
from PIL import Image

from tte_retriever.errors import InputError
from tte_retriever.sources.documents import load_page


@pytest.fixture
def reader(tmp_path):
    return TTEMediaReader(views_dir=str(tmp_path / "views"))


def test_it_is_a_reader_of_llama_index():
    assert issubclass(TTEMediaReader, BaseReader)
    assert TTEMediaReader.class_name() == "TTEMediaReader"
    reader = TTEMediaReader(window_s=3.0, views_dir="somewhere")
    assert TTEMediaReader.from_dict(reader.to_dict()) == reader


def test_files_become_nodes_of_their_kind(reader, folder):
    nodes = reader.load_data(folder)
    found = {
        tuple(node.metadata.get(key) for key in ("uri", "modality", "page", "start_s", "end_s")): node
        for node in nodes
    }
    assert set(found) == {
        ("clip.mp4", "video", None, 0.0, 6.0),
        ("clip.mp4", "video", None, 6.0, 9.0),
        ("doc.pdf", "page", 1, None, None),
        ("doc.pdf", "page", 2, None, None),
        ("notes.md", "text", None, None, None),
        ("red.png", "image", None, None, None),
        ("sub/blue.jpg", "image", None, None, None),
    }
    assert found["red.png", "image", None, None, None].image_path == str(folder / "red.png")
    assert found["notes.md", "text", None, None, None].text == "a purple star above a black square"
    assert found["clip.mp4", "video", None, 0.0, 6.0].video_resource.path == folder / "clip.mp4"
    page = found["doc.pdf", "page", 2, None, None]
    assert isinstance(page, ImageNode)
    assert Image.open(page.image_path).tobytes() == load_page(folder / "doc.pdf", 2).tobytes()


def test_ids_are_those_of_the_content(reader, folder, tmp_path):
    before = {node.metadata["uri"]: node.node_id for node in reader.load_data(folder)}
    folder.rename(tmp_path / "elsewhere")
    after = {node.metadata["uri"]: node.node_id for node in reader.load_data(tmp_path / "elsewhere")}
    assert after == before
    Image.new("RGB", (50, 50), "red").save(tmp_path / "elsewhere" / "red.png")
    changed = {node.metadata["uri"]: node.node_id for node in reader.load_data(tmp_path / "elsewhere")}
    assert {uri for uri in before if changed[uri] != before[uri]} == {"red.png"}
    assert len({node.node_id for node in reader.load_data(tmp_path / "elsewhere")}) == 7


def test_the_same_content_is_read_once(reader, folder):
    (folder / "copy of red.png").write_bytes((folder / "red.png").read_bytes())
    assert [node.metadata["uri"] for node in reader.load_data(folder) if "red" in node.metadata["uri"]] == [
        "copy of red.png"
    ]


def test_bad_files_are_reported_and_the_others_read(reader, folder, truncated_png, events):
    (folder / "empty.png").touch()
    (folder / "cut.mp4").write_bytes((folder / "clip.mp4").read_bytes()[:500])
    (folder / "latin.txt").write_bytes("é".encode("latin-1"))
    (folder / "blank.txt").write_text(" \n")
    nodes = reader.load_data(folder)
    assert len(nodes) == 7
    assert {(event.source, event.reason) for event in events("BadMediaEvent")} == {
        ("empty.png", "empty"),
        ("cut.mp4", "corrupt"),
        ("latin.txt", "corrupt"),
        ("blank.txt", "empty"),
    }


def test_a_folder_that_cannot_be_listed_is_reported_and_the_others_read(reader, folder, events, monkeypatch):
    scandir = os.scandir

    def refusing(path):
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert len(reader.load_data(folder)) == 6
    (event,) = events("BadMediaEvent")
    assert (event.source, event.reason) == ("sub", "unreadable")
    assert "cannot be reached: Permission denied" in event.message


def test_a_folder_that_does_not_exist_is_an_error(reader, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        reader.load_data(tmp_path / "nowhere")


def test_no_text_is_lost(tmp_path):
    words = [f"word{i}" for i in range(1000)]
    (tmp_path / "long.txt").write_text(" ".join(words))
    nodes = TTEMediaReader().load_data(tmp_path)
    assert len(nodes) > 3
    assert len({node.node_id for node in nodes}) == len(nodes)
    assert set(words) == {word for node in nodes for word in node.text.split()}


def test_text_is_embedded_as_text_alone(reader, folder):
    (node,) = reader.load_data(folder / "notes.md")
    assert node.get_content(MetadataMode.EMBED) == "a purple star above a black square"
    assert "uri: notes.md" in node.get_content(MetadataMode.LLM)
    assert "asset_id" not in node.get_content(MetadataMode.LLM)


def test_pages_go_to_the_cache_of_llama_index(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("LLAMA_INDEX_CACHE_DIR", str(tmp_path / "cache"))
    for node in TTEMediaReader().load_data(folder / "doc.pdf"):
        assert Path(node.image_path).is_relative_to(tmp_path / "cache")


def test_a_generator_does_not_block_the_loop(reader, folder):
    nodes = asyncio.run(reader.alazy_load_data(folder))
    assert [node.node_id for node in nodes] == [node.node_id for node in reader.load_data(folder)]
