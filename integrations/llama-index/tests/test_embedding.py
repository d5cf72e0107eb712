from __future__ import annotations

import base64
import pickle
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.llms.types import ImageBlock, TextBlock, VideoBlock
from llama_index.core.embeddings import MultiModalEmbedding
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import Document, ImageDocument, ImageNode, MediaResource, Node, QueryBundle, TextNode
from llama_index.embeddings.tte import TTEEmbedding, VideoClip
from PIL import Image

from tte_retriever import MediaError, TTEEncoder, TTEError
from tte_retriever.errors import InputError

TEXTS = ["a red circle", "two blue squares above a green triangle", "x"]


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
    settings = {"model_name": "some/model", "think_budget": 3, "dim": 64, "device": "cpu", "embed_batch_size": 7}
    embedding = TTEEmbedding(**settings)
    data = embedding.to_dict()
    assert data["class_name"] == "TTEEmbedding"
    for copy in (TTEEmbedding.from_dict(data), pickle.loads(pickle.dumps(embedding))):
        assert {name: getattr(copy, name) for name in settings} == settings


@pytest.mark.parametrize("settings", [{"think_budget": -1}, {"dim": 0}, {"embed_batch_size": 0}, {"modelname": "x"}])
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


def test_fewer_dimensions_are_the_leading_ones_at_length_1(embedding, images):
    short = TTEEmbedding(model_name="tte-flash-tiny", dim=16)
    for whole, part in (
        (embedding.get_text_embedding(TEXTS[0]), short.get_text_embedding(TEXTS[0])),
        (embedding.get_image_embedding(images[0]), short.get_image_embedding(images[0])),
    ):
        same(part, np.array(whole[:16]) / np.linalg.norm(whole[:16]))


# Videos and mixtures -----------------------------------------------------------------------------------------------


def test_a_video_is_embedded_as_the_encoder_does(embedding, clip):
    vector = TTEEncoder("tte-flash-tiny").encode_document([{"video": clip}])[0]
    for video in (clip, str(clip), BytesIO(clip.read_bytes()), VideoClip(clip), VideoClip(clip, 0, 100)):
        same(embedding.get_video_embedding(video), vector)


def test_stretches_of_a_video_have_vectors_of_their_own(embedding, clip):
    stretches = [VideoClip(clip, 0, 6), VideoClip(clip, 6), VideoClip(clip)]
    vectors = embedding.get_video_embeddings(stretches)
    same(vectors, [embedding.get_video_embedding(stretch) for stretch in stretches])
    differ(vectors[0], vectors[1])


def test_a_bad_video_raises(embedding, tmp_path, images):
    (tmp_path / "bad.mp4").write_bytes(b"not a video")
    for video in (tmp_path / "bad.mp4", "nowhere.mp4", images[0]):
        with pytest.raises(MediaError):
            embedding.get_video_embedding(video)


def test_a_mixture_is_read_in_its_order(embedding, images, clip):
    red, blue = Path(images[0]), Path(images[1])
    parts = [{"type": "text", "text": "first"}, {"type": "image", "image": red}, {"type": "text", "text": "then"}]
    parts += [{"type": "image", "image": blue}, {"type": "video", "video": clip}]
    expected = TTEEncoder("tte-flash-tiny").encode_document([[{"role": "user", "content": parts}]])[0]
    same(embedding.get_multimodal_embedding(["first", red, "then", blue, clip]), expected)
    blocks = [TextBlock(text="first"), ImageBlock(path=red), TextBlock(text="then")]
    blocks += [ImageBlock(image=blue.read_bytes()), VideoBlock(path=clip)]
    same(embedding.get_multimodal_embedding(blocks), expected)
    blocks[1] = ImageBlock(url=blocks[1].inline_url())
    same(embedding.get_multimodal_embedding(blocks), expected)
    same(embedding.get_multimodal_embedding(["first", Image.open(red), "then", blue, VideoClip(clip)]), expected)
    differ(embedding.get_multimodal_embedding(["first", blue, "then", red, clip]), expected)


def test_a_mixture_of_one_is_that_one(embedding, images, clip):
    same(embedding.get_multimodal_embedding([TEXTS[0]]), embedding.get_text_embedding(TEXTS[0]))
    same(embedding.get_multimodal_embedding([Path(images[0])]), embedding.get_image_embedding(images[0]))
    same(embedding.get_multimodal_embedding([clip]), embedding.get_video_embedding(clip))
    same(embedding.get_multimodal_query_embedding([TEXTS[0]]), embedding.get_query_embedding(TEXTS[0]))


def test_an_animation_in_a_mixture_is_a_video_unless_it_is_called_an_image(embedding, animation):
    video = embedding.get_video_embedding(animation)
    for block in (animation, VideoClip(animation), VideoBlock(path=animation)):
        same(embedding.get_multimodal_embedding([block]), video)
    still = embedding.get_multimodal_embedding([ImageBlock(path=animation)])
    same(still, embedding.get_image_embedding(str(animation)))
    differ(still, video)


@pytest.mark.parametrize(
    ("blocks", "complaint"),
    [
        ([], "one block or more"),
        ("text", "one block or more"),
        ([3], "a block is a int"),
        ([" "], "text is empty"),
        ([ImageBlock(url="https://example.org/cat.png")], "never fetched"),
        ([VideoBlock(url="https://example.org/cat.mp4")], "never fetched"),
        ([ImageBlock()], "the image block has no image"),
    ],
)
def test_a_bad_mixture_raises(embedding, blocks, complaint):
    with pytest.raises(InputError, match=complaint):
        embedding.get_multimodal_embedding(blocks)


def test_a_node_with_a_video_is_embedded_by_the_stretch_in_its_metadata(embedding, clip):
    resource = MediaResource(path=clip)
    whole, part = Node(video_resource=resource), Node(video_resource=resource, metadata={"start_s": 6, "end_s": 9.0})
    encoded = Node(video_resource=MediaResource(data=clip.read_bytes()))
    embedding([whole, part, encoded])
    same([whole.embedding, encoded.embedding], [embedding.get_video_embedding(clip)] * 2)
    same(part.embedding, embedding.get_video_embedding(VideoClip(clip, 6, 9)))


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
    assert [node.node_id for node in embedding(nodes)] == [node.node_id for node in nodes]
    same([node.embedding for node in nodes], expected(embedding, images))


def test_text_is_embedded_with_its_metadata(embedding):
    node = TextNode(text=TEXTS[0], metadata={"author": "someone"})
    embedding([node])
    same(node.embedding, embedding.get_text_embedding(f"author: someone\n\n{TEXTS[0]}"))


@pytest.mark.parametrize(
    ("node", "reason", "complaint"),
    [
        (Node(video_resource=MediaResource(path=Path("clip.mp4"))), "missing", "does not exist"),
        (Node(audio_resource=MediaResource(path=Path("song.mp3"))), "unsupported", "holds audio"),
        (ImageNode(image_path="nowhere.png"), "missing", "does not exist"),
        (ImageNode(image_url="https://example.org/cat.png"), "not-allowed", "never fetched"),
        (Node(image_resource=MediaResource(url="https://example.org/cat.png")), "not-allowed", "never fetched"),
        (ImageNode(image="%%%"), "corrupt", "not base64"),
        (ImageNode(image_resource=MediaResource(data=b"lost by LlamaIndex")), "empty", "has no image"),
        (TextNode(text=" "), "unsupported", "text is empty"),
    ],
)
def test_a_bad_node_is_reported_and_left_out_and_the_others_have_their_own_vectors(
    embedding, images, events, caplog, node, reason, complaint
):
    good = [TextNode(text=TEXTS[0]), ImageNode(image_path=images[0]), TextNode(text=TEXTS[1])]
    node.embedding = [1.0]  # of what it held before
    pipeline = IngestionPipeline(transformations=[embedding])
    done = pipeline.run(nodes=[good[0], node, good[1], good[2]])
    assert [each.node_id for each in done] == [each.node_id for each in good]
    same(done[0].embedding, embedding.get_text_embedding(TEXTS[0]))
    same(done[1].embedding, embedding.get_image_embedding(images[0]))
    same(done[2].embedding, embedding.get_text_embedding(TEXTS[1]))
    assert node.embedding is None
    (event,) = events("BadMediaEvent")
    assert (event.source, event.reason) == (f"node {node.node_id}", reason)
    assert complaint in event.message
    assert complaint in caplog.text


@pytest.fixture
def nan_beyond(embedding, monkeypatch):
    """``nan_beyond(n)`` makes the vectors of items of more than n tokens NaN."""

    def nan_beyond(length):
        with embedding._model.using(embedding._to_load) as encoder:
            pooling = encoder[1]
        pool = pooling.forward

        def forward(features, **kwargs):
            is_long = features["attention_mask"].sum(1) > length  # (B,)
            vectors = pool(features, **kwargs)["sentence_embedding"]  # (B, E)
            return {**features, "sentence_embedding": vectors.masked_fill(is_long[:, None], float("nan"))}

        monkeypatch.setattr(pooling, "forward", forward)

    return nan_beyond


def test_a_node_whose_vector_is_nan_is_reported_and_left_out(embedding, images, events, nan_beyond):
    good = [TextNode(text=TEXTS[0]), ImageNode(image_path=images[0]), TextNode(text=TEXTS[2])]
    bad = TextNode(text="a blue ring " * 60)
    nan_beyond(120)
    done = IngestionPipeline(transformations=[embedding]).run(nodes=[good[0], bad, *good[1:]])
    assert [node.node_id for node in done] == [node.node_id for node in good]
    same(done[0].embedding, embedding.get_text_embedding(TEXTS[0]))
    assert embedding([bad]) == []
    assert ["NaN" in event.message for event in events("BadMediaEvent")] == [True, True]


def test_a_model_that_has_no_vector_for_anything_is_not_blamed_on_nodes(embedding, events, nan_beyond):
    nan_beyond(0)
    with pytest.raises(TTEError, match="NaN"):
        embedding([TextNode(text=TEXTS[0]), TextNode(text=TEXTS[1])])
    assert events("BadMediaEvent") == []


@pytest.mark.parametrize("settings", [{"think_budget": 999}, {"dim": 9999}])
def test_a_setting_that_the_model_does_not_have_is_not_blamed_on_nodes(settings):
    with pytest.raises(InputError, match=f"{next(iter(settings))} is {next(iter(settings.values()))}"):
        TTEEmbedding(**settings)([TextNode(text="x")])


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


def test_every_option_of_a_model_is_a_setting():
    options = {"device": "cpu", "dtype": "bfloat16", "attention": "eager", "max_pixels": 4096, "think_budget": 2}
    model = TTEEmbedding(**options, batch_tokens=64)
    expected = TTEEncoder(
        "tte-flash-tiny", device="cpu", model_kwargs={"dtype": "bfloat16", "attn_implementation": "eager"}
    ).encode(["a red circle"], think_budget=2, max_pixels=4096)
    assert np.abs(np.array(model.get_text_embedding("a red circle")) - expected[0]).max() < 1e-6


def test_a_pixel_limit_that_no_image_fits_is_an_error_and_not_an_empty_index():
    with pytest.raises(InputError, match="max_pixels is 10"):
        TTEEmbedding(max_pixels=10)([TextNode(text="a")])


def test_an_instruction_goes_with_queries_only():
    plain, told = TTEEmbedding(), TTEEmbedding(query_instruction="find it")
    assert plain.get_text_embedding("two") == told.get_text_embedding("two")
    assert plain.get_query_embedding("two") != told.get_query_embedding("two")
