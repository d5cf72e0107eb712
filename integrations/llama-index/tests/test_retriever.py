from __future__ import annotations

import asyncio
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import pytest
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.llms import LLMMetadata, MockLLM
from llama_index.core.llms.mock import MockLLMWithChatMemoryOfLastCall
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.schema import ImageNode, QueryBundle, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.tools import RetrieverTool
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters
from llama_index.embeddings.tte import MediaQuery, TTEEmbedding, TTERetriever, VideoClip
from PIL import Image

from tte_retriever import TTEEncoder
from tte_retriever.errors import InputError, MediaError
from tte_retriever.media import load_image, load_video
from tte_retriever_qdrant import ingest, open_store, search
from tte_retriever_qdrant.errors import ModelMismatch, StoreNotFound


@pytest.fixture(scope="module")
def encoder():
    return TTEEncoder("tte-flash-tiny")


@pytest.fixture(scope="module")
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


def found(hits):
    return [
        (hit.node.metadata["uri"], hit.node.metadata.get("page"), hit.node.metadata.get("start_s")) for hit in hits
    ]


def test_it_is_a_retriever_of_llama_index():
    assert issubclass(TTERetriever, BaseRetriever)


QUERIES = {
    "text": (lambda f: "a red circle", lambda f: {"text": "a red circle"}),
    "text of a bundle": (lambda f: QueryBundle("a red circle"), lambda f: {"text": "a red circle"}),
    "image of a bundle": (
        lambda f: QueryBundle("", image_path=str(f / "red.png")),
        lambda f: {"image": load_image(f / "red.png")},
    ),
    "image": (lambda f: MediaQuery(image=f / "red.png"), lambda f: {"image": load_image(f / "red.png")}),
    "open image": (
        lambda f: MediaQuery(image=Image.open(f / "red.png")),
        lambda f: {"image": load_image(f / "red.png")},
    ),
    "image by name": (lambda f: MediaQuery(image=str(f / "red.png")), lambda f: {"image": load_image(f / "red.png")}),
    "video": (lambda f: MediaQuery(video=f / "clip.mp4"), lambda f: {"video": f / "clip.mp4"}),
    "video by name": (lambda f: MediaQuery(video=str(f / "clip.mp4")), lambda f: {"video": f / "clip.mp4"}),
    "mixture": (
        lambda f: MediaQuery("the other one", image=f / "red.png", video=f / "clip.mp4"),
        lambda f: {"image": load_image(f / "red.png"), "video": f / "clip.mp4", "text": "the other one"},
    ),
}


@pytest.mark.parametrize("kind", QUERIES)
def test_it_finds_what_the_store_finds(make, folder, encoder, kind):
    query, same = (build(folder) for build in QUERIES[kind])
    retriever = make()
    hits = retriever.retrieve(query)
    expected = search(retriever._store, encoder, **same, top_k=20)
    assert found(hits) == [(hit.uri, hit.page, hit.start_s) for hit in expected]
    assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in expected], abs=1e-4)
    assert len(hits) == 7


def test_a_vector_is_a_query(make, embedding, folder):
    vector = embedding.get_image_embedding(str(folder / "sub" / "blue.jpg"))
    hits = make(similarity_top_k=1).retrieve(QueryBundle("", embedding=vector))
    assert found(hits) == [("sub/blue.jpg", None, None)]
    assert hits[0].score == pytest.approx(1, abs=1e-4)


def test_a_stretch_of_a_video_is_a_query(make, folder):
    hits = make().retrieve(MediaQuery(video=VideoClip(folder / "clip.mp4", 6, 9)))
    assert found(hits)[0] == ("clip.mp4", None, 6.0)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("image", "clip.mp4"), ("video", "red.png"), ("image", "nowhere.png"), ("video", "nowhere.mp4")],
)
def test_media_that_are_not_what_they_are_called_are_refused(make, folder, kind, name):
    with pytest.raises(MediaError, match=name):
        make().retrieve(MediaQuery("a red circle", **{kind: str(folder / name)}))


def test_an_animation_is_what_it_is_called(make, encoder, animation):
    retriever = make()
    for query, same in (
        (MediaQuery(video=animation), {"video": animation}),
        (MediaQuery(image=animation), {"image": load_image(animation)}),
        (QueryBundle("", image_path=str(animation)), {"image": load_image(animation)}),
    ):
        expected = search(retriever._store, encoder, **same, top_k=20)
        assert [hit.score for hit in retriever.retrieve(query)] == pytest.approx(
            [hit.score for hit in expected], abs=1e-4
        )


def test_several_strings_are_averaged(make, embedding):
    texts = ["a red circle", "a yellow circle"]
    retriever = make()
    hits = retriever.retrieve(QueryBundle("", custom_embedding_strs=texts))
    vector = embedding.get_agg_embedding_from_queries(texts)
    again = retriever.retrieve(QueryBundle("", embedding=vector))
    assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in again], abs=1e-4)
    assert [hit.score for hit in hits] != pytest.approx([hit.score for hit in retriever.retrieve(texts[0])], abs=1e-3)


def test_hits_can_be_shown(make, folder):
    retrieved = make().retrieve("a circle")
    hits = {key: hit.node for key, hit in zip(found(retrieved), retrieved, strict=True)}
    assert type(hits["notes.md", None, None]) is TextNode
    assert hits["notes.md", None, None].text == "a purple star above a black square"
    assert hits["red.png", None, None].image_path == str(folder / "red.png")
    for key, node in hits.items():
        assert node.ref_doc_id == node.metadata["asset_id"]
        if key[0] != "notes.md":
            assert type(node) is ImageNode
            assert node.image is None
            assert node.metadata["file_path"] == str(folder / key[0])
            load_image(Path(node.image_path))
    frame = load_image(Path(hits["clip.mp4", None, 6.0].image_path))
    assert frame.tobytes() in [f.tobytes() for f in load_video(folder / "clip.mp4", start_s=6).frames]


def test_a_query_without_anything_is_an_error(make):
    retriever = make()
    for query in ("", " ", QueryBundle(""), MediaQuery()):
        with pytest.raises(InputError, match="neither text nor media"):
            retriever.retrieve(query)


def test_group_by_asset_gives_the_best_of_each_file(make):
    everything = make().retrieve("a circle")
    best = {hit.node.metadata["uri"]: hit.score for hit in reversed(everything)}
    assert len(everything) > len(best) == 5
    for top_k in (1, 3, 5, 20):
        hits = make(similarity_top_k=top_k, group_by_asset=True).retrieve("a circle")
        assert {hit.node.metadata["uri"]: hit.score for hit in hits} == dict(
            sorted(best.items(), key=lambda item: -item[1])[:top_k]
        )


def condition(key, operator, value):
    return MetadataFilter(key=key, operator=operator, value=value)


FILTERS = {
    "==": ([condition("uri", "==", "red.png")], "and", {"red.png"}),
    "== of a number": ([condition("page", "==", 2)], "and", {"doc.pdf#2"}),
    "!=": (
        [condition("modality", "!=", "video")],
        "and",
        {"red.png", "sub/blue.jpg", "notes.md", "doc.pdf#1", "doc.pdf#2"},
    ),
    "in": ([condition("modality", "in", ["page", "text"])], "and", {"doc.pdf#1", "doc.pdf#2", "notes.md"}),
    "nin": ([condition("modality", "nin", ["page", "video", "image"])], "and", {"notes.md"}),
    ">": ([condition("page", ">", 1)], "and", {"doc.pdf#2"}),
    "<": ([condition("page", "<", 2)], "and", {"doc.pdf#1"}),
    ">=": ([condition("start_s", ">=", 6.0)], "and", {"clip.mp4#6.0"}),
    "<=": ([condition("end_s", "<=", 6)], "and", {"clip.mp4#0.0"}),
    "the same key twice": ([condition("page", ">", 0), condition("page", "<", 2)], "and", {"doc.pdf#1"}),
    "or": ([condition("page", "==", 1), condition("uri", "==", "red.png")], "or", {"doc.pdf#1", "red.png"}),
    "not": (
        [condition("modality", "in", ["page", "video"]), condition("uri", "==", "red.png")],
        "not",
        {"sub/blue.jpg", "notes.md"},
    ),
    "nested": (
        [condition("modality", "==", "page"), MetadataFilters(filters=[condition("page", "==", 1)], condition="not")],
        "and",
        {"doc.pdf#2"},
    ),
}


@pytest.mark.parametrize("name", FILTERS)
def test_filters_are_those_of_the_store(make, name):
    filters, how, expected = FILTERS[name]
    hits = make(filters=MetadataFilters(filters=filters, condition=how)).retrieve("x")
    names = {uri if page is None and start is None else f"{uri}#{page or start}" for uri, page, start in found(hits)}
    assert names == expected


@pytest.mark.parametrize(
    ("filter", "complaint"),
    [
        (condition("colour", "==", "red"), "filter key 'colour' is unknown"),
        (condition("uri", "text_match", "red"), "'text_match' is not supported; use one of ==, in"),
        (condition("page", "==", "2"), "page is a number"),
        (condition("uri", "in", []), "uri is text"),
        (condition("page", "==", None), "page is a number"),
        (condition("page", ">", [1]), "cannot be applied"),
    ],
)
def test_filters_that_a_store_cannot_apply_are_refused(make, filter, complaint):
    with pytest.raises(InputError, match=complaint):
        make(filters=MetadataFilters(filters=[filter])).retrieve("x")


def test_the_store_says_which_model_to_load(store, folder):
    with TTERetriever(store, folder) as retriever:
        assert found(retriever.retrieve("a purple star above a black square"))[0] == ("notes.md", None, None)


def test_another_model_and_no_store_are_refused(make, folder, tmp_path):
    with pytest.raises(ModelMismatch):
        make(embed_model=TTEEmbedding(model_name="tte-flash-tiny", dim=8)).retrieve("x")
    with pytest.raises(StoreNotFound):
        TTERetriever(f"edge://{tmp_path / 'nowhere'}", folder)
    with pytest.raises(StoreNotFound):
        TTERetriever("memory://", folder).retrieve("x")
    with pytest.raises(InputError):
        TTERetriever("memory://", folder, similarity_top_k=0)


def test_files_that_are_gone_or_outside_are_reported_and_left_out(make, folder, events, tmp_path):
    retriever = make()
    (folder / "red.png").unlink()
    (folder / "sub" / "blue.jpg").rename(tmp_path / "outside.jpg")
    (folder / "sub" / "blue.jpg").symlink_to(tmp_path / "outside.jpg")
    (folder / "clip.mp4").unlink()
    (folder / "clip.mp4").symlink_to("clip.mp4")
    hits = retriever.retrieve("a circle")
    assert {uri for uri, *_ in found(hits)} == {"doc.pdf", "notes.md"}
    assert {(event.source, event.reason) for event in events("BadMediaEvent")} == {
        ("red.png", "missing"),
        ("sub/blue.jpg", "not-allowed"),
        ("clip.mp4", "unreadable"),
    }


@pytest.mark.parametrize("shown_before", [False, True])
def test_files_that_are_not_what_was_indexed_are_reported_and_left_out(make, folder, events, clip, shown_before):
    retriever = make()
    if shown_before:
        assert len(retriever.retrieve("a circle")) == 7
    Image.new("RGB", (80, 80), "blue").save(folder / "red.png")
    Image.new("RGB", (80, 80), "red").save(folder / "doc.pdf")
    (folder / "clip.mp4").write_bytes(clip.read_bytes() + b"\0")
    hits = retriever.retrieve("a circle")
    assert {uri for uri, *_ in found(hits)} == {"sub/blue.jpg", "notes.md"}
    assert {(event.source, event.reason) for event in events("BadMediaEvent")} == {
        ("red.png", "missing"),
        ("doc.pdf", "missing"),
        ("clip.mp4", "missing"),
    }
    assert "is not the file that was indexed" in events("BadMediaEvent")[0].message


def test_l12_async_finds_the_same_without_blocking_the_loop(make, caplog):
    class Slow(TTEEmbedding):
        def _encode(self, method, items):
            time.sleep(0.4)
            return super()._encode(method, items)

    retriever = make(embed_model=Slow(model_name="tte-flash-tiny"))
    expected = found(retriever.retrieve("a circle"))

    async def watched():
        asyncio.get_running_loop().slow_callback_duration = 0.2
        return await retriever.aretrieve("a circle")

    with caplog.at_level(logging.WARNING, "asyncio"):
        assert found(asyncio.run(watched(), debug=True)) == expected
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


def test_queries_at_once_may_draw_the_same_pictures(make, embedding, tmp_path, monkeypatch):
    drawn, save = threading.Barrier(2, timeout=30), Image.Image.save

    def save_when_both_have_drawn(image, *args, **kwargs):
        save(image, *args, **kwargs)
        drawn.wait()

    monkeypatch.setattr(Image.Image, "save", save_when_both_have_drawn)
    query = QueryBundle("", embedding=embedding.get_query_embedding("a circle"))
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(make().retrieve, [query, query])
    assert found(first) == found(second)
    assert len(first) == 7
    pictures = {hit.node.image_path for hit in first if hit.node.metadata["modality"] in ("page", "video")}
    assert {str(path) for path in (tmp_path / "views").iterdir()} == pictures


# Where LlamaIndex puts a retriever ---------------------------------------------------------------------------------


def test_a_query_engine_shows_the_pictures_to_the_llm(make, folder):
    class Model(MockLLMWithChatMemoryOfLastCall):
        metadata: ClassVar[LLMMetadata] = LLMMetadata(context_window=100_000, is_chat_model=True)

    llm = Model()
    retriever = make(similarity_top_k=7)
    response = RetrieverQueryEngine.from_args(retriever, llm=llm, multimodal=True).query("a circle")
    assert len(response.source_nodes) == 7
    blocks = [block for message in llm.last_chat_messages for block in message.blocks]
    shown = {block.resolve_image().read() for block in blocks if block.block_type == "image"}
    pictures = {hit.node.image_path for hit in response.source_nodes if isinstance(hit.node, ImageNode)}
    assert len(pictures) == 6
    assert shown == {Path(picture).read_bytes() for picture in pictures}
    assert any("a purple star above a black square" in block.text for block in blocks if block.block_type == "text")


@pytest.mark.parametrize("use_async", [False, True])
def test_a_fusion_retriever_takes_it(make, use_async):
    retriever = make(similarity_top_k=7)
    fusion = QueryFusionRetriever(
        [retriever, retriever], llm=MockLLM(), num_queries=1, similarity_top_k=7, use_async=use_async
    )
    assert sorted(map(str, found(fusion.retrieve("a circle")))) == sorted(
        map(str, found(retriever.retrieve("a circle")))
    )


def test_an_agent_can_call_it_as_a_tool(make):
    tool = RetrieverTool.from_defaults(make(similarity_top_k=1), name="folder", description="finds files")
    output = tool.call("a purple star above a black square")
    assert "a purple star above a black square" in output.content
    assert "uri: notes.md" in output.content
    assert "asset_id" not in output.content
    assert asyncio.run(tool.acall("a purple star above a black square")).content == output.content


def test_a_hit_survives_a_docstore(make, tmp_path):
    docstore = SimpleDocumentStore()
    hits = [hit.node for hit in make().retrieve("a circle")]
    docstore.add_documents(hits)
    docstore.persist(str(tmp_path / "docstore.json"))
    loaded = SimpleDocumentStore.from_persist_path(str(tmp_path / "docstore.json"))
    for node in hits:
        again = loaded.get_document(node.node_id)
        assert (again.metadata, again.ref_doc_id, again.hash) == (node.metadata, node.ref_doc_id, node.hash)
        if isinstance(node, ImageNode):
            load_image(Path(again.image_path))
    assert (tmp_path / "docstore.json").stat().st_size < 20_000
