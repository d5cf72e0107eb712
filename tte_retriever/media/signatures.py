"""Recognise files by their first bytes."""

from __future__ import annotations

import codecs
import re
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["image", "video", "pdf", "text", "unknown"]

_ISO_OTHER_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1", b"M4A ", b"M4B ")
_QUICKTIME_ATOMS = (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")

_IMAGES: tuple[tuple[str, bytes], ...] = (  # by Pillow's names
    ("PNG", rb"\x89PNG\r\n\x1a\n"),
    ("JPEG", rb"\xff\xd8\xff"),
    ("GIF", rb"GIF8[79]a"),
    ("WEBP", rb"RIFF....WEBP"),
    ("TIFF", rb"II(\*\x00|\x2b\x00)|MM(\x00\*|\x00\x2b)"),  # with BigTIFF
    ("JPEG2000", rb"\x00\x00\x00\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
    ("PPM", rb"P[1-6]\s+(#[^\n]*\n\s*)*\d+\s+(#[^\n]*\n\s*)*\d+\s|P[fF]\s+\d+\s+\d+\s"),  # with PBM, PGM and PFM
    ("BMP", rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\x00\x00\x00"),  # the size of a known header
    ("AVIF", rb"\x00.{3}ftypavi[fs]"),
)
_OTHERS: tuple[tuple[Kind, bytes], ...] = (
    ("video", rb"\x1a\x45\xdf\xa3"),  # Matroska, WebM
    ("video", rb"RIFF....AVI "),
    ("video", rb"FLV\x01"),
    ("video", rb"OggS\x00"),
    ("video", rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),  # ASF, WMV
    ("video", rb"\x00\x00\x01[\xba\xb3]"),  # MPEG program stream
    ("video", rb"\x47.{187}\x47.{187}\x47|.{4}\x47.{191}\x47.{191}\x47"),  # MPEG transport stream, M2TS
    ("pdf", rb"(\xef\xbb\xbf)?\s*%PDF-"),
)


def kind_of(head: bytes) -> Kind:
    """Recognise the kind of a file by its first bytes.

    Args:
        head: The first 8 KiB of the file, or all of a shorter one.

    Returns:
        ``"image"`` for the image formats of the default limits, still or animated; ``"video"`` for video containers;
        ``"pdf"``; ``"text"`` for UTF-8 without NUL, which includes HTML, SVG and PostScript; else ``"unknown"``.
    """
    if image_format(head):
        return "image"
    for kind, pattern in _OTHERS:
        if re.match(pattern, head, re.DOTALL):
            return kind
    if _is_text(head):
        return "text"
    if head[4:8] == b"ftyp":
        return "unknown" if head[8:12] in _ISO_OTHER_BRANDS else "video"
    return "video" if head[4:8] in _QUICKTIME_ATOMS else "unknown"


def image_format(head: bytes) -> str | None:
    """Pillow's name of the image format that starts with these bytes, or ``None``."""
    return next((name for name, pattern in _IMAGES if re.match(pattern, head, re.DOTALL)), None)


def _is_text(head: bytes) -> bool:
    if not head or b"\0" in head:
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # incremental: a character may be cut at the end of head
    except UnicodeDecodeError:
        return False
    return True
