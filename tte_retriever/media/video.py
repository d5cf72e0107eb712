"""Sample frames of videos, with the times at which they appear."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from tte_retriever.errors import InputError, MediaError
from tte_retriever.media.animation import Animation, open_animation
from tte_retriever.media.container import Container, open_container
from tte_retriever.media.files import Source, describe, read_head, refuse_string
from tte_retriever.media.images import ImageLike, is_animation, load_image
from tte_retriever.media.limits import DEFAULT_LIMITS, MediaLimits
from tte_retriever.media.sampling import DEFAULT_SAMPLING, VideoSampling
from tte_retriever.media.signatures import kind_of

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from PIL import Image


@dataclass(frozen=True)
class VideoFrames:
    """Sampled frames of a video.

    Attributes:
        frames: RGB images of one size, in order.
        timestamps_s: The time at which each frame appeared, in seconds from the start of the video. Times never
            descend, and repeat where one frame was on screen at several sampled times.
        start_s: Start of the sampled part of the video, in seconds.
        end_s: End of the sampled part, in seconds.

    Example:
        >>> from PIL import Image
        >>> from tte_retriever.media import VideoFrames, typed_input
        >>> frames = VideoFrames((Image.new("RGB", (8, 8)),) * 2, timestamps_s=(0.0, 0.5), start_s=0.0, end_s=1.0)
        >>> typed_input(frames)["video"].timestamps_s
        (0.0, 0.5)
    """

    frames: tuple[Image.Image, ...]
    timestamps_s: tuple[float, ...]
    start_s: float
    end_s: float


@dataclass(frozen=True)
class VideoInfo:
    """The properties of a video file.

    Attributes:
        duration_s: Measured duration, in seconds.
        width: Displayed width, in pixels.
        height: Displayed height, in pixels.
        is_animation: Whether the file is an animated image and not a video container.

    Example:
        >>> from tte_retriever.media import VideoInfo
        >>> VideoInfo(duration_s=2.0, width=64, height=32, is_animation=False).duration_s
        2.0
    """

    duration_s: float
    width: int
    height: int
    is_animation: bool


VideoLike: TypeAlias = Path | bytes | Sequence[ImageLike] | np.ndarray | VideoFrames
"""What :func:`load_video` takes: an encoded video, a list of frames, an array (T, H, W, 3), or sampled frames."""


def probe_video(source: Source, limits: MediaLimits = DEFAULT_LIMITS) -> VideoInfo:
    """Measure a video file without sampling frames.

    Raises:
        MediaError: The source is not a usable video; ``reason`` says why.
        InputError: The source is neither a path nor bytes.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> from tte_retriever.media import probe_video
        >>> file, frames = io.BytesIO(), [Image.new("L", (64, 32), shade) for shade in (0, 90, 180)]
        >>> frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=500)
        >>> probe_video(file.getvalue())
        VideoInfo(duration_s=1.5, width=64, height=32, is_animation=True)
    """
    timeline, animated = _open_timeline(source, limits)
    with timeline as video:
        return VideoInfo(video.duration_s, *video.size, is_animation=animated)


def load_video(
    source: VideoLike,
    limits: MediaLimits = DEFAULT_LIMITS,
    *,
    sampling: VideoSampling = DEFAULT_SAMPLING,
    start_s: float = 0.0,
    end_s: float | None = None,
) -> VideoFrames:
    """Sample frames of a video by the rule of :class:`VideoSampling`.

    The frame at a time is the last one that appeared at or before it. Animated images count as videos. A list or array
    of frames is taken as ``1 / sampling.fps`` seconds apart and kept whole, or subsampled uniformly if there are more
    frames than allowed. :class:`VideoFrames` are kept or subsampled in the same way and keep their times.

    Args:
        source: A path, the bytes of a file, a sequence of images, an array (T, H, W, 3) or :class:`VideoFrames`.
        limits: What may be opened.
        sampling: How many frames to sample.
        start_s: Start of the sampled part, in seconds; files only.
        end_s: End of the sampled part, in seconds; ``None`` is the end of the video; files only.

    Raises:
        MediaError: The source is not a usable video; ``reason`` says why.
        InputError: The source is of another type, or ``start_s`` and ``end_s`` are not a part of the video.

    Example:
        >>> from PIL import Image
        >>> from tte_retriever.media import VideoSampling, load_video
        >>> frames = [Image.new("RGB", (64, 32), (shade, 0, 0)) for shade in range(0, 250, 25)]
        >>> load_video(frames, sampling=VideoSampling(fps=2.0, max_frames=4)).timestamps_s  # in seconds
        (0.5, 1.5, 3.0, 4.0)
    """
    if not isinstance(source, (Path, bytes)):
        if start_s != 0.0 or end_s is not None:
            raise InputError("start_s and end_s need a video file; slice a list of frames instead")
        return _from_frames(source, limits, sampling)
    timeline, _ = _open_timeline(source, limits)
    with timeline as video:
        stop_s = _stop(source, video.duration_s, start_s, end_s)
        instants = sampling.instants(start_s, stop_s, limits)
        _check_volume(len(instants), video.size, source, limits)
        taken = video.frames_at(instants)
    return VideoFrames(tuple(image for _, image in taken), tuple(time for time, _ in taken), start_s, stop_s)


def iterate_video(
    source: Source, limits: MediaLimits = DEFAULT_LIMITS, *, start_s: float = 0.0, end_s: float | None = None
) -> Iterator[tuple[float, Image.Image]]:
    """Yield every frame of a part of a video file, one at a time.

    Args:
        source: A path, or the bytes of a file.
        limits: What may be opened; the limits on the number of frames do not apply.
        start_s: As for :func:`load_video`.
        end_s: As for :func:`load_video`.

    Yields:
        The time at which a frame appeared, in seconds from the start of the video, and the frame as an RGB image. The
        first frame may have appeared before ``start_s``.

    Raises:
        MediaError: The source is not a usable video; ``reason`` says why.
        InputError: ``start_s`` and ``end_s`` are not a part of the video.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> from tte_retriever.media import iterate_video
        >>> file, frames = io.BytesIO(), [Image.new("L", (8, 8), shade) for shade in (0, 90, 180)]
        >>> frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=500)
        >>> [time_s for time_s, frame in iterate_video(file.getvalue(), start_s=0.5)]
        [0.5, 1.0]
    """
    timeline, _ = _open_timeline(source, limits)
    with timeline as video:
        yield from video.frames_between(start_s, _stop(source, video.duration_s, start_s, end_s))


def _open_timeline(source: Source, limits: MediaLimits) -> tuple[AbstractContextManager[Animation | Container], bool]:
    if isinstance(source, str):
        raise refuse_string("a video")
    if not isinstance(source, (Path, bytes)):
        raise InputError(f"{describe(source)} was given as a video file; give a pathlib.Path or bytes")
    if kind_of(read_head(source, limits)) != "image":
        return open_container(source, limits), False
    if not is_animation(source, limits):
        raise MediaError(f"{describe(source)} is a still image; give it as an image", "unsupported")
    return open_animation(source, limits), True


def _stop(source: Source, duration_s: float, start_s: float, end_s: float | None) -> float:
    if not (math.isfinite(start_s) and 0 <= start_s < max(duration_s, 1e-9)):
        message = f"start_s={start_s!r} is not within {describe(source)}, which lasts {duration_s:.3f} s"
        raise InputError(f"{message}; give 0 <= start_s < {duration_s:.3f}")
    if end_s is None:
        return duration_s
    if not end_s > start_s:
        raise InputError(f"end_s={end_s!r} is not after start_s={start_s!r}; give a later end or None")
    return min(end_s, duration_s)


def _from_frames(
    source: Sequence[ImageLike] | np.ndarray | VideoFrames, limits: MediaLimits, sampling: VideoSampling
) -> VideoFrames:
    given: Sequence[ImageLike]
    if isinstance(source, VideoFrames):
        given, times_s, start_s, end_s = source.frames, source.timestamps_s, source.start_s, source.end_s
    else:
        given = _frame_list(source)
        times_s, start_s, end_s = tuple(i / sampling.fps for i in range(len(given))), 0.0, len(given) / sampling.fps
    if not given:
        raise MediaError(f"{describe(source)} was given as a video and has no frames; give one or more", "empty")
    count = min(len(given), sampling.max_count(limits))
    kept = [int((i + 0.5) * len(given) / count) for i in range(count)]
    first = load_image(given[0], limits)
    _check_volume(count, first.size, source, limits)
    frames = tuple(load_image(given[i], limits) for i in kept)
    sizes = sorted({frame.size for frame in frames})
    if len(sizes) > 1:
        raise MediaError(f"the frames of a video have the sizes {sizes}; resize them to one size", "unsupported")
    return VideoFrames(frames, tuple(times_s[i] for i in kept), start_s, end_s)


def _frame_list(source: Sequence[ImageLike] | np.ndarray) -> Sequence[ImageLike]:
    if isinstance(source, str):
        raise refuse_string("a video")
    if isinstance(source, np.ndarray):
        if source.ndim == 4 and source.shape[-1] == 3:
            return list(source)
        message = f"an array of shape {source.shape} was given as a video; give (frames, height, width, 3)"
        raise MediaError(message, "unsupported")
    if isinstance(source, (list, tuple)):
        return source
    message = f"{describe(source)} was given as a video; give a pathlib.Path, bytes, a list of frames or an array"
    raise InputError(message)


def _check_volume(count: int, size: tuple[int, int], source: object, limits: MediaLimits) -> None:
    pixels = count * size[0] * size[1]
    if pixels > limits.max_video_pixels:
        message = (
            f"{count} frames of {size[0]}x{size[1]} from {describe(source)} are {pixels} pixels; at most "
            f"{limits.max_video_pixels} are held (MediaLimits.max_video_pixels); take fewer frames"
        )
        raise MediaError(message, "too-large")
