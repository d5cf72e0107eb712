"""Decode animated images (GIF, APNG, WebP, AVIF) as videos, with Pillow."""

from __future__ import annotations

from bisect import bisect_right
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tte_retriever.errors import MediaError
from tte_retriever.media.files import Source, corrupt_if_it_fails, describe
from tte_retriever.media.images import check_size, open_image, upright_rgb

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from PIL import Image

    from tte_retriever.media.limits import MediaLimits

_DEFAULT_FRAME_MS = 100.0  # browsers show a frame of 0 ms for this long


class Animation:
    """The frames of an animated image, with times from 0; made by :func:`open_animation`."""

    def __init__(self, image: Image.Image, source: Source, limits: MediaLimits) -> None:
        self._image, self._source, self._limits = image, source, limits
        # The first image of an APNG may be a fallback for viewers without animation.
        first = 1 if getattr(image, "default_image", False) else 0
        self._indices = range(first, getattr(image, "n_frames", 1))
        self.size = image.size
        self._starts_s, self.duration_s = self._timeline()

    def frames_at(self, instants_s: Sequence[float]) -> list[tuple[float, Image.Image]]:
        """Return the frame on screen at each ascending instant, with the time when it appeared, in seconds."""
        wanted = [max(bisect_right(self._starts_s, instant) - 1, 0) for instant in instants_s]
        frames: dict[int, Image.Image] = {}
        for position in sorted(set(wanted)):
            self._show(position)
            frames[position] = upright_rgb(self._image)
        return [(self._starts_s[position], frames[position]) for position in wanted]

    def frames_between(self, start_s: float, end_s: float) -> Iterator[tuple[float, Image.Image]]:
        """Yield every frame on screen between two times, with the time when it appeared, in seconds."""
        for position in range(max(bisect_right(self._starts_s, start_s) - 1, 0), len(self._starts_s)):
            if self._starts_s[position] >= end_s:
                return
            self._show(position)
            yield self._starts_s[position], upright_rgb(self._image)

    def _timeline(self) -> tuple[list[float], float]:
        starts: list[float] = []
        now_ms = 0.0
        for position in range(len(self._indices)):
            self._show(position)  # some formats give the duration of a frame only when it is decoded
            starts.append(now_ms / 1000)
            now_ms += self._image.info.get("duration") or _DEFAULT_FRAME_MS
            if now_ms > 1000 * self._limits.max_seconds:
                message = f"{describe(self._source)} lasts more than {self._limits.max_seconds} s"
                raise MediaError(f"{message} (MediaLimits.max_seconds)", "too-large")
        return starts, now_ms / 1000

    def _show(self, position: int) -> None:
        self._image.seek(self._indices[position])
        check_size(self._image.size, self._source, self._limits)  # frames of a GIF may be larger than the first
        self._image.load()


@contextmanager
def open_animation(source: Source, limits: MediaLimits) -> Iterator[Animation]:
    """Open an animated image.

    Raises:
        MediaError: ``unsupported`` (a still image), ``corrupt`` or ``too-large``.
    """
    with open_image(source, limits) as image, corrupt_if_it_fails(source):
        yield Animation(image, source, limits)
