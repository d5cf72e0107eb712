from __future__ import annotations

import io

import numpy as np
import pypdfium2
import pytest
from PIL import Image

from tte_retriever.errors import InputError, MediaError
from tte_retriever.media import MediaLimits
from tte_retriever.sources.documents import MAX_PAGE_PIXELS, load_page, page_count


def pdf_of(objects: list[bytes], trailer: bytes = b"") -> bytes:
    """A PDF of these objects, numbered from 1, of which the first is the catalogue."""
    content, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(content))
        content += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size = len(objects) + 1
    return (
        content
        + b"xref\n0 %d\n0000000000 65535 f \n%strailer\n<</Size %d/Root 1 0 R%s>>\nstartxref\n%d\n%%%%EOF\n"
        % (
            size,
            table,
            size,
            trailer,
            len(content),
        )
    )


CATALOGUE = b"<</Type/Catalog/Pages 2 0 R>>"
PROTECTED = pdf_of(
    [
        CATALOGUE,
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>>",
        b"<</Filter/Standard/V 1/R 2/P -4/O<" + b"11" * 32 + b">/U<" + b"22" * 32 + b">>>",
    ],
    b"/Encrypt 4 0 R/ID[<00><00>]",
)


def pdf_without_pages() -> bytes:
    buffer = io.BytesIO()
    pypdfium2.PdfDocument.new().save(buffer)
    return buffer.getvalue()


def test_pages_in_order(tmp_path, pdf_bytes):
    path = tmp_path / "a.pdf"
    path.write_bytes(pdf_bytes)
    for source in (path, pdf_bytes):
        assert page_count(source) == 3
        for page, colour in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255)], start=1):
            image = load_page(source, page)
            assert image.mode == "RGB"
            assert np.abs(np.asarray(image, float).mean((0, 1)) - colour).max() < 6


def test_scale_is_pixels_per_point(pdf_bytes):
    small, large = load_page(pdf_bytes, 1, scale=1), load_page(pdf_bytes, 1, scale=3)
    assert (large.width, large.height) == (3 * small.width, 3 * small.height)


@pytest.mark.parametrize("size", [(14_000, 14_000), (14_000, 3)])
def test_a_huge_page_is_drawn_smaller(size):
    buffer = io.BytesIO()
    Image.new("1", size).save(buffer, "PDF", resolution=72)
    image = load_page(buffer.getvalue(), 1)
    assert image.width * image.height <= MAX_PAGE_PIXELS
    limited = load_page(buffer.getvalue(), 1, MediaLimits(max_pixels=10_000))
    assert limited.width * limited.height <= 10_000


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"%PDF-1.7 rubbish", "corrupt"),
        (b"", "empty"),
        (pdf_without_pages(), "corrupt"),
        (PROTECTED, "unsupported"),
        (b"x", "corrupt"),
    ],
)
def test_unusable_documents(tmp_path, content, reason):
    path = tmp_path / "bad.pdf"
    path.write_bytes(content)
    for call in (page_count, lambda source: load_page(source, 1)):
        with pytest.raises(MediaError) as caught:
            call(path)
        assert caught.value.reason == reason
        assert "bad.pdf" in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(MediaError, match=r"none\.pdf"):
        page_count(tmp_path / "none.pdf")


@pytest.mark.parametrize("page", [0, -1, 4])
def test_no_such_page(pdf_bytes, page):
    with pytest.raises(InputError, match="1 to 3"):
        load_page(pdf_bytes, page)


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf")])
def test_scale_that_makes_no_sense(pdf_bytes, scale):
    with pytest.raises(InputError, match="scale"):
        load_page(pdf_bytes, 1, scale=scale)
