"""How much of a stranger's media is opened, and in which formats."""

from __future__ import annotations

from dataclasses import dataclass, fields

from tte_retriever.errors import InputError
from tte_retriever.media.urls import check_host


@dataclass(frozen=True)
class MediaLimits:
    """Limits that every image and video is held to, as early as its headers allow.

    Attributes:
        max_bytes: Largest file or byte string, in bytes.
        max_pixels: Largest image or video frame, in pixels (width x height), checked before anything is decoded.
            Pillow itself opens nothing above about 178 million.
        max_frames: Most frames handed on per video; longer lists are subsampled uniformly.
        max_video_pixels: Most pixels of all frames handed on per video together; 3 bytes of memory each.
        max_seconds: Longest video, in seconds.
        max_url_seconds: Longest wait for a URL, in seconds.
        url_hosts: Hosts from which media given by URL is fetched: ``"example.com"`` for https, or an origin such as
            ``"http://127.0.0.1:8000"``. Empty, nothing is fetched. What is fetched is held in memory.
        image_formats: Pillow's names of the formats that are opened. Formats that run another program (EPS) or that
            need one of their own (SVG, PDF) do not belong here.
        video_formats: FFmpeg's names of the containers that are opened. Playlists (hls, dash, concat) do not belong
            here: they name other files.
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
            check_host(host)


DEFAULT_LIMITS = MediaLimits()
"""The limits that hold where none are given."""
