"""Every kind of bad file is refused with a MediaError of the right reason, by every way in."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tte_retriever.errors import MEDIA_REASONS, InputError, MediaError
from tte_retriever.media import MediaLimits, load_image, load_video, media_kind, probe_video, typed_input

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="10" height="10"/>'
HTML = b"<!doctype html><title>404</title>"
PLAYLIST = b"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:4,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n"
CONCAT = b"ffconcat version 1.0\nfile '/etc/hostname'\n"
PSD = b"8BPS\0\1" + bytes(20)
JUNK = bytes(range(128, 256)) * 40


def jpeg(media):
    return media.image(Image.effect_noise((64, 64), 50), "JPEG")


def text_bomb(media):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("bomb", "x" * 5_000_000, zip=True)
    return media.image(Image.new("L", (4, 4)), pnginfo=info)


BAD_IMAGES = {
    "empty": (lambda m: b"", "empty"),
    "html.jpg": (lambda m: HTML, "unsupported"),
    "drawing.svg": (lambda m: SVG, "unsupported"),
    "page.pdf": (lambda m: b"%PDF-1.7\n" + JUNK, "unsupported"),
    "figure.eps": (lambda m: EPS, "unsupported"),
    "layers.psd": (lambda m: PSD, "unsupported"),
    "noise.png": (lambda m: JUNK, "unsupported"),
    "clip.jpg": (lambda m: m.video(5), "unsupported"),
    "half.jpg": (lambda m: jpeg(m)[:1000], "corrupt"),
    "header.jpg": (lambda m: jpeg(m)[:12], "corrupt"),
    "half.png": (lambda m: m.image(Image.effect_noise((64, 64), 50))[:1000], "corrupt"),
    "half.webp": (lambda m: m.image(Image.effect_noise((64, 64), 50), "WEBP")[:500], "corrupt"),
    "half.tiff": (lambda m: m.image(Image.effect_noise((64, 64), 50), "TIFF")[:1000], "corrupt"),
    "half.avif": (lambda m: m.image(Image.effect_noise((64, 64), 50), "AVIF")[:600], "corrupt"),
    "ztxt.png": (text_bomb, "corrupt"),
    "wide.png": (lambda m: m.image(Image.new("1", (3000, 1000))), "too-large"),
    "heavy.bmp": (lambda m: m.image(Image.new("RGB", (1000, 800)), "BMP"), "too-large"),
}

BAD_VIDEOS = {
    "empty": (lambda m: b"", "empty"),
    "text.mp4": (lambda m: b"hello, I am no video\n" * 50, "unsupported"),
    "playlist.mp4": (lambda m: PLAYLIST, "unsupported"),
    "concat.mp4": (lambda m: CONCAT, "unsupported"),
    "noise.mp4": (lambda m: JUNK, "unsupported"),
    "still.mp4": (lambda m: m.image(Image.new("L", (8, 8))), "unsupported"),
    "audio.mp4": (lambda m: m.audio(), "unsupported"),
    "song.mp4": (lambda m: m.audio(cover=True), "unsupported"),
    "half.mp4": (lambda m: m.video(50)[:1500], "corrupt"),
    "header.mkv": (lambda m: m.video(50, format="matroska")[:100], "corrupt"),
    "no-frames.mkv": (lambda m: cut(m.video(50, format="matroska"), 0.15), "corrupt"),
    "half.mkv": (lambda m: cut(m.video(50, format="matroska", gop=10), 0.5), "corrupt"),
    "flipped.mp4": (lambda m: flipped(m.video(50)), "corrupt"),
    "half.gif": (lambda m: cut(m.animation("GIF", [100] * 9), 0.6), "corrupt"),
    "half-apng.png": (lambda m: cut(m.animation("PNG", [100] * 9), 0.6), "corrupt"),
    "half.webp": (lambda m: cut(m.animation("WEBP", [100] * 9), 0.6), "corrupt"),
    "long.mp4": (lambda m: m.video(10, fps=1), "too-large"),
    "long.gif": (lambda m: m.animation("GIF", [6000, 100]), "too-large"),
}

LIMITS = MediaLimits(max_pixels=1_000_000, max_bytes=2_000_000, max_seconds=5)


def cut(data, share):
    return data[: int(len(data) * share)]


def flipped(data):
    start = data.index(b"mdat")
    return data[: start + 800] + bytes(byte ^ 0x55 for byte in data[start + 800 : start + 1400]) + data[start + 1400 :]


def refused(call, *args):
    with pytest.raises(MediaError) as caught:
        call(*args)
    assert len(str(caught.value)) > 20
    assert caught.value.reason in MEDIA_REASONS
    return caught.value.reason


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_bad_images(tmp_path, media, name):
    make, reason = BAD_IMAGES[name]
    path = tmp_path / name
    path.write_bytes(make(media))
    assert [refused(load_image, source, LIMITS) for source in (path, path.read_bytes())] == [reason] * 2


@pytest.mark.parametrize("name", BAD_VIDEOS)
def test_bad_videos(tmp_path, media, name):
    make, reason = BAD_VIDEOS[name]
    path = tmp_path / name
    path.write_bytes(make(media))
    assert [refused(load_video, source, LIMITS) for source in (path, path.read_bytes())] == [reason] * 2


@pytest.mark.parametrize("call", [load_image, load_video, probe_video, media_kind, typed_input])
def test_only_regular_files_are_opened(tmp_path, call):
    os.mkfifo(tmp_path / "fifo.png")  # opening it for reading would wait forever
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "socket.png"))
        sources = [tmp_path, tmp_path / "fifo.png", tmp_path / "socket.png", Path("/dev/zero")]
        assert [refused(call, source) for source in sources] == ["not-a-file"] * 4
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    missing = [tmp_path / "no.png", tmp_path / "dangling.png", Path("a\0b.png"), tmp_path / "fifo.png" / "x"]
    assert [refused(call, source) for source in missing] == ["missing"] * 4
    assert refused(call, tmp_path / "loop.png") == "unreadable"


def test_a_file_swapped_for_a_pipe_does_not_hang(tmp_path, monkeypatch):
    (tmp_path / "was.png").write_bytes(b"x")
    os.mkfifo(tmp_path / "x.png")
    before = (tmp_path / "was.png").stat()
    monkeypatch.setattr(Path, "stat", lambda path, **_: before)
    assert refused(load_image, tmp_path / "x.png") == "not-a-file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission_is_unreadable(tmp_path, media):
    path = tmp_path / "x.png"
    path.write_bytes(media.image(Image.new("L", (4, 4))))
    path.chmod(0)
    assert refused(load_image, path) == "unreadable"


def test_names_that_are_not_utf8_are_opened_and_named_in_errors(tmp_path, media):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    path.write_bytes(media.image(Image.new("L", (4, 4))))
    assert load_image(path).size == (4, 4)
    with pytest.raises(MediaError) as caught:
        load_image(path, MediaLimits(max_bytes=1))
    assert str(caught.value).encode()  # can be printed


def test_only_listed_formats_are_opened(media):
    png, mkv = media.image(Image.new("L", (4, 4))), media.video(10, format="matroska")
    limits = MediaLimits(image_formats=("JPEG",), video_formats=("mov",))
    assert refused(load_image, png, limits) == "unsupported"
    assert refused(load_video, mkv, limits) == "unsupported"


def test_the_pixels_of_all_frames_are_limited(media):
    limits = MediaLimits(max_video_pixels=64 * 32 * 3)
    assert refused(load_video, media.video(50), limits) == "too-large"
    assert refused(load_video, [Image.new("L", (64, 32))] * 4, limits) == "too-large"
    assert len(load_video([Image.new("L", (64, 32))] * 3, limits).frames) == 3


@pytest.mark.parametrize(
    "format", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "AVIF", "JPEG2000", "BMP", "mp4", "matroska"]
)
def test_random_damage_raises_only_media_errors(media, format):
    make = media.video if format.islower() else media.image
    whole = make(10, format=format) if make is media.video else make(Image.effect_noise((32, 16), 50), format)
    random = np.random.default_rng(0)
    outcomes = set()
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(random.integers(1, 20)):
            data[random.integers(len(data))] = random.integers(256)
        for call in (load_image, load_video, media_kind, typed_input):
            try:
                outcomes.add(type(call(bytes(data[: random.integers(len(data) // 2, 2 * len(data))]), LIMITS)))
            except MediaError as error:
                outcomes.add(error.reason)
    assert "corrupt" in outcomes


def test_libraries_get_open_files_and_never_names(tmp_path, media, monkeypatch):
    (tmp_path / "x.mp4").write_bytes(media.video(10))
    opened, real = [], av.open
    monkeypatch.setattr(av, "open", lambda file, **options: opened.append((file, options)) or real(file, **options))
    load_video(tmp_path / "x.mp4")
    assert opened
    assert all(hasattr(file, "read") for file, _ in opened)
    assert all(options["options"]["protocol_whitelist"] == "file" for _, options in opened)
    for url in ("http://127.0.0.1:9/x.mp4", "rtsp://127.0.0.1/x", str(tmp_path / "x.mp4")):
        assert refused(load_video, url) == refused(probe_video, url) == "not-allowed"


@pytest.mark.parametrize("limit", ["max_bytes", "max_pixels", "max_frames", "max_video_pixels", "max_seconds"])
def test_limits_must_be_above_zero(limit):
    with pytest.raises(InputError, match=limit):
        MediaLimits(**{limit: 0})


def test_media_kind_goes_by_content(tmp_path, media):
    still = Image.new("RGB", (8, 8))
    formats = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "MPO")
    expected = {media.image(still, name): "image" for name in formats}
    expected |= {media.animation(name): "animation" for name in ("GIF", "PNG", "WEBP", "AVIF")}
    expected |= {media.video(10, format=name): "video" for name in ("mp4", "mov", "matroska", "mpegts", "flv", "avi")}
    expected |= {
        media.image(still, "TIFF", save_all=True, append_images=[still]): "image",  # pages are no animation
        media.video(10, format="webm", codec="libvpx", b_frames=0): "video",
        media.video(10, format="mpeg", codec="mpeg2video"): "video",
        jpeg(media)[:100]: "image",
        b"%PDF-1.4\n" + JUNK: "pdf",
        b"BM is short for bookmark": "text",
        b"P5 is a paper size, the free one": "text",
        "für später".encode() * 2000: "text",  # a character lies across the 8 KiB mark
        HTML: "text",
        "latin: für".encode("latin-1"): "unknown",
        b"text\0with NUL": "unknown",
        b"\0\0\0\x18ftypheic" + bytes(20): "unknown",
        JUNK: "unknown",
    }
    path = tmp_path / "misleading.txt"
    for data, kind in expected.items():
        path.write_bytes(data)
        assert (media_kind(data), media_kind(path)) == (kind, kind), data[:40]


def test_no_model_library_is_imported():
    """Decoding workers start fast and small."""
    code = "import sys, tte_retriever.media; sys.exit(any(m in sys.modules for m in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def without_format(monkeypatch, name):
    """A Pillow that has no plugin for a format, as Pillow 11.0 has none for AVIF."""
    Image.init()
    monkeypatch.delitem(Image.OPEN, name)


def without_library(monkeypatch, name):
    """A Pillow that has the plugin for a format and was built without its library."""
    plugin = {"AVIF": "AvifImagePlugin", "WEBP": "WebPImagePlugin"}[name]
    monkeypatch.setattr(f"PIL.{plugin}.SUPPORTED", False)


def without_decoder(monkeypatch, name):
    monkeypatch.delattr(Image.core, {"JPEG": "jpeg_decoder", "JPEG2000": "jpeg2k_decoder", "PNG": "zip_decoder"}[name])


@pytest.mark.parametrize(
    ("remove", "format"),
    [
        *((without_format, name) for name in ("AVIF", "WEBP", "JPEG2000")),
        *((without_library, name) for name in ("AVIF", "WEBP")),
        *((without_decoder, name) for name in ("JPEG", "JPEG2000", "PNG")),
    ],
)
def test_a_format_that_pillow_was_built_without_is_unsupported_and_named(media, monkeypatch, remove, format):
    formats = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
    files = {name: media.image(Image.effect_noise((16, 16), 50), name) for name in formats}
    remove(monkeypatch, format)
    with pytest.raises(MediaError, match="Pillow was built without") as caught:
        load_image(files[format])
    assert caught.value.reason == "unsupported"
    assert format in str(caught.value) or remove is without_decoder
    assert all(load_image(files[name]).size == (16, 16) for name in formats if name != format)


def test_damage_is_still_called_corrupt_by_a_pillow_without_avif(media, monkeypatch):
    damaged = media.image(Image.effect_noise((64, 64), 50), "JPEG2000")[:100]
    without_format(monkeypatch, "AVIF")
    assert refused(load_image, damaged) == "corrupt"


@pytest.mark.skipif("libx264" not in av.codecs_available, reason="renames the codec of an H.264 file")
@pytest.mark.parametrize(("tag", "name"), [(b"evc1", "evc"), (b"xyz1", "xyz1")])
def test_a_codec_that_pyav_has_no_decoder_for_is_unsupported_and_named(media, tag, name):
    whole = media.video(5)
    start = whole.index(b"avc1", whole.index(b"stsd"))
    for _ in range(2):
        with pytest.raises(MediaError, match=f"codec {name}, which PyAV was built without") as caught:
            load_video(whole[:start] + tag + whole[start + 4 :])
        assert caught.value.reason == "unsupported"
    assert av.logging.get_level() is None
