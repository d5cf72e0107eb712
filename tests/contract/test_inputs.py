"""The inputs that sentence-transformers documents, through stock classes and through ``TTEEncoder``.

After https://sbert.net/docs/input_formats.html and the docstrings of release 6.2; audio is no modality of these models.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer

from tte_retriever import TTEEncoder, build, model_path
from tte_retriever.errors import InputError
from tte_retriever.media import VideoFrames

PIXELS = np.random.default_rng(0).integers(0, 255, (4, 64, 96, 3), np.uint8)
IMAGE, OTHER = map(Image.fromarray, PIXELS[:2])
TIMES = {"fps": 2.0, "total_num_frames": 4, "duration": 2.0, "frames_indices": [0, 1, 2, 3]}
KEEP_FRAMES = {"video": {"do_sample_frames": False}}


def user(*content):
    return [{"role": "user", "content": list(content)}]


def part(kind, value):
    return {"type": kind, kind: value}


SINGLE = {
    "text": "The weather is lovely today.",
    "text in a dict": {"text": "photo.png"},
    "image": IMAGE,
    "image array": PIXELS[0],
    "image tensor": torch.tensor(PIXELS[0]).permute(2, 0, 1),
    "image in a dict": {"image": IMAGE},
    "text and image": {"text": "A red apple on a table", "image": IMAGE},
    "image and text": {"image": IMAGE, "text": "A red apple on a table"},
    "several images": {"image": [IMAGE, OTHER], "text": "Which one ?"},
    "video with its times": {"video": {"array": PIXELS, "video_metadata": TIMES}},
    "video tensor with its times": {
        "video": {"array": torch.tensor(PIXELS).permute(0, 3, 1, 2), "video_metadata": TIMES}
    },
    "text and video": {"text": "What happens ?", "video": {"array": PIXELS, "video_metadata": TIMES}},
    "message": {"role": "user", "content": "Describe it."},
    "chat": user(part("image", IMAGE), part("text", "Describe it.")),
    "chat with a system turn": [
        {"role": "system", "content": [part("text", "Represent the user's input.")]},
        *user(part("image", IMAGE), part("image", OTHER), part("text", "Compare.")),
    ],
}


@pytest.fixture(scope="module", params=["qwen3_vl", "qwen2_5_vl"])
def folder(request, checkpoint, tmp_path_factory):
    """The bundled model, and one of the family that reads seconds off positions instead of words."""
    if request.param == "qwen3_vl":
        return model_path("tte-flash-tiny")
    return str(build(tmp_path_factory.mktemp("built") / "out", backbone=checkpoint(request.param), think_tokens=2))


@pytest.fixture(scope="module")
def stock(folder):
    return SentenceTransformer(folder, device="cpu")


@pytest.fixture(scope="module")
def ours(folder):
    return TTEEncoder(folder, device="cpu")


@pytest.mark.parametrize("name", SINGLE)
def test_a_documented_input_gives_the_vector_of_the_stock_class(stock, ours, name):
    item = SINGLE[name]
    expected = stock.encode(item, processing_kwargs=KEEP_FRAMES)
    assert expected.shape == (ours.get_embedding_dimension(),)
    assert np.array_equal(ours.encode(item), expected)
    assert np.array_equal(ours.encode([item, item])[1:], stock.encode([item, item], processing_kwargs=KEEP_FRAMES)[1:])


def test_every_documented_input_is_read(ours):
    """No two of them are one, but for those that are only written otherwise."""
    same = [{"image", "image array", "image tensor", "image in a dict"}]
    same += [{"video with its times", "video tensor with its times"}]
    vectors = dict(zip(SINGLE, ours.encode(list(SINGLE.values())), strict=True))
    for a in SINGLE:
        for b in SINGLE:
            alike = a == b or any({a, b} <= group for group in same)
            assert (np.abs(vectors[a] - vectors[b]).max() < 1e-5) == alike, (a, b)


def test_frames_without_times_are_taken(stock, ours):
    """The stock class takes them for a clip of 24 frames a second and samples; ours spaces them as the model samples."""
    for video in (PIXELS, {"video": PIXELS}, {"video": list(map(Image.fromarray, PIXELS))}):
        assert stock.encode(video).shape == (ours.get_embedding_dimension(),)
        timed = ours.encode({"video": {"array": PIXELS, "video_metadata": {**TIMES, "fps": ours.video_sampling.fps}}})
        assert np.abs(ours.encode(video) - timed).max() < 1e-5


def test_seconds_between_frames_are_seen(stock, ours):
    """The same frames, faster and slower, as frames with times of their own and as the stock class takes them."""
    vectors = []
    for seconds in (0.5, 5.0):
        frames = tuple(map(Image.fromarray, PIXELS))
        video = VideoFrames(frames, tuple(seconds * index for index in range(4)), 0.0, 4 * seconds)
        metadata = {"fps": 30.0, "total_num_frames": int(120 * seconds)}
        metadata["frames_indices"] = [int(30 * seconds * index) for index in range(4)]
        documented = {"video": {"array": PIXELS, "video_metadata": metadata}}
        vectors.append(ours.encode(video))
        assert np.array_equal(ours.encode(documented), vectors[-1])
        assert np.array_equal(stock.encode(documented, processing_kwargs=KEEP_FRAMES), vectors[-1])
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-4


def test_modalities_are_told(stock, ours):
    for model in (stock, ours):
        assert set(model.modalities) == {"text", "image", "video", "message"}
        assert [model.supports(name) for name in ("text", "image", "video", "message", "audio")] == [True] * 4 + [
            False
        ]
        assert model.supports(("image", "text"))


def test_text_finds_images_as_documented(stock, ours):
    """The snippet of the documents: encode images, encode texts, compare."""
    for model in (stock, ours):
        images, texts = model.encode([IMAGE, OTHER]), model.encode(["a red circle", "two", "three"])
        assert model.similarity(texts, images).shape == (3, 2)
        queries, documents = model.encode_query("two"), model.encode_document([IMAGE, {"text": "two", "image": OTHER}])
        assert model.similarity(queries, documents).shape == (1, 2)


def test_chats_in_a_mixed_batch_keep_their_content(ours):
    """In the stock class of 6.2 they lose it, without a word."""
    chats = [user(part("image", image), part("text", text)) for image in (IMAGE, OTHER) for text in ("one ?", "two ?")]
    mixed = ours.encode(["a red circle", *chats, IMAGE, {"video": PIXELS}, {"role": "user", "content": "one ?"}])
    alone = np.stack([ours.encode(chat) for chat in chats])
    assert np.abs(mixed[1:5] - alone).max() < 1e-5
    distances = [np.abs(a - b).max() for i, a in enumerate(alone) for b in alone[:i]]
    assert min(distances) > 1e-3


@pytest.mark.parametrize("pair", [("a query", "a document"), (IMAGE, "a caption"), ["a query", IMAGE]])
def test_pairs_are_for_cross_encoders(ours, pair):
    with pytest.raises(InputError, match="chat messages"):
        ours.encode([pair])
