from __future__ import annotations

import io
import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tte_retriever.errors import InputError, MediaError, TTEError
from tte_retriever.media import MediaLimits
from tte_retriever_qdrant.clipping import write_clip

COLOURS = {"red": (220, 20, 20), "green": (20, 220, 20), "blue": (20, 20, 220)}


def encode(times_s, size=(64, 48), format="mp4", gop=12):
    """A video whose frames appear at these times, each of a brightness of its own."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=format) as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.gop_size = gop
        stream.codec_context.time_base = Fraction(1, 1000)
        for i, time_s in enumerate(times_s):
            frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), 20 * i, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(1000 * time_s), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def decode(path):
    """Times of the frames, their pixels, and how long the clip lasts."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert container.format.name.startswith("mov")
        assert stream.codec_context.name == "h264"
        frames = [(float(frame.time), frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)]
        return [time for time, _ in frames], [pixels for _, pixels in frames], container.duration / av.time_base


def numbers(frames):
    return [round(pixels.mean() / 20) for pixels in frames]


@pytest.mark.parametrize(
    ("start_s", "end_s", "colours", "duration_s"),
    [
        (0, 6, ["red"] * 25 + ["green"] * 5, 6.0),
        (6, 12, ["green"] * 20 + ["blue"] * 10, 6.0),
        (4.9, 5.3, ["red"] + ["green"] * 2, 0.4),  # the red frame appeared at 4.8 s, and is on screen at 4.9 s
        (12, 99, ["blue"] * 10, 2.0),
    ],
)
def test_the_cut_is_exact(tmp_path, clip_bytes, start_s, end_s, colours, duration_s):
    source = tmp_path / "source.mp4"
    source.write_bytes(clip_bytes)
    write_clip(source, tmp_path / "out.mp4", start_s, end_s)
    times, frames, lasts = decode(tmp_path / "out.mp4")
    nearest = [min(COLOURS, key=lambda name: abs(pixels.mean((0, 1)) - COLOURS[name]).sum()) for pixels in frames]
    assert nearest == colours
    assert lasts == pytest.approx(duration_s, abs=0.002)
    first = math.ceil(start_s * 5) / 5 if start_s != 4.9 else 5.0
    expected = [0.0, *(first + i / 5 - start_s for i in range(len(frames)))]
    assert times == pytest.approx(expected[: len(times)] if start_s == 4.9 else expected[1:], abs=0.001)


@pytest.mark.parametrize("format", ["mp4", "matroska"])
def test_frames_keep_their_own_times(tmp_path, format):
    """A recording of a screen: frames come when something happens, and keyframes are far apart."""
    times_s = [0, 0.1, 0.15, 2, 2.04, 2.08, 3.5, 5, 5.5, 5.51, 8]
    (tmp_path / "source").write_bytes(encode(times_s, format=format, gop=250))
    write_clip(tmp_path / "source", tmp_path / "out.mp4", 2.05, 5.505)
    times, frames, lasts = decode(tmp_path / "out.mp4")
    assert numbers(frames) == [4, 5, 6, 7, 8]
    assert times == pytest.approx([0, 0.03, 1.45, 2.95, 3.45], abs=0.002)
    assert lasts == pytest.approx(3.455, abs=0.002)


def test_odd_sizes_and_animations(tmp_path):
    pictures = [Image.new("RGB", (33, 21), (25 * i, 0, 0)) for i in range(8)]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=500)
    write_clip(tmp_path / "a.gif", tmp_path / "out.mp4", 1.0, 3.0)
    times, frames, lasts = decode(tmp_path / "out.mp4")
    assert times == pytest.approx([0, 0.5, 1.0, 1.5], abs=0.001)
    assert [round(pixels[..., 0].mean() / 25) for pixels in frames] == [2, 3, 4, 5]
    assert (frames[0].shape, lasts) == ((20, 32, 3), 2.0)


@pytest.mark.parametrize(
    ("target", "said"),
    [("out.mkv", "named .mp4"), ("there.mp4", "exists already"), ("none/out.mp4", "folder that does not exist")],
)
def test_targets_that_are_refused(tmp_path, clip_bytes, target, said):
    (tmp_path / "there.mp4").write_bytes(clip_bytes)
    with pytest.raises(InputError, match=said):
        write_clip(tmp_path / "there.mp4", tmp_path / target, 0, 6)
    assert (tmp_path / "there.mp4").read_bytes() == clip_bytes


def test_sources_that_are_refused_leave_nothing_behind(tmp_path, clip_bytes):
    good, cut, text = tmp_path / "good.mp4", tmp_path / "cut.mp4", tmp_path / "text.mp4"
    good.write_bytes(clip_bytes)
    cut.write_bytes(clip_bytes[: len(clip_bytes) // 2])
    text.write_text("no video")
    before = set(tmp_path.iterdir())
    for source, limits, error in (
        (cut, MediaLimits(), MediaError),
        (text, MediaLimits(), MediaError),
        (tmp_path / "none.mp4", MediaLimits(), MediaError),
        (good, MediaLimits(max_seconds=5), MediaError),
        (good, MediaLimits(max_pixels=100), MediaError),
    ):
        with pytest.raises(error):
            write_clip(source, tmp_path / "out.mp4", 0, 6, limits)
    with pytest.raises(InputError, match="start_s"):
        write_clip(good, tmp_path / "out.mp4", 20, 26)
    assert set(tmp_path.iterdir()) == before


def test_a_disk_that_is_full(tmp_path, clip_bytes, monkeypatch):
    (tmp_path / "good.mp4").write_bytes(clip_bytes)
    opened = Path.open

    def full(path, mode="r", *args, **kwargs):
        return (
            opened(Path("/dev/full"), mode)
            if path.name.startswith(".partial-")
            else opened(path, mode, *args, **kwargs)
        )

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(TTEError, match="cannot be written"):
        write_clip(tmp_path / "good.mp4", tmp_path / "out.mp4", 0, 6)
    assert [path.name for path in tmp_path.iterdir()] == ["good.mp4"]
