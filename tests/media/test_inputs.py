from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tte_retriever.errors import InputError, MediaError
from tte_retriever.media import MediaLimits, VideoFrames, VideoSampling, typed_input

PICTURE = Image.new("L", (6, 4), 200)
CLIP = np.zeros((5, 4, 6, 3), np.uint8)


def is_picture(value):
    return isinstance(value, Image.Image) and (value.mode, value.getpixel((0, 0))) == ("RGB", (200, 200, 200))


@pytest.mark.parametrize(
    "text", ["a red circle", "https://example.com/cat.png", "data:image/png;base64,AAAA", "{path}"]
)
def test_a_string_is_text(tmp_path, media, text):
    path = tmp_path / "x.png"
    path.write_bytes(media.image(PICTURE))
    text = text.format(path=path)
    assert typed_input(text) == typed_input({"text": text}) == {"text": text}


def test_bare_media(tmp_path, media):
    clip, picture = tmp_path / "clip.png", tmp_path / "picture.mp4"  # the names lie
    clip.write_bytes(media.video(10))
    picture.write_bytes(media.image(PICTURE))
    for item in (PICTURE, np.asarray(PICTURE), picture, picture.read_bytes()):
        assert is_picture(typed_input(item)["image"])
    for item in (clip, clip.read_bytes(), CLIP, typed_input(CLIP)["video"]):
        assert isinstance(typed_input(item)["video"], VideoFrames)


def test_a_dict_keeps_its_order_and_is_decoded(media):
    item = {"video": list(CLIP), "text": "what is it?", "image": [PICTURE, media.image(PICTURE)]}
    decoded = typed_input(item)
    assert list(decoded) == ["video", "text", "image"]
    assert len(decoded["video"].frames) == 5
    assert [is_picture(image) for image in decoded["image"]] == [True, True]


def test_an_animation_is_an_image_unless_given_as_a_video(tmp_path, media):
    path = tmp_path / "x.gif"
    path.write_bytes(media.animation("GIF"))
    assert typed_input(path)["image"].size == (20, 10)
    assert len(typed_input({"video": path})["video"].frames) == 4


def test_limits_and_sampling_reach_the_media(media):
    assert len(typed_input({"video": media.video(50)}, video=VideoSampling(fps=5))["video"].frames) == 10
    for item in ({"image": PICTURE}, PICTURE, [{"role": "user", "content": [{"type": "image", "image": PICTURE}]}]):
        with pytest.raises(MediaError, match="max_pixels"):
            typed_input(item, MediaLimits(max_pixels=3))


def test_a_chat_keeps_its_structure():
    chat = [
        {"role": "system", "content": "Be brief.", "name": "boss"},
        {
            "role": "user",
            "think_budget": 8,
            "content": [
                {"type": "text", "text": "Compare."},
                {"type": "image", "image": PICTURE},
                {"type": "video", "video": CLIP},
            ],
        },
    ]
    decoded = typed_input(chat)
    assert list(decoded) == ["message"]
    system, user = decoded["message"]
    assert system == chat[0]
    assert (user["role"], user["think_budget"]) == ("user", 8)
    assert [part["type"] for part in user["content"]] == ["text", "image", "video"]
    assert is_picture(user["content"][1]["image"])
    assert isinstance(user["content"][2]["video"], VideoFrames)
    assert isinstance(chat[1]["content"][1]["image"], Image.Image)
    assert chat[1]["content"][1]["image"].mode == "L", "the caller's messages are not touched"
    assert typed_input(chat[0]) == {"message": [chat[0]]}


@pytest.mark.parametrize(
    "item",
    [
        "text",
        {"text": "a", "image": PICTURE, "video": CLIP},
        [{"role": "user", "content": [{"type": "image", "image": PICTURE}]}],
    ],
)
def test_decoded_items_are_returned_unchanged(item):
    once = typed_input(item)
    assert typed_input(once) == once


def user(**part):
    return [{"role": "user", "content": [part]}]


@pytest.mark.parametrize(
    "item",
    [
        {"image": "cat.png"},
        {"image": ["https://example.com/cat.png"]},
        {"video": "file:///etc/passwd"},
        {"video": ["a.png", "b.png"]},
        {"url": "https://example.com/cat.png"},
        {"text": "x", "path": "cat.png"},
        [{"role": "user", "content": "x", "image_url": "https://example.com/cat.png"}],
        user(type="image", image="cat.png"),
        user(type="image", url="https://example.com/cat.png"),
        user(type="image", image=PICTURE, path="cat.png"),
        user(type="image_url", image_url={"url": "https://example.com/cat.png"}),
        user(type="video", video="http://127.0.0.1:9/x.mp4"),
    ],
)
def test_nothing_is_fetched_and_no_string_is_a_path(item):
    with pytest.raises(MediaError) as caught:
        typed_input(item)
    assert caught.value.reason == "not-allowed"
    assert "pathlib.Path" in str(caught.value)


@pytest.mark.parametrize(
    ("item", "hint"),
    [
        (None, "cannot be encoded"),
        (3.5, "cannot be encoded"),
        (object(), "cannot be encoded"),
        ("", "empty"),
        (" \n", "empty"),
        ("\udcff", "surrogate"),
        ([], "empty list"),
        ({}, "empty dict"),
        ({"text": None}, "None"),
        ({"text": 5}, "give a str"),
        ({"text": ""}, "empty"),
        ({"image": []}, "empty list"),
        ({"image": None}, "None"),
        ({"video": []}, "no frames"),
        ({"txt": "x"}, '"text", "image" and "video"'),
        ({"text": "x", "audio": b"y"}, '"text", "image" and "video"'),
        ({"message": []}, "empty list"),
        ([PICTURE, PICTURE], "several images"),
        (["a", "b"], "chat messages"),
        ([{"role": "user"}], "chat messages"),
        ([{"role": "user", "content": ""}], "empty"),
        ([{"role": "user", "content": []}], "give a str"),
        (user(type="audio", audio=b"x"), "content part"),
        (user(type="image"), "content part"),
        (user(type="text", text=""), "empty"),
        (user(type="image", image=[PICTURE, PICTURE]), "give each image its own part"),
        (user(type="video", video=CLIP, fps=4), "content part"),
        ([{"role": "user", "content": ["bare"]}], "content part"),
    ],
)
def test_unusable_items_are_refused(item, hint):
    with pytest.raises(InputError, match=hint):
        typed_input(item)


def test_the_error_for_a_document_says_what_to_do(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("notes")
    with pytest.raises(MediaError, match="as a str") as caught:
        typed_input(path)
    assert caught.value.reason == "unsupported"
