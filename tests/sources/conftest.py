from __future__ import annotations

import io

import pytest
from PIL import Image


@pytest.fixture(scope="session")
def pdf_bytes():
    """Three pages: red, green, blue."""
    pages = [Image.new("RGB", (200, 280), colour) for colour in ("red", "lime", "blue")]
    buffer = io.BytesIO()
    pages[0].save(buffer, "PDF", save_all=True, append_images=pages[1:])
    return buffer.getvalue()
