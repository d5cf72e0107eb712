"""Which frames of a video are sampled."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tte_retriever.errors import InputError

if TYPE_CHECKING:
    from tte_retriever.media.limits import MediaLimits


@dataclass(frozen=True)
class VideoSampling:
    """The rule for sampling frames uniformly.

    ``duration`` seconds of video give ``n = min(max(round(duration * fps), min_frames), limit)`` frames, where ``limit``
    is the smaller of ``max_frames`` and ``MediaLimits.max_frames``. They are the frames on screen at
    ``start + (i + 0.5) * duration / n``, the middle of each of ``n`` equal parts.

    Attributes:
        fps: Sampled frames per second.
        min_frames: Fewest sampled frames; a video with fewer repeats some.
        max_frames: Most sampled frames; with ``None`` only ``MediaLimits.max_frames`` applies.

    Raises:
        InputError: ``fps`` is not a finite number above 0, or a number of frames is below 1.

    Example:
        >>> from tte_retriever.media import DEFAULT_LIMITS, VideoSampling
        >>> VideoSampling(fps=1.0, min_frames=2).instants(0.0, 3.0, DEFAULT_LIMITS)  # in seconds
        [0.5, 1.5, 2.5]
    """

    fps: float = 2.0
    min_frames: int = 4
    max_frames: int | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise InputError(f"VideoSampling.fps is {self.fps!r}; give a finite number above 0")
        for name in ("min_frames", "max_frames"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"VideoSampling.{name} is {value!r}; give 1 or more")

    def max_count(self, limits: MediaLimits) -> int:
        """The most frames that may be sampled under ``limits``."""
        return limits.max_frames if self.max_frames is None else min(self.max_frames, limits.max_frames)

    def instants(self, start_s: float, end_s: float, limits: MediaLimits) -> list[float]:
        """The sampled times between ``start_s`` and ``end_s``, ascending, in seconds."""
        duration = end_s - start_s
        count = min(max(round(duration * self.fps), self.min_frames), self.max_count(limits))
        return [start_s + (i + 0.5) * duration / count for i in range(count)]


DEFAULT_SAMPLING = VideoSampling()
"""Two frames per second, at least four."""
