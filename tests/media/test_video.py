from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from tte_retriever.errors import InputError, MediaError
from tte_retriever.media import DEFAULT_LIMITS, MediaLimits, VideoSampling, iterate_video, load_video, probe_video
from tte_retriever.media.container import open_container

VFR_MS = np.cumsum([0, 40, 2000, 7, 40, 3000, 33, 33, 500, 40, 1500, 100]).tolist()

LAYOUTS = {
    "one keyframe": {"gop": 250},
    "B-frames": {"gop": 10},
    "open GOP": {"gop": 12, "x264": "open-gop=1:scenecut=0"},
    "no keyframe but the first": {"gop": 12, "x264": "intra-refresh=1"},
    "variable rate": {"gop": 3, "frames": 12, "pts": VFR_MS},
    "no B-frames": {"gop": 5, "b_frames": 0},
    "with audio": {"gop": 10, "audio": 3},
}


def shown(data, instants, *, seek):
    with open_container(data, DEFAULT_LIMITS) as container:
        return [(time, image.tobytes()) for time, image in container.frames_at(instants, seek=seek)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "format", ["mp4", *(pytest.param(name, marks=pytest.mark.slow) for name in ("matroska", "mpegts", "avi"))]
)
def test_seeking_gives_the_frames_of_a_full_decode(media, format, layout):
    data = media.video(**{"frames": 75, "format": format, **LAYOUTS[layout]})
    duration = probe_video(data).duration_s
    for count in (1, 4, 40):  # farther apart than the keyframes, and much closer
        instants = [(i + 0.5) * duration / count for i in range(count)]
        frames = shown(data, instants, seek=True)
        assert frames == shown(data, instants, seek=False)
        assert [time for time, _ in frames] == sorted(time for time, _ in frames)


def test_seeking_decodes_less(media, monkeypatch):
    from tte_retriever.media import container

    decoded = []
    real = container._Reader.frames
    monkeypatch.setattr(
        container._Reader, "frames", lambda self, *a: (decoded.append(frame) or frame for frame in real(self, *a))
    )
    data = media.video(200, gop=20)
    counts = []
    for seek in (True, False):
        decoded.clear()
        shown(data, [7.0, 7.9], seek=seek)
        counts.append(len(decoded))
    assert counts[0] < 45 < 175 < counts[1]


def test_the_frame_at_an_instant_is_the_last_that_appeared(media):
    data = media.video(12, pts=VFR_MS)
    starts = [ms / 1000 for ms in VFR_MS]
    instants = [*starts, *(start + 0.003 for start in starts)]
    for instant in sorted(instants):
        ((time, _),) = shown(data, [instant], seek=True)
        assert time == max(start for start in starts if start <= instant)


def test_times_of_a_clip_with_a_variable_frame_rate_are_exact(media):
    """Counting frames would be seconds off. The bar in frame i of 12 is 1 + i * 64 // 12 pixels wide."""
    video = load_video(media.video(12, format="matroska", pts=VFR_MS), sampling=VideoSampling(fps=50))
    widths = {t: bar_width(frame) for t, frame in zip(video.timestamps_s, video.frames, strict=True)}
    assert {0.04, 2.087, 5.153, 5.693} <= set(widths)  # those that stay long enough to be sampled
    assert all(widths[t] == pytest.approx(1 + VFR_MS.index(round(t * 1000)) * 64 // 12, abs=2) for t in widths)
    assert video.end_s == pytest.approx(VFR_MS[-1] / 1000, abs=0.2)


def bar_width(frame):
    return int((np.asarray(frame)[16, :, 2] > 64).sum())


def test_frames_show_what_they_should(media):
    """The bar in frame i of n is 1 + i * width // n pixels wide."""
    video = load_video(media.video(64, fps=16), sampling=VideoSampling(fps=2))
    widths = [bar_width(frame) for frame in video.frames]
    assert widths == pytest.approx([1 + time * 16 for time in video.timestamps_s], abs=2)
    assert video.timestamps_s == pytest.approx([0.25 + 0.5 * i for i in range(8)])


@pytest.mark.parametrize("first_ms", [0, 5000])
@pytest.mark.parametrize("format", ["mp4", "mov", "matroska", "mpegts", "flv", "asf"])
def test_time_starts_at_the_first_frame(media, format, first_ms):
    codec = "mpeg4" if format == "asf" else media.h264
    data = media.video(200, format=format, codec=codec, b_frames=0, pts=[first_ms + 40 * i for i in range(200)])
    info = probe_video(data)
    assert (info.width, info.height, info.is_animation) == (64, 32, False)
    assert info.duration_s == pytest.approx(8.0, abs=0.05)
    assert load_video(data).timestamps_s == pytest.approx(
        [0.24 + 0.5 * i - (i % 2) * 0.02 for i in range(16)], abs=0.002
    )


@pytest.mark.parametrize("format", ["avi", "mpeg"])
def test_containers_without_times_of_their_own(media, format):
    """Their times are made up on reading, to within the frames that are decoded ahead."""
    data = media.video(200, format=format, codec="mpeg2video" if format == "mpeg" else "mpeg4")
    assert probe_video(data).duration_s == pytest.approx(8.0, abs=0.09)
    assert load_video(data).timestamps_s == pytest.approx([0.25 + 0.5 * i for i in range(16)], abs=0.09)


@pytest.mark.parametrize("format", ["mp4", "matroska", "mpegts", "flv"])
def test_longer_audio_does_not_change_the_duration(media, format):
    assert probe_video(media.video(50, format=format, audio=8)).duration_s == pytest.approx(2.0, abs=0.1)


def test_a_recording_without_a_declared_duration(media):
    data = media.video(50, format="matroska", gop=10, options={"live": "1"})
    assert probe_video(data).duration_s == pytest.approx(2.0)
    assert load_video(data).timestamps_s == pytest.approx([0.24, 0.72, 1.24, 1.72])


def test_tags_that_are_not_utf8_do_not_matter(media):
    data = media.video(10, format="matroska", title="abcXdef").replace(b"abcXdef", b"abc\xe9def")
    assert b"abc\xe9def" in data
    assert len(load_video(data).frames) == 4


@pytest.mark.parametrize(
    ("sampling", "limit", "count"),
    [
        (VideoSampling(), 64, 4),  # 2 s at 2 fps
        (VideoSampling(fps=10), 64, 20),
        (VideoSampling(fps=0.1), 64, 4),
        (VideoSampling(fps=0.1, min_frames=1), 64, 1),
        (VideoSampling(fps=10, max_frames=7), 64, 7),
        (VideoSampling(fps=10), 5, 5),
        (VideoSampling(min_frames=9, max_frames=3), 64, 3),
        (VideoSampling(fps=100), 64, 64),  # more than there are: some twice
    ],
)
def test_the_sampling_rule(media, sampling, limit, count):
    video = load_video(media.video(50), MediaLimits(max_frames=limit), sampling=sampling)
    assert len(video.frames) == len(video.timestamps_s) == count
    middles = [(i + 0.5) * 2.0 / count for i in range(count)]
    assert video.timestamps_s == pytest.approx([int(m * 25 + 1e-6) / 25 for m in middles])


def test_a_part_of_a_video(media):
    data = media.video(100)
    video = load_video(data, start_s=1.0, end_s=3.0)
    assert (video.start_s, video.end_s) == (1.0, 3.0)
    assert video.timestamps_s == pytest.approx([1.24, 1.72, 2.24, 2.72])
    assert load_video(data, start_s=3.5, end_s=99).end_s == pytest.approx(4.0)
    for start, end in ((4.0, None), (-1.0, None), (2.0, 2.0), (float("nan"), None), (0.0, float("nan"))):
        with pytest.raises(InputError, match="give"):
            load_video(data, start_s=start, end_s=end)
    with pytest.raises(InputError, match="video file"):
        load_video([Image.new("L", (4, 4))], start_s=1.0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "format", ["mp4", *(pytest.param(name, marks=pytest.mark.slow) for name in ("matroska", "avi"))]
)
def test_every_frame_of_a_part(media, format, layout):
    data = media.video(**{"frames": 75, "format": format, **LAYOUTS[layout]})
    every = list(iterate_video(data))
    assert len(every) == (12 if layout == "variable rate" else 75)
    times = [time for time, _ in every]
    duration = probe_video(data).duration_s
    for start, end in ((0.4 * duration, 0.7 * duration), (times[5], times[9]), (0.9 * duration, None)):
        first = max(i for i, time in enumerate(times) if time <= start + 1e-6)
        expected = [frame for frame in every[first:] if frame[0] < (end or duration) - 1e-6]
        found = list(iterate_video(data, start_s=start, end_s=end))
        assert [time for time, _ in found] == [time for time, _ in expected]
        assert [image.tobytes() for _, image in found] == [image.tobytes() for _, image in expected]


def test_every_frame_of_a_stretch_of_an_animation(media):
    data = media.animation("GIF", [100, 100, 200, 300, 500])
    frames = [
        (round(time, 3), image.getpixel((5, 5))[0]) for time, image in iterate_video(data, start_s=0.15, end_s=0.4)
    ]
    assert frames == [(0.1, 40), (0.2, 80)]
    assert len(list(iterate_video(data, start_s=0.4))) == 2
    with pytest.raises(InputError, match="start_s"):
        list(iterate_video(data, start_s=9))


@pytest.mark.parametrize(("turns", "corner"), [(1, "top"), (2, "right"), (3, "bottom")])
def test_rotation_in_the_metadata_is_applied(media, turns, corner):
    """The bar grows from the left: after one turn clockwise the left is on top."""
    data = media.video(20, rotate=turns)
    pixels = np.asarray(load_video(data).frames[1])
    info = probe_video(data)
    assert pixels.shape[:2] == ((32, 64) if turns == 2 else (64, 32)) == (info.height, info.width)
    edges = {"top": pixels[2], "bottom": pixels[-3], "left": pixels[:, 2], "right": pixels[:, -3]}
    assert max(edges, key=lambda edge: edges[edge].mean()) == corner


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_animations_are_videos(media, format):
    data = media.animation(format, [100, 0, 200, 300, 500])
    info = probe_video(data)
    assert (info.duration_s, info.width, info.height, info.is_animation) == (1.2, 20, 10, True)  # 0 ms count as 100
    video = load_video(data, sampling=VideoSampling(fps=20))
    frames_of = dict(zip(video.timestamps_s, video.frames, strict=True))
    assert {time: frame.getpixel((5, 5)) for time, frame in frames_of.items()} == {
        0.0: (0, 0, 0), 0.1: (40, 0, 0), 0.2: (80, 0, 0), 0.4: (120, 0, 0), 0.7: (160, 0, 0)
    }  # fmt: skip
    assert [video.timestamps_s.count(time) for time in sorted(frames_of)] == [2, 2, 4, 6, 10]


def test_the_fallback_image_of_an_apng_is_not_a_frame(media):
    data = media.animation("PNG", [100, 100, 100], default_image=True)
    assert probe_video(data).duration_s == pytest.approx(0.2)
    assert load_video(data).frames[0].getpixel((0, 0)) == (40, 0, 0)


def test_frames_pass_through():
    frames = [Image.new("RGB", (6, 4), (i, 0, 0)) for i in range(10)]
    for given in (frames, tuple(frames), np.stack([np.asarray(frame) for frame in frames])):
        video = load_video(given)
        assert [frame.getpixel((0, 0))[0] for frame in video.frames] == list(range(10))
        assert video.timestamps_s == tuple(i / 2 for i in range(10))
        assert (video.start_s, video.end_s) == (0.0, 5.0)
    fewer = load_video(frames, MediaLimits(max_frames=4))
    assert [frame.getpixel((0, 0))[0] for frame in fewer.frames] == [1, 3, 6, 8]
    assert fewer.timestamps_s == (0.5, 1.5, 3.0, 4.0)
    assert load_video(fewer) == fewer


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ([], MediaError),
        (np.zeros((0, 4, 4, 3), np.uint8), MediaError),
        (np.zeros((4, 4, 3), np.uint8), MediaError),
        ([Image.new("L", (4, 4)), Image.new("L", (5, 4))], MediaError),
        (["frame-1.png"], MediaError),
        (Image.new("L", (4, 4)), InputError),
        (None, InputError),
        (7, InputError),
    ],
)
def test_unusable_frames_are_refused(given, error):
    with pytest.raises(error):
        load_video(given)


@pytest.mark.parametrize("wrong", [{"fps": 0}, {"fps": float("nan")}, {"min_frames": 0}, {"max_frames": 0}])
def test_invalid_sampling_is_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        VideoSampling(**wrong)


def test_a_stream_that_changes_its_size(media):
    data = growing_video()
    video = load_video(data)
    assert {frame.size for frame in video.frames} == {(32, 16)}
    with pytest.raises(MediaError) as caught:
        load_video(data, MediaLimits(max_pixels=32 * 16))
    assert caught.value.reason == "too-large"


def growing_video():
    """One Motion-JPEG stream whose second half is twice as large as its header says."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        stream = container.add_stream("mjpeg", rate=5)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuvj420p"
        for index in range(10):
            jpeg = io.BytesIO()
            Image.new("RGB", (32, 16) if index < 5 else (64, 32)).save(jpeg, "JPEG", subsampling="4:2:0")
            packet = av.Packet(jpeg.getvalue())
            packet.pts = packet.dts = index
            packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 5), stream, True
            container.mux(packet)
    return buffer.getvalue()
