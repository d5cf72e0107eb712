"""Real media, made on the spot."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

H264 = "libx264" if "libx264" in av.codecs_available else "mpeg4"


def encode_image(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def encode_video(
    frames=50,
    *,
    fps=25,
    format="mp4",
    codec=H264,
    gop=250,
    b_frames=3,
    pts=None,
    x264="",
    rotate=None,
    audio=0,
    title="",
    options=None,
):
    """A bar grows from left to right and changes colour, so every frame differs; ``pts`` in ms, ``audio`` in seconds."""
    width, height = 64, 32
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=format, options=options or {}) as container:
        container.metadata["title"] = title
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = gop, b_frames
        stream.codec_context.time_base = Fraction(1, 1000) if pts else Fraction(1, fps)
        stream.options = {"x264-params": x264} if x264 else {}
        if audio:
            add_audio(container, audio)
        for index in range(frames):
            pixels = np.zeros((height, width, 3), np.uint8)
            pixels[:, : 1 + index * width // frames] = index * 255 // frames, 255 - index * 255 // frames, 128
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = (pts[index] if pts else index), stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    data = buffer.getvalue()
    return data if rotate is None else _rotated(data, rotate)


def encode_audio(*, cover=False):
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        if cover:  # a picture of the record, which players show as a still
            stream = container.add_stream("mjpeg", rate=1)
            stream.width, stream.height, stream.pix_fmt = 32, 32, "yuvj420p"
            stream.disposition = av.stream.Disposition.attached_pic
        add_audio(container, 1)
        if cover:
            container.mux(stream.encode(av.VideoFrame(32, 32, "yuvj420p")))
            container.mux(stream.encode())
    return buffer.getvalue()


def add_audio(container, seconds):
    stream = container.add_stream("aac", rate=16000)
    for index in range(16 * seconds):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1000), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, index * 1000
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def _rotated(data, quarter_turns_clockwise):
    """Write the matrix that phones write into the track header, independently of the library that reads it."""
    one = 0x10000
    a, b, c, d = {1: (0, one, -one, 0), 2: (-one, 0, 0, -one), 3: (0, -one, one, 0)}[quarter_turns_clockwise]
    matrix = np.array([a, b, 0, c, d, 0, 0, 0, 0x40000000], ">i4").tobytes()
    start = data.index(b"tkhd") + 4 + 40  # version-0 track header: the matrix follows 40 bytes of other fields
    return data[:start] + matrix + data[start + 36 :]


def animation(format, durations=(100, 0, 200), **options):
    frames = [Image.new("RGB", (20, 10), (index * 40, 0, 0)) for index in range(len(durations))]
    if format == "GIF":
        options["loop"] = 0
    if format == "WEBP":
        options["lossless"] = True
    return encode_image(
        frames[0], format, save_all=True, append_images=frames[1:], duration=list(durations), **options
    )


@pytest.fixture(scope="session")
def media():
    """The makers above, for tests (which do not import one another)."""
    from types import SimpleNamespace

    return SimpleNamespace(image=encode_image, video=encode_video, audio=encode_audio, animation=animation, h264=H264)
