from __future__ import annotations

import asyncio
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import ImageNode, QueryBundle, TextNode
from llama_index.embeddings.tte import MediaQuery, TTEEmbedding, TTERetriever, VideoClip
from PIL import Image

from tte_retriever import TTEEncoder
from tte_retriever.errors import InputError, MediaError
from tte_retriever.media import load_image, load_video
from tte_retriever_qdrant import ingest, open_store, search
from tte_retriever_qdrant.errors import ModelMismatch, StoreNotFound


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
def test_it_finds_what_the_store_finds(make, folder, encoder, kind, found):
    query, same = (build(folder) for build in QUERIES[kind])
    retriever = make()
    hits = retriever.retrieve(query)
    expected = search(retriever._store, encoder, **same, top_k=20)
    assert found(hits) == [(hit.uri, hit.page, hit.start_s) for hit in expected]
    assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in expected], abs=1e-4)
    assert len(hits) == 7


def test_a_vector_is_a_query(make, embedding, folder, found):
    vector = embedding.get_image_embedding(str(folder / "sub" / "blue.jpg"))
    hits = make(similarity_top_k=1).retrieve(QueryBundle("", embedding=vector))
    assert found(hits) == [("sub/blue.jpg", None, None)]
    assert hits[0].score == pytest.approx(1, abs=1e-4)


def test_a_stretch_of_a_video_is_a_query(make, folder, found):
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


def test_hits_can_be_shown(make, folder, found):
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


def test_the_store_says_which_model_to_load(store, folder, found):
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


def test_files_that_are_gone_or_outside_are_reported_and_left_out(make, folder, events, tmp_path, found):
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
def test_files_that_are_not_what_was_indexed_are_reported_and_left_out(
    make, folder, events, clip, shown_before, found
):
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


def test_l12_async_finds_the_same_without_blocking_the_loop(make, caplog, found):
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


def test_queries_at_once_may_draw_the_same_pictures(make, embedding, tmp_path, monkeypatch, found):
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


def test_queries_have_the_budget_of_the_collection_and_an_instruction(tmp_path):
    encoder = TTEEncoder("tte-flash-tiny", device="cpu", think_budget=2)
    (tmp_path / "red.txt").write_text("a red circle")
    with open_store("memory://") as store:
        ingest(tmp_path, store, encoder, model_name="tte-flash-tiny")
        for given, prompt, budget in (
            ({}, None, 2),
            ({"instruction": "find it"}, "find it", 2),
            ({"embed_model": TTEEmbedding(think_budget=5, device="cpu")}, None, 5),
            ({"embed_model": TTEEmbedding(query_instruction="find it"), "instruction": "name it"}, "name it", 2),
        ):
            [hit] = TTERetriever(store, tmp_path, **given).retrieve("a red square")
            vector = encoder.encode_query(["a red square"], prompt=prompt, think_budget=budget)[0]
            assert hit.score == pytest.approx(store.search(vector, 1)[0].score, abs=1e-5)
