"""The kinds of media, told by their first bytes."""

from __future__ import annotations

import codecs
import re
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["image", "video", "pdf", "text", "unknown"]

_ISO_IMAGE_BRANDS = (b"avif", b"avis")
_ISO_OTHER_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1", b"M4A ", b"M4B ")
_QUICKTIME_ATOMS = (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_BMP_HEADER_SIZES = (12, 40, 52, 56, 64, 108, 124)

_SIGNATURES: tuple[tuple[bytes, Kind], ...] = (
    (rb"\x89PNG\r\n\x1a\n", "image"),
    (rb"\xff\xd8\xff", "image"),  # JPEG
    (rb"GIF8[79]a", "image"),
    (rb"RIFF....WEBP", "image"),
    (rb"II(\*\x00|\x2b\x00)|MM(\x00\*|\x00\x2b)", "image"),  # TIFF, BigTIFF
    (rb"\x00\x00\x00\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", "image"),  # JPEG 2000
    (rb"P[1-6]\s+(#[^\n]*\n\s*)*\d+\s+(#[^\n]*\n\s*)*\d+\s|P[fF]\s+\d+\s+\d+\s", "image"),  # PPM and family
    (rb"\x1a\x45\xdf\xa3", "video"),  # Matroska, WebM
    (rb"RIFF....AVI ", "video"),
    (rb"FLV\x01", "video"),
    (rb"OggS\x00", "video"),
    (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "video"),  # ASF, WMV
    (rb"\x00\x00\x01[\xba\xb3]", "video"),  # MPEG program stream
    (rb"\x47.{187}\x47.{187}\x47|.{4}\x47.{191}\x47.{191}\x47", "video"),  # MPEG transport stream, M2TS
    (rb"(\xef\xbb\xbf)?\s*%PDF-", "pdf"),
)


def kind_of(head: bytes) -> Kind:
    """Tell what a file is from its first bytes.

    Args:
        head: The first 8 KiB of the file, or all of a shorter one.

    Returns:
        ``"image"`` for the still and animated image formats that can be opened, ``"video"`` for video containers,
        ``"pdf"``, ``"text"`` for UTF-8 without NUL (which HTML, SVG and PostScript are, too), else ``"unknown"``.
    """
    for pattern, kind in _SIGNATURES:
        if re.match(pattern, head, re.DOTALL):
            return kind
    if _is_text(head):
        return "text"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_SIZES:
        return "image"
    if head[4:8] == b"ftyp":
        return _iso_kind(head[8:12])
    return "video" if head[4:8] in _QUICKTIME_ATOMS else "unknown"


def _iso_kind(brand: bytes) -> Kind:
    if brand in _ISO_IMAGE_BRANDS:
        return "image"
    return "unknown" if brand in _ISO_OTHER_BRANDS else "video"


def _is_text(head: bytes) -> bool:
    if not head or b"\0" in head:
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # incremental: a character may be cut at the end of head
    except UnicodeDecodeError:
        return False
    return True
