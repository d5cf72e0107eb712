"""The formats and codecs that the installed Pillow and PyAV were built without, by name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import av
from PIL import Image

from tte_retriever.media.signatures import image_format

if TYPE_CHECKING:
    from collections.abc import Iterable

    from av.container import InputContainer


def registered_formats(formats: Iterable[str]) -> tuple[str, ...]:
    """The image formats among ``formats`` that Pillow has a plugin for; ``Image.open`` fails at any other name."""
    Image.init()
    return tuple(name for name in formats if name.upper() in Image.OPEN)


def missing_format(head: bytes) -> str | None:
    """The format of an image by its first bytes, if Pillow was built without that format."""
    name = image_format(head)
    if name is None or not registered_formats([name]):
        return name
    accept = Image.OPEN[name][1]
    return name if accept and isinstance(accept(head[:16]), str) else None  # a str says which support is missing


def missing_decoder(error: Exception) -> str | None:
    """The decoder that Pillow was built without, if an image could not be decoded for want of it."""
    found = re.fullmatch(r"decoder (\w+) not available", str(error))
    return found[1] if found else None


def video_codecs(container: InputContainer) -> str:
    """The codecs of a container's video streams. PyAV names those without a decoder only in FFmpeg's description."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    try:
        description = container.dumps_format()  # type: ignore[attr-defined]  # PyAV has no stub of it
    finally:
        av.logging.set_level(level)
    names = re.findall(r"Video: (?:none \((\S+)|(\w+))", description)
    return ", ".join(tag or name for tag, name in names)
