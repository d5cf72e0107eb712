"""What a file is, told by its content and never by its name."""

from __future__ import annotations

from typing import Literal, TypeAlias

from tte_retriever.errors import MediaError
from tte_retriever.media.files import Source, read_head
from tte_retriever.media.images import is_animation
from tte_retriever.media.limits import DEFAULT_LIMITS, MediaLimits
from tte_retriever.media.signatures import kind_of

MediaKind: TypeAlias = Literal["image", "animation", "video", "pdf", "text", "unknown"]


def media_kind(source: Source, limits: MediaLimits = DEFAULT_LIMITS) -> MediaKind:
    """Tell what a file or byte string is, by its content.

    Nothing is decoded, so a file that is told to be an image may still turn out to be broken.

    Args:
        source: A path or the bytes themselves.
        limits: What may be opened.

    Returns:
        ``"animation"`` for an image of more than one frame shown one after the other (GIF, APNG, WebP, AVIF),
        ``"text"`` for UTF-8 without NUL in the first 8 KiB, and so on.

    Raises:
        MediaError: The source is missing, not a regular file, unreadable, empty or too large.
    """
    kind = kind_of(read_head(source, limits))
    if kind != "image":
        return kind
    try:
        return "animation" if is_animation(source, limits) else "image"
    except MediaError:  # an image by its signature; what is wrong with it is for the loader to say
        return "image"
