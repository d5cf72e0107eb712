"""Write a stretch of a video to a new file."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import av

from tte_retriever.atomic import atomic_write
from tte_retriever.errors import InputError, TTEError
from tte_retriever.media import DEFAULT_LIMITS, MediaLimits, iterate_video, probe_video

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from av.container import OutputContainer
    from av.packet import Packet
    from PIL import Image

_TIME_BASE = Fraction(1, 90_000)  # MPEG's: usual frame durations are whole multiples of it
_QUALITY = {"crf": "18"}  # of H.264: no visible loss


def check_target(target: Path) -> None:
    """Refuse a file name that cannot become a clip, before any work is done.

    Raises:
        InputError: The suffix is not ``.mp4``, the file exists, or its folder does not.
    """
    if target.suffix.lower() != ".mp4":
        raise InputError(f"the clip {str(target)!r} is not named .mp4, which is its format; give such a name")
    if target.exists():
        raise InputError(f"the clip {str(target)!r} exists already; give another name, or remove it first")
    if not target.parent.is_dir():
        raise InputError(f"the clip {str(target)!r} is in a folder that does not exist; make it, or give another")


def write_clip(source: Path, target: Path, start_s: float, end_s: float, limits: MediaLimits = DEFAULT_LIMITS) -> None:
    """Write a part of a video or an animation as MP4 (H.264), cut exactly, with the frames' own times and no sound.

    The frames are encoded again, because a copied stream has to start at a keyframe.

    Args:
        source: The video.
        target: A new file; nothing is left of it if writing fails.
        start_s: Start, in seconds; the frame that is on screen then is the first one.
        end_s: End, in seconds; at most the end of the video is used.
        limits: Largest media that may be opened.

    Raises:
        MediaError: The video cannot be used.
        InputError: ``start_s`` and ``end_s`` make no sense, or ``target`` is refused.
        TTEError: The file cannot be written.
    """
    check_target(target)
    end_s = min(end_s, probe_video(source, limits).duration_s)
    frames = iterate_video(source, limits, start_s=start_s, end_s=end_s)
    try:
        with atomic_write(target) as draft, draft.open("wb") as file, av.open(file, "w", format="mp4") as container:
            _encode(frames, container, start_s, end_s)
    except (OSError, av.FFmpegError) as error:
        raise TTEError(f"the clip {str(target)!r} cannot be written: {error.strerror or error}") from error


def _encode(
    frames: Iterator[tuple[float, Image.Image]], container: OutputContainer, start_s: float, end_s: float
) -> None:
    time_s, image = next(frames)
    stream = container.add_stream("libx264", options=_QUALITY)
    # This pixel format halves the resolution of colours, so width and height have to be even.
    stream.width, stream.height = (max(2, side - side % 2) for side in image.size)
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = _TIME_BASE
    stream.codec_context.max_b_frames = 0  # packets come in the order of frames, so each lasts until the next
    waiting: list[Packet] = []

    def put(packets: list[Packet]) -> None:
        for packet in packets:
            if waiting:
                last = waiting.pop()
                last.duration = (packet.pts or 0) - (last.pts or 0)
                container.mux(last)
            waiting.append(packet)

    latest = -1
    while True:
        ticks = max(0, round((time_s - start_s) / _TIME_BASE))
        if ticks > latest:  # some files have several frames at one time; one is enough
            frame = av.VideoFrame.from_image(image).reformat(stream.width, stream.height, "yuv420p")
            frame.pts, frame.time_base = ticks, _TIME_BASE
            put(stream.encode(frame))
            latest = ticks
        following = next(frames, None)
        if following is None:
            break
        time_s, image = following
    put(stream.encode())
    last = waiting.pop()
    last.duration = max(1, round((end_s - start_s) / _TIME_BASE) - latest)
    container.mux(last)
