"""PDF pages as images, through PDFium."""

from __future__ import annotations

import math
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pypdfium2 as pdfium

from tte_retriever.errors import InputError, MediaError
from tte_retriever.media import DEFAULT_LIMITS, MediaLimits, Source
from tte_retriever.media.files import corrupt_if_it_fails, describe, open_source

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL import Image

MAX_PAGES = 5_000
"""Most pages of one document that are opened."""

MAX_PAGE_PIXELS = 8_000_000
"""Largest image of a page; a larger page is drawn at a smaller scale."""

_ENCRYPTED = (4, 5)  # FPDF_ERR_PASSWORD, FPDF_ERR_SECURITY
_pdfium_lock = threading.Lock()  # PDFium is not thread-safe, not even with separate documents


def page_count(source: Source, limits: MediaLimits = DEFAULT_LIMITS) -> int:
    """Count the pages of a PDF.

    Raises:
        MediaError: Missing, unreadable, broken or without pages (``corrupt``), protected by a password
            (``unsupported``), or with more than :data:`MAX_PAGES` pages (``too-large``).

    Example:
        >>> from io import BytesIO
        >>> from PIL import Image
        >>> file = BytesIO()
        >>> Image.new("RGB", (200, 280), "red").save(file, "PDF")
        >>> page_count(file.getvalue())
        1
    """
    with _opened(source, limits) as document:
        return len(document)


def load_page(source: Source, page: int, limits: MediaLimits = DEFAULT_LIMITS, scale: float = 2.0) -> Image.Image:
    """Draw one page of a PDF.

    Args:
        source: A path or the bytes of the file.
        page: Page number, from 1.
        limits: What may be opened; ``max_pixels`` caps the drawing, as :data:`MAX_PAGE_PIXELS` does.
        scale: Pixels per point; 1 is 72 dots per inch.

    Returns:
        An image of mode RGB.

    Raises:
        MediaError: As :func:`page_count`, and ``corrupt`` for a page that cannot be drawn.
        InputError: There is no such page, or ``scale`` is not above 0.

    Example:
        >>> from io import BytesIO
        >>> from PIL import Image
        >>> file = BytesIO()
        >>> Image.new("RGB", (200, 280), "red").save(file, "PDF", resolution=72)  # one pixel per point
        >>> load_page(file.getvalue(), 1).size
        (400, 560)
    """
    if not (math.isfinite(scale) and scale > 0):
        raise InputError(f"scale is {scale!r}; give a finite number above 0")
    with _opened(source, limits) as document:
        if not 1 <= page <= len(document):
            raise InputError(
                f"page is {page}, and {describe(source)} has the pages 1 to {len(document)}; give one of them"
            )
        with corrupt_if_it_fails(source):
            return _draw(document[page - 1], min(limits.max_pixels, MAX_PAGE_PIXELS), scale)


def _draw(page: pdfium.PdfPage, max_pixels: int, scale: float) -> Image.Image:
    width, height = page.get_size()
    if not (math.isfinite(width * height) and width > 0 and height > 0):
        raise ValueError(f"a page of {width}x{height} points")
    # At least a pixel a side, and both sides are rounded up.
    scale = min(scale, math.sqrt(max_pixels / (width * height)))
    while math.ceil(width * scale) * math.ceil(height * scale) > max_pixels:
        scale *= 0.98
    return page.render(scale=scale).to_pil().convert("RGB")


@contextmanager
def _opened(source: Source, limits: MediaLimits) -> Iterator[pdfium.PdfDocument]:
    with open_source(source, limits) as file, _pdfium_lock:
        try:
            document = pdfium.PdfDocument(file)
        except Exception as error:
            raise _refusal(source, error) from error
        try:
            pages = len(document)
            if pages > MAX_PAGES:
                message = f"{describe(source)} has {pages} pages; at most {MAX_PAGES} are opened: split it"
                raise MediaError(message, "too-large")
            yield document
        finally:
            document.close()


def _refusal(source: Source, error: Exception) -> MediaError:
    if isinstance(error, pdfium.PdfiumError) and error.err_code in _ENCRYPTED:
        return MediaError(f"{describe(source)} is protected by a password; give an unprotected copy", "unsupported")
    return MediaError(
        f"{describe(source)} is not a PDF, is broken, or has no pages ({error}); give a complete file", "corrupt"
    )
