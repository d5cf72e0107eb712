from __future__ import annotations

import asyncio
import base64
import pickle
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.embeddings import MultiModalEmbedding
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import Document, ImageDocument, ImageNode, MediaResource, Node, QueryBundle, TextNode
from llama_index.embeddings.tte import TTEEmbedding
from PIL import Image, ImageDraw

from tte_retriever import MediaError, TTEEncoder, TTEError

TEXTS = ["a red circle", "two blue squares above a green triangle", "x"]


@pytest.fixture(scope="module")
def embedding():
    return TTEEmbedding(model_name="tte-flash-tiny", embed_batch_size=2)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    paths = []
    for color in ("red", "blue", "green"):
        image = Image.new("RGB", (96, 96), "white")
        ImageDraw.Draw(image).ellipse((20, 20, 70, 70), fill=color)
        paths.append(str(folder / f"{color}.png"))
        image.save(paths[-1])
    return paths


def same(left, right):
    np.testing.assert_allclose(left, right, atol=1e-5)


def differ(left, right):
    assert np.abs(np.subtract(left, right)).max() > 1e-3


# What LlamaIndex expects of the class ------------------------------------------------------------------------------


def test_it_is_an_embedding_of_llama_index():
    assert issubclass(TTEEmbedding, BaseEmbedding)
    assert issubclass(TTEEmbedding, MultiModalEmbedding)
    assert TTEEmbedding.class_name() == "TTEEmbedding"


def test_settings_survive_serialization():
    settings = {"model_name": "some/model", "think_budget": 3, "device": "cpu", "embed_batch_size": 7}
    embedding = TTEEmbedding(**settings)
    data = embedding.to_dict()
    assert data["class_name"] == "TTEEmbedding"
    for copy in (TTEEmbedding.from_dict(data), pickle.loads(pickle.dumps(embedding))):
        assert {name: getattr(copy, name) for name in settings} == settings


@pytest.mark.parametrize("settings", [{"think_budget": -1}, {"embed_batch_size": 0}, {"modelname": "x"}])
def test_a_wrong_setting_is_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        TTEEmbedding(**settings)


# Vectors -----------------------------------------------------------------------------------------------------------


def test_vectors_are_those_of_the_encoder(embedding, images):
    encoder = TTEEncoder("tte-flash-tiny")
    same(embedding.get_query_embedding(TEXTS[0]), encoder.encode_query([{"text": TEXTS[0]}])[0])
    same(embedding.get_text_embedding(TEXTS[0]), encoder.encode_document([{"text": TEXTS[0]}])[0])
    same(embedding.get_image_embedding(images[0]), encoder.encode_document([{"image": Path(images[0])}])[0])


def test_a_batch_gives_what_single_calls_give(embedding, images):
    same(embedding.get_text_embedding_batch(TEXTS), [embedding.get_text_embedding(text) for text in TEXTS])
    same(embedding.get_image_embedding_batch(images), [embedding.get_image_embedding(path) for path in images])


def test_an_embedding_is_a_list_of_floats(embedding):
    vector = embedding.get_text_embedding(TEXTS[0])
    assert isinstance(vector, list)
    assert {type(value) for value in vector} == {float}
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_an_open_image_is_embedded_like_its_file(embedding, images):
    same(
        embedding.get_image_embedding(BytesIO(Path(images[0]).read_bytes())), embedding.get_image_embedding(images[0])
    )
    differ(embedding.get_image_embedding(images[0]), embedding.get_image_embedding(images[1]))


def test_a_path_given_as_text_is_text(embedding, images):
    differ(embedding.get_text_embedding(images[0]), embedding.get_image_embedding(images[0]))
    differ(embedding.get_text_embedding(images[0]), embedding.get_text_embedding(images[1]))


@pytest.mark.parametrize("image", ["nowhere.png", "https://example.org/cat.png", BytesIO(b"not an image")])
def test_a_bad_image_raises(embedding, image):
    with pytest.raises(MediaError):
        embedding.get_image_embedding(image)


def test_think_budget_reaches_the_model(embedding):
    without = TTEEmbedding(model_name="tte-flash-tiny", think_budget=0)
    differ(without.get_query_embedding(TEXTS[0]), embedding.get_query_embedding(TEXTS[0]))


def test_a_changed_setting_takes_effect(embedding):
    changed = TTEEmbedding(model_name="tte-flash-tiny")
    changed.get_query_embedding(TEXTS[0])
    changed.model_name = "no-such-model-anywhere"
    with pytest.raises((TTEError, OSError)):
        changed.get_query_embedding(TEXTS[0])


# Nodes -------------------------------------------------------------------------------------------------------------


def nodes_of_each_kind(images):
    encoded = base64.b64encode(Path(images[2]).read_bytes()).decode()
    return [
        TextNode(text=TEXTS[0]),
        ImageNode(image_path=images[0]),
        Document(text=TEXTS[1]),
        Node(image_resource=MediaResource(path=Path(images[1]))),
        ImageNode(image=encoded, text="a caption"),
        Node(image_resource=MediaResource(data=Path(images[0]).read_bytes())),
        ImageDocument(image_path=images[1]),
    ]


def expected(embedding, images):
    texts, pictures = embedding.get_text_embedding_batch(TEXTS), embedding.get_image_embedding_batch(images)
    return [texts[0], pictures[0], texts[1], pictures[1], pictures[2], pictures[0], pictures[1]]


def test_each_node_is_embedded_by_what_it_holds(embedding, images):
    nodes = nodes_of_each_kind(images)
    assert embedding(nodes) is nodes
    same([node.embedding for node in nodes], expected(embedding, images))


def test_async_gives_the_same_without_blocking_the_event_loop(embedding, images):
    nodes = nodes_of_each_kind(images)

    async def run():
        task = asyncio.create_task(embedding.acall(nodes))
        await asyncio.sleep(0)
        assert not task.done()
        await task
        return await asyncio.gather(
            embedding.aget_query_embedding(TEXTS[0]),
            embedding.aget_text_embedding(TEXTS[0]),
            embedding.aget_image_embedding(images[0]),
        )

    query, text, image = asyncio.run(run())
    same([node.embedding for node in nodes], expected(embedding, images))
    same(query, embedding.get_query_embedding(TEXTS[0]))
    same(text, embedding.get_text_embedding(TEXTS[0]))
    same(image, embedding.get_image_embedding(images[0]))


def test_text_is_embedded_with_its_metadata(embedding):
    node = TextNode(text=TEXTS[0], metadata={"author": "someone"})
    embedding([node])
    same(node.embedding, embedding.get_text_embedding(f"author: someone\n\n{TEXTS[0]}"))


@pytest.mark.parametrize(
    ("node", "complaint"),
    [
        (Node(video_resource=MediaResource(path=Path("clip.mp4"))), "holds video"),
        (Node(audio_resource=MediaResource(path=Path("song.mp3"))), "holds audio"),
        (ImageNode(image_url="https://example.org/cat.png"), "nothing is fetched"),
        (Node(image_resource=MediaResource(url="https://example.org/cat.png")), "nothing is fetched"),
        (ImageNode(image="%%%"), "not base64"),
        (ImageNode(image_resource=MediaResource(data=b"lost by LlamaIndex")), "without an image"),
    ],
)
def test_a_node_that_cannot_be_embedded_is_refused(embedding, node, complaint):
    with pytest.raises(TTEError, match=complaint):
        embedding([TextNode(text="fine"), node])
    assert node.embedding is None


def test_an_ingestion_pipeline_tells_images_apart(embedding, images):
    pipeline = IngestionPipeline(transformations=[embedding], disable_cache=True)
    nodes = pipeline.run(nodes=[ImageNode(image_path=path) for path in images])
    same([node.embedding for node in nodes], embedding.get_image_embedding_batch(images))


def test_an_image_finds_itself_in_an_index(embedding, images):
    nodes = [*(ImageNode(image_path=path) for path in images), TextNode(text=TEXTS[0])]
    index = VectorStoreIndex([], embed_model=embedding)
    index.insert_nodes(embedding(nodes))
    for path in images:
        query = QueryBundle("", embedding=embedding.get_image_embedding(path))
        (hit,) = index.as_retriever(similarity_top_k=1).retrieve(query)
        assert hit.node.image_path == path
        assert hit.score == pytest.approx(1, abs=1e-5)


def test_a_pickle_carries_no_weights_and_embeds_alike(embedding):
    vector = embedding.get_query_embedding(TEXTS[0])  # the weights are loaded now
    pickled = pickle.dumps(embedding)
    assert len(pickled) < 10_000
    same(pickle.loads(pickled).get_query_embedding(TEXTS[0]), vector)
