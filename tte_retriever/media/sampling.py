"""Which moments of a video are looked at."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tte_retriever.errors import InputError

if TYPE_CHECKING:
    from tte_retriever.media.limits import MediaLimits


@dataclass(frozen=True)
class VideoSampling:
    """The uniform sampling rule.

    A stretch of ``duration`` seconds gets ``n = clamp(round(duration * fps), min_frames, most)`` frames, where ``most``
    is the smaller of ``max_frames`` and ``MediaLimits.max_frames`` and wins over ``min_frames``. They are what is on
    screen at ``start + (i + 0.5) * duration / n``: the middle of each of ``n`` equal parts.

    Attributes:
        fps: Frames taken per second.
        min_frames: Fewest frames taken; of a video with fewer, some are taken more than once.
        max_frames: Most frames taken; ``None`` leaves it to the limits.
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

    def most(self, limits: MediaLimits) -> int:
        """The most frames that may be taken under ``limits``."""
        return limits.max_frames if self.max_frames is None else min(self.max_frames, limits.max_frames)

    def instants(self, start_s: float, end_s: float, limits: MediaLimits) -> list[float]:
        """The moments to look at between ``start_s`` and ``end_s``, ascending, in seconds."""
        duration = end_s - start_s
        count = min(max(round(duration * self.fps), self.min_frames), self.most(limits))
        return [start_s + (i + 0.5) * duration / count for i in range(count)]


DEFAULT_SAMPLING = VideoSampling()
"""Two frames per second, at least four."""
