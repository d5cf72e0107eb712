"""How large media may be, which formats are opened, and which hosts media is fetched from."""

from __future__ import annotations

from dataclasses import dataclass, fields

from tte_retriever.errors import InputError
from tte_retriever.media.origins import parse_origin


@dataclass(frozen=True)
class MediaLimits:
    """Limits for every image and video, checked as early as the headers of a file allow.

    Attributes:
        max_bytes: Size of the largest file or byte string, in bytes.
        max_pixels: Size of the largest image or video frame, in pixels (width x height), checked before decoding.
            Pillow itself opens nothing above about 178 million pixels.
        max_frames: Most frames returned per video; longer lists are subsampled uniformly.
        max_video_pixels: Most pixels of all returned frames of a video together; each takes 3 bytes of memory.
        max_seconds: Duration of the longest video, in seconds.
        max_url_seconds: Timeout of a whole download, in seconds.
        url_hosts: Hosts from which media given by URL is fetched: ``"example.com"`` for https, or an origin such as
            ``"http://127.0.0.1:8000"``. With the empty default nothing is fetched. Downloads are held in memory.
        image_formats: The image formats that are opened, by Pillow's names. Do not add formats that run another program
            (EPS) or that Pillow does not read (SVG, PDF).
        video_formats: The containers that are opened, by FFmpeg's names. Do not add playlists (hls, dash, concat): they
            name other files.

    Raises:
        InputError: A limit is not above 0, or ``url_hosts`` holds something other than hosts and origins.

    Example:
        >>> from tte_retriever import MediaError, MediaLimits
        >>> from tte_retriever.media import load_image
        >>> from PIL import Image
        >>> try:
        ...     load_image(Image.new("RGB", (640, 480)), MediaLimits(max_pixels=100_000))
        ... except MediaError as error:
        ...     print(error.reason)
        too-large
    """

    max_bytes: int = 2 * 1024**3
    max_pixels: int = 64_000_000
    max_frames: int = 64
    max_video_pixels: int = 600_000_000
    max_seconds: float = 4 * 3600.0
    max_url_seconds: float = 30.0
    url_hosts: frozenset[str] = frozenset()
    image_formats: tuple[str, ...] = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
    video_formats: tuple[str, ...] = ("mov", "matroska", "avi", "flv", "ogg", "mpegts", "mpeg", "asf")

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.startswith("max_") and not value > 0:
                raise InputError(f"MediaLimits.{field.name} is {value!r}; give a number above 0")
        if isinstance(self.url_hosts, str):
            raise InputError(
                f"MediaLimits.url_hosts is {self.url_hosts!r}; give a set of hosts, frozenset({{'example.com'}})"
            )
        object.__setattr__(self, "url_hosts", frozenset(self.url_hosts))
        for host in self.url_hosts:
            parse_origin(host)


DEFAULT_LIMITS = MediaLimits()
"""The limits of every function that is called without any."""
