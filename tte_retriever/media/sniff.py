"""Detect the kind of a file by its content, never by its name."""

from __future__ import annotations

from typing import Literal, TypeAlias

from tte_retriever.errors import MediaError
from tte_retriever.media.files import Source, read_head
from tte_retriever.media.images import is_animation
from tte_retriever.media.limits import DEFAULT_LIMITS, MediaLimits
from tte_retriever.media.signatures import kind_of

MediaKind: TypeAlias = Literal["image", "animation", "video", "pdf", "text", "unknown"]


def media_kind(source: Source, limits: MediaLimits = DEFAULT_LIMITS) -> MediaKind:
    """Detect what a file or byte string is, by its content.

    No pixels are decoded, so an ``"image"`` may still be broken.

    Args:
        source: A path or the bytes themselves.
        limits: What may be opened.

    Returns:
        ``"image"``, ``"animation"`` (a GIF, APNG, WebP or AVIF with several frames), ``"video"``, ``"pdf"``, ``"text"``
        (UTF-8 without NUL in the first 8 KiB) or ``"unknown"``.

    Raises:
        MediaError: The source is missing, not a regular file, unreadable, empty or too large.

    Example:
        >>> from tte_retriever.media import media_kind
        >>> media_kind(b"%PDF-1.7"), media_kind(b"plain words")
        ('pdf', 'text')
    """
    kind = kind_of(read_head(source, limits))
    if kind != "image":
        return kind
    try:
        return "animation" if is_animation(source, limits) else "image"
    except MediaError:  # the loader raises the precise error
        return "image"
