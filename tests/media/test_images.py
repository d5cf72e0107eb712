from __future__ import annotations

import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tte_retriever.errors import InputError, MediaError
from tte_retriever.media import MediaLimits, load_image

RED, WHITE = (255, 0, 0), (255, 255, 255)


def test_path_bytes_image_and_array_give_the_same_pixels(tmp_path, media):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    data = media.image(Image.fromarray(pixels))
    (tmp_path / "x.bin").write_bytes(data)  # the name says nothing
    for source in (tmp_path / "x.bin", data, Image.fromarray(pixels), pixels, pixels / 255.0):
        image = load_image(source)
        assert (image.mode, type(image)) == ("RGB", Image.Image)
        assert np.array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "MPO"])
def test_every_allowed_format_opens(media, format):
    image = load_image(media.image(Image.new("RGB", (16, 8), RED), format))
    assert image.size == (16, 8)
    assert np.abs(np.asarray(image, np.int16) - RED).max() < 16


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
def test_exif_orientation_is_applied(media, format, orientation):
    upright = Image.new("RGB", (40, 20))
    upright.paste(RED, (0, 0, 20, 10))  # top left is red
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the Transpose that stores it so that EXIF turns it back
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = load_image(media.image(stored, format, exif=exif))
    assert image.size == (40, 20)
    assert np.abs(np.asarray(image, np.int16) - np.asarray(upright)).mean() < 5
    assert image.info == {}, "metadata is not handed on"


def test_an_image_with_broken_exif_opens(media):
    data = media.image(
        Image.new("RGB", (40, 20), RED), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01junk" * 9
    )
    assert load_image(data).size == (40, 20)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_and_not_saturated(media, format):
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16)[None].repeat(2, 0)
    image = load_image(media.image(Image.fromarray(ramp), format))
    assert np.array_equal(np.asarray(image)[0, :, 0], np.arange(256))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 65535]], np.int32), [0, 255]),  # I, 16-bit range
        (np.array([[-100, 100_000]], np.int32), [0, 255]),  # I beyond it: its own range
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, 100.0]], np.float32), [0, 100]),
        (np.array([[-2.0, 0.0, 2.0]], np.float32), [0, 128, 255]),
        (np.array([[-3.0, -3.0]], np.float32), [0, 0]),
    ],
)
def test_wide_grey_is_scaled_by_its_range(media, values, expected):
    assert np.asarray(load_image(media.image(Image.fromarray(values), "TIFF")))[0, :, 0].tolist() == expected


def test_transparent_pixels_become_white(media):
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    sixteen = Image.fromarray(np.zeros((4, 4), np.uint16))
    cases = [
        (media.image(Image.new("RGBA", (4, 4), (0, 0, 0, 0))), WHITE),
        (media.image(Image.new("LA", (4, 4), (0, 0))), WHITE),
        (media.image(palette, transparency=0), WHITE),
        (media.image(palette, "GIF", transparency=0), WHITE),
        (media.image(Image.new("L", (4, 4), 7), transparency=7), WHITE),
        (media.image(Image.new("RGB", (4, 4), RED), transparency=RED), WHITE),
        (media.image(sixteen, transparency=0), WHITE),
        (media.image(half), (127, 127, 127)),
        (media.image(palette, transparency=1), (0, 0, 0)),
        (np.zeros((4, 4, 4), np.uint8), WHITE),
    ]
    assert [load_image(source).getpixel((1, 1)) for source, _ in cases] == [color for _, color in cases]


def test_cmyk_is_converted(media):
    image = load_image(media.image(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    assert np.abs(np.asarray(image, np.int16) - RED).max() < 8


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "AVIF"])
def test_an_animation_gives_its_first_frame(media, format):
    assert load_image(media.animation(format)).getpixel((5, 5))[0] < 8


@pytest.mark.parametrize(
    "width", [10_000, 12_000, 18_000]
)  # below, at and above where Pillow itself warns and refuses
def test_bombs_are_refused_before_decoding_and_warnings_never_leak(media, width):
    data = media.image(Image.new("1", (width, 10_000)))
    assert len(data) < 60_000
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        with pytest.raises(MediaError, match="max_pixels") as caught:
            load_image(data)
    assert caught.value.reason == "too-large"
    assert not leaked


def test_warning_filters_survive_threads(media):
    data = media.image(Image.new("L", (300, 300)))
    before = list(warnings.filters)
    threads = [threading.Thread(target=lambda: [load_image(data) for _ in range(30)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


@pytest.mark.parametrize(
    ("array", "value"),
    [
        (np.full((2, 3), 9, np.uint8), 9),
        (np.full((2, 3, 1), 9, np.uint8), 9),
        (np.full((2, 3), 65535 // 2, np.uint16), 127),
        (np.ones((2, 3), bool), 255),
        (np.full((2, 3, 3), 0.5, np.float16), 128),
        (np.full((2, 3, 4), 1.0), 255),
    ],
)
def test_arrays(array, value):
    image = load_image(array)
    assert (image.size, image.getpixel((0, 0))) == ((3, 2), (value,) * 3)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((3, 8, 8), np.uint8), "unsupported"),  # channels first
        (np.zeros((2, 8, 8, 3), np.uint8), "unsupported"),
        (np.zeros((8, 8, 3), np.int64), "unsupported"),
        (np.full((8, 8, 3), 255.0), "unsupported"),
        (np.full((8, 8), np.nan), "unsupported"),
        (np.zeros((0, 8, 3), np.uint8), "empty"),
        (np.zeros((11, 10), np.uint8), "too-large"),
    ],
)
def test_unusable_arrays_are_refused(array, reason):
    with pytest.raises(MediaError) as caught:
        load_image(array, MediaLimits(max_pixels=100))
    assert caught.value.reason == reason


def test_a_string_is_never_a_path(tmp_path, media):
    path = tmp_path / "x.png"
    path.write_bytes(media.image(Image.new("L", (2, 2))))
    for text in (str(path), "https://example.com/x.png", "data:image/png;base64,AAAA"):
        with pytest.raises(MediaError) as caught:
            load_image(text)
        assert caught.value.reason == "not-allowed"


@pytest.mark.parametrize("wrong", [None, 3, object(), [b""]])
def test_other_types_are_input_errors(wrong):
    with pytest.raises(InputError, match=r"pathlib\.Path"):
        load_image(wrong)


def test_the_pixels_of_the_caller_are_not_changed(tmp_path):
    pixels = np.zeros((4, 4, 3), np.uint8)
    given = Image.new("RGBA", (4, 4))
    from_array, from_image = load_image(pixels), load_image(given)
    pixels[:] = 255
    from_image.putpixel((0, 0), RED)
    assert from_array.getpixel((0, 0)) == (0, 0, 0)
    assert (given.mode, given.getpixel((0, 0))) == ("RGBA", (0, 0, 0, 0))


def test_a_lazily_opened_image_is_held_to_the_limits_too(tmp_path, media):
    Path(tmp_path / "x.png").write_bytes(media.image(Image.new("L", (20, 20))))
    with Image.open(tmp_path / "x.png") as image, pytest.raises(MediaError, match="max_pixels"):
        load_image(image, MediaLimits(max_pixels=399))
