from __future__ import annotations

import asyncio
import logging
import time

import numpy as np
import pytest
from llama_index.core.schema import ImageNode, TextNode
from llama_index.embeddings.tte import TTEEmbedding

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class SlowEmbedding(TTEEmbedding):
    """The real thing on a device that takes its time."""

    def _encode(self, method, items):
        time.sleep(0.4)
        return super()._encode(method, items)


@pytest.fixture(scope="module")
def slow():
    embedding = SlowEmbedding(model_name="tte-flash-tiny", embed_batch_size=8)
    embedding.get_text_embedding("the model is loaded now")
    return embedding


def run_watched(coroutine, caplog):
    """Run on an event loop whose own watchdog tells of everything that keeps it for more than 200 ms."""

    async def watched():
        asyncio.get_running_loop().slow_callback_duration = 0.2
        return await coroutine

    with caplog.at_level(logging.WARNING, "asyncio"):
        result = asyncio.run(watched(), debug=True)
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []
    return result


def test_the_watchdog_barks(slow, images, caplog):
    async def blocking():
        return slow.get_image_embedding(images[0])

    with pytest.raises(AssertionError, match="took"):
        run_watched(blocking(), caplog)


METHODS = {
    "query": (lambda e: e.aget_query_embedding("x"), lambda e: e.get_query_embedding("x")),
    "text": (lambda e: e.aget_text_embedding("x"), lambda e: e.get_text_embedding("x")),
    "texts": (lambda e: e.aget_text_embedding_batch(["x", "y"]), lambda e: e.get_text_embedding_batch(["x", "y"])),
}
MEDIA_METHODS = {
    "image": ("aget_image_embedding", lambda images, clip: images[0]),
    "images": ("aget_image_embedding_batch", lambda images, clip: images),
    "video": ("aget_video_embedding", lambda images, clip: clip),
    "videos": ("aget_video_embeddings", lambda images, clip: [clip, clip]),
    "mixture": ("aget_multimodal_embedding", lambda images, clip: ["x", clip]),
    "mixed query": ("aget_multimodal_query_embedding", lambda images, clip: ["x", clip]),
}


@pytest.mark.parametrize("name", METHODS)
def test_text_does_not_block_the_loop(slow, caplog, name):
    in_loop, plain = METHODS[name]
    np.testing.assert_allclose(run_watched(in_loop(slow), caplog), plain(slow), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", MEDIA_METHODS)
def test_l16_media_do_not_block_the_loop(slow, images, clip, caplog, name):
    method, given = MEDIA_METHODS[name][0], MEDIA_METHODS[name][1](images, clip)
    vectors = run_watched(getattr(slow, method)(given), caplog)
    np.testing.assert_allclose(vectors, getattr(slow, method.removeprefix("a"))(given), atol=1e-5)


def test_nodes_do_not_block_the_loop(slow, images, caplog):
    def make():
        return [TextNode(text="x"), *(ImageNode(image_path=path) for path in images)]

    nodes = run_watched(slow.acall(make()), caplog)
    np.testing.assert_allclose(
        [node.embedding for node in nodes], [node.embedding for node in slow(make())], atol=1e-5
    )
