"""Places where LlamaIndex gives media wrong vectors, or none, and what keeps them right here.

L4 to L7 are cured where nodes are made (:class:`TTEMediaReader`); L12 and L16, which are about the event loop, have
their tests in ``test_retriever.py`` and ``test_async.py``. L13 is of a retriever that is not used here.
"""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import av
import numpy as np
import pytest
from llama_index.core import StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.indices import MultiModalVectorStoreIndex
from llama_index.core.ingestion import DocstoreStrategy, IngestionCache, IngestionPipeline
from llama_index.core.schema import ImageNode, MediaResource, MetadataMode, Node, QueryBundle, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict
from llama_index.embeddings.tte import TTEMediaReader, VideoClip
from PIL import Image

from tte_retriever.media import load_image


@pytest.fixture
def reader(tmp_path):
    return TTEMediaReader(views_dir=str(tmp_path / "views"))


@pytest.fixture
def nodes(reader, folder):
    return reader.load_data(folder)


def same(left, right):
    np.testing.assert_allclose(left, right, atol=1e-5)


def own_vector(embedding, node):
    """The vector that a node should have, made without any node."""
    if node.metadata["modality"] == "text":
        return embedding.get_text_embedding(node.text)
    if node.metadata["modality"] == "video":
        stretch = VideoClip(node.metadata["file_path"], node.metadata["start_s"], node.metadata["end_s"])
        return embedding.get_video_embedding(stretch)
    return embedding.get_image_embedding(node.image_path)


def finds_each(index, embedding, nodes):
    """Whether each node is what an index finds by that node's own vector."""
    retriever = index.as_retriever(similarity_top_k=1)
    hits = [retriever.retrieve(QueryBundle("", embedding=own_vector(embedding, node)))[0] for node in nodes]
    return [hit.node.node_id for hit in hits] == [node.node_id for node in nodes]


def repaint(path, color):
    Image.new("RGB", (96, 96), color).save(path)


def _backwards(clip):
    buffer = io.BytesIO()
    with av.open(str(clip)) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 96, 96, "yuv420p"
        for frame in reversed(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def test_l1_a_pipeline_embeds_each_node_by_what_it_holds(embedding, nodes):
    done = IngestionPipeline(transformations=[embedding]).run(nodes=nodes)
    assert len(done) == 7
    for node in done:
        same(node.embedding, own_vector(embedding, node))


@pytest.mark.parametrize("name", ["red.png", "clip.mp4", "doc.pdf"])
def test_l2_the_cache_of_a_pipeline_tells_contents_apart(embedding, reader, folder, name, clip):
    pipeline = IngestionPipeline(transformations=[embedding], cache=IngestionCache())
    before = pipeline.run(nodes=reader.load_data(folder / name))
    if name == "clip.mp4":
        (folder / name).write_bytes(_backwards(clip))
    else:
        repaint(folder / name, "purple")
    after = pipeline.run(nodes=reader.load_data(folder / name))
    assert {node.node_id for node in before}.isdisjoint(node.node_id for node in after)
    for node in after:
        same(node.embedding, own_vector(embedding, node))
    again = pipeline.run(nodes=reader.load_data(folder / name))
    same([node.embedding for node in again], [node.embedding for node in after])


def test_l2_the_cache_tells_windows_of_one_video_apart(embedding, reader, folder):
    pipeline = IngestionPipeline(transformations=[embedding], cache=IngestionCache())
    for node in reader.load_data(folder / "clip.mp4"):
        (done,) = pipeline.run(nodes=[node])
        same(done.embedding, own_vector(embedding, node))


@pytest.mark.parametrize("strategy", list(DocstoreStrategy))
@pytest.mark.parametrize("name", ["red.png", "doc.pdf"])
def test_l3_a_docstore_sees_that_bytes_have_changed_at_the_same_path(embedding, reader, folder, strategy, name):
    pipeline = IngestionPipeline(
        transformations=[embedding],
        docstore=SimpleDocumentStore(),
        docstore_strategy=strategy,
        vector_store=SimpleVectorStore(),
        disable_cache=True,
    )

    def run():
        return pipeline.run(nodes=reader.load_data(folder))

    assert len(run()) == 7
    assert run() == []
    repaint(folder / name, "purple")
    (changed,) = run()
    assert changed.metadata["uri"] == name
    if strategy is DocstoreStrategy.UPSERTS_AND_DELETE:
        assert set(pipeline.vector_store.data.embedding_dict) == {node.node_id for node in reader.load_data(folder)}
        (folder / "notes.md").unlink()
        assert run() == []
        assert set(pipeline.vector_store.data.embedding_dict) == {node.node_id for node in reader.load_data(folder)}


def test_l4_captions_and_images_in_one_index_keep_their_vectors(embedding, images):
    pictures = [ImageNode(image_path=path, text=f"caption of {path}") for path in images]
    captions = [TextNode(text=picture.text) for picture in pictures]
    index = VectorStoreIndex([], embed_model=embedding)
    index.insert_nodes(embedding([*pictures, *captions]))
    vectors = index.vector_store.data.embedding_dict
    assert len(vectors) == 6
    for picture, caption in zip(pictures, captions, strict=True):
        same(vectors[picture.node_id], embedding.get_image_embedding(picture.image_path))
        same(vectors[caption.node_id], embedding.get_text_embedding(caption.text))


def test_l5_an_image_node_without_its_bytes_has_no_vector(embedding, images, events):
    lost = ImageNode(image_resource=MediaResource(data=Path(images[0]).read_bytes()))
    assert embedding([lost]) == []
    assert [event.reason for event in events("BadMediaEvent")] == ["empty"]


def test_l6_nodes_come_back_from_a_payload_with_their_media(embedding, nodes):
    for node in embedding(nodes):
        back = metadata_dict_to_node(json.loads(json.dumps(node_to_metadata_dict(node))))
        (again,) = embedding([back])
        same(again.embedding, own_vector(embedding, node))
        assert back.node_id == back.ref_doc_id == node.node_id


def test_l7_no_bytes_of_media_get_into_a_payload(embedding, nodes):
    for node in embedding(nodes):
        assert len(json.dumps(node_to_metadata_dict(node))) < 4_000


def test_l8_a_node_with_an_image_resource_is_embedded_by_it(embedding, images):
    node = Node(image_resource=MediaResource(path=Path(images[0])), text_resource=MediaResource(text="a caption"))
    embedding([node])
    same(node.embedding, embedding.get_image_embedding(images[0]))


def test_l9_a_picture_is_never_read_as_text(reader, folder):
    (folder / "picture.txt").write_bytes((folder / "red.png").read_bytes())
    (folder / "red.png").unlink()
    kinds = {node.metadata["uri"]: type(node).__mro__ for node in reader.load_data(folder)}
    assert ImageNode in kinds["picture.txt"]
    assert "PNG" not in "".join(node.get_content(MetadataMode.NONE) for node in reader.load_data(folder))


def test_l10_an_index_keeps_the_vectors_that_it_is_given(embedding, nodes):
    index = VectorStoreIndex(embedding(nodes), embed_model=embedding)
    assert len(index.vector_store.data.embedding_dict) == 7
    assert finds_each(index, embedding, nodes)


def test_l10_an_index_embeds_no_picture_by_its_metadata(embedding, nodes):
    index = VectorStoreIndex(nodes, embed_model=embedding)
    (text,) = (node for node in nodes if node.metadata["modality"] == "text")
    assert set(index.vector_store.data.embedding_dict) == {text.node_id}
    with pytest.raises(ValueError, match="text is empty"):
        index.insert_nodes([node for node in nodes if node is not text])


@pytest.mark.parametrize("kind", ["image", "images", "video", "mixture", "query", "nodes"])
def test_l11_media_have_events_as_text_has(embedding, images, clip, events, kind):
    vectors, chunks = {
        "image": lambda: ([embedding.get_image_embedding(images[0])], images[:1]),
        "images": lambda: (embedding.get_image_embedding_batch(images), images),
        "video": lambda: ([embedding.get_video_embedding(clip)], [str(clip)]),
        "mixture": lambda: ([embedding.get_multimodal_embedding(["x", clip])], [f"x {clip}"]),
        "query": lambda: ([embedding.get_multimodal_query_embedding([Path(images[0])])], images[:1]),
        "nodes": lambda: ([embedding([ImageNode(image_path=images[0])])[0].embedding], images[:1]),
    }[kind]()
    starts, ends = events("EmbeddingStartEvent"), events("EmbeddingEndEvent")
    assert len(starts) == len(ends) == -(-len(chunks) // embedding.embed_batch_size)
    assert [start.model_dict["model_name"] for start in starts] == ["tte-flash-tiny"] * len(starts)
    assert [chunk for end in ends for chunk in end.chunks] == chunks
    same([vector for end in ends for vector in end.embeddings], vectors)


def test_l11_no_event_carries_bytes(embedding, images, clip, events):
    embedding.get_image_embedding(io.BytesIO(Path(images[0]).read_bytes()))
    embedding.get_multimodal_embedding([Image.open(images[0])])
    size = Path(images[0]).stat().st_size
    assert [end.chunks for end in events("EmbeddingEndEvent")] == [[f"<{size} bytes>"], ["<image of 96x96 pixels>"]]


def test_l14_a_node_is_deleted_by_its_source(embedding, nodes):
    index = VectorStoreIndex(embedding(nodes), embed_model=embedding)
    gone = nodes[0]
    index.delete_ref_doc(gone.node_id, delete_from_docstore=True)
    assert set(index.vector_store.data.embedding_dict) == {node.node_id for node in nodes} - {gone.node_id}


def test_l15_workers_get_settings_and_no_weights(embedding, nodes):
    vector = embedding.get_query_embedding("x")  # the weights are loaded now
    pickled = pickle.dumps(embedding)
    assert len(pickled) < 10_000
    same(pickle.loads(pickled).get_query_embedding("x"), vector)
    again = pickle.loads(pickle.dumps(nodes))
    assert [node.hash for node in again] == [node.hash for node in nodes]


@pytest.mark.slow
def test_l15_a_pipeline_with_workers_embeds_alike(embedding, nodes):
    done = IngestionPipeline(transformations=[embedding], disable_cache=True).run(nodes=nodes, num_workers=2)
    assert [node.node_id for node in done] == [node.node_id for node in nodes]
    for node in done:
        same(node.embedding, own_vector(embedding, node))


def test_l17_an_index_over_qdrant_finds_all_kinds(embedding, nodes):
    qdrant = pytest.importorskip("llama_index.vector_stores.qdrant", reason="needs llama-index-vector-stores-qdrant")
    client = pytest.importorskip("qdrant_client").QdrantClient(":memory:")
    store = qdrant.QdrantVectorStore("media", client=client, dense_vector_name="tte")
    done = IngestionPipeline(transformations=[embedding], vector_store=store).run(nodes=nodes)
    assert client.count("media").count == len(done) == 7
    for point in client.scroll("media", limit=100)[0]:
        assert len(json.dumps(point.payload)) < 4_000
    index = VectorStoreIndex.from_vector_store(store, embed_model=embedding)
    assert finds_each(index, embedding, nodes)
    for hit in index.as_retriever(similarity_top_k=7).retrieve("a circle"):
        if isinstance(hit.node, ImageNode):
            load_image(Path(hit.node.image_path))
    client.close()


def test_it_is_the_image_model_of_a_multi_modal_index(embedding, images):
    pictures = [ImageNode(image_path=path, metadata={"n": i}) for i, path in enumerate(images)]
    index = MultiModalVectorStoreIndex(
        [*pictures, TextNode(text="a note")], embed_model=embedding, image_embed_model=embedding
    )
    vectors = index.image_vector_store.data.embedding_dict
    for picture in pictures:
        same(vectors[picture.node_id], embedding.get_image_embedding(picture.image_path))
    hits = index.as_retriever(image_similarity_top_k=1).image_to_image_retrieve(images[1])
    assert [hit.node.image_path for hit in hits] == [images[1]]


def test_only_the_plain_index_keeps_moments_of_videos(embedding, nodes):
    moments = {node.node_id for node in nodes if node.metadata["modality"] == "video"}
    done = embedding(nodes)
    index = MultiModalVectorStoreIndex(done, embed_model=embedding, image_embed_model=embedding)
    kept = index.vector_store.data.embedding_dict | index.image_vector_store.data.embedding_dict
    assert set(kept) == {node.node_id for node in nodes} - moments
    assert moments <= set(VectorStoreIndex(done, embed_model=embedding).vector_store.data.embedding_dict)


def test_an_index_that_is_saved_and_loaded_finds_the_same_files(embedding, nodes, tmp_path):
    index = VectorStoreIndex(embedding(nodes), embed_model=embedding)
    index.storage_context.persist(str(tmp_path / "index"))
    loaded = load_index_from_storage(
        StorageContext.from_defaults(persist_dir=str(tmp_path / "index")), embed_model=embedding
    )
    assert finds_each(loaded, embedding, nodes)
    for hit in loaded.as_retriever(similarity_top_k=7).retrieve("a circle"):
        if isinstance(hit.node, ImageNode):
            load_image(Path(hit.node.image_path))
        assert Path(hit.node.metadata["file_path"]).is_file()
    assert b"iVBORw0KGgo" not in (tmp_path / "index" / "docstore.json").read_bytes()
