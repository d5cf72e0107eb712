"""Items of the small world as real files: PNG, JPEG, animated GIF, multi-page PDF, H.264 MP4."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import av
import numpy as np
from PIL import Image

from tte_retriever.errors import InputError

from .clips import STATE_S

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FRAMES_PER_SECOND = 4


def write_image(path: Path, pixels: np.ndarray) -> Path:
    """Write (H, W, 3) uint8 as PNG or JPEG, by the suffix of ``path``."""
    if path.suffix not in (".png", ".jpg", ".jpeg"):
        raise InputError(f"{path.name} has the suffix {path.suffix!r}; give .png, .jpg or .jpeg")
    Image.fromarray(pixels).save(path, quality=90)  # PNG ignores the quality
    return path


def write_gif(path: Path, states: np.ndarray) -> Path:
    """Write the states of one clip, (S, H, W, 3) uint8, as an animation with two seconds for each."""
    first, *rest = [Image.fromarray(state).quantize(256) for state in states]
    first.save(path, save_all=True, append_images=rest, duration=round(1000 * STATE_S), loop=0)
    return path


def write_pdf(path: Path, pages: Sequence[np.ndarray]) -> Path:
    """Write pages, (H, W, 3) uint8 each, as one PDF at 72 pixels per inch."""
    first, *rest = [Image.fromarray(page) for page in pages]
    undated = {"creationDate": None, "modDate": None}  # the same pages are the same file at any time
    first.save(path, "PDF", save_all=True, append_images=rest, resolution=72, quality=95, **undated)
    return path


def write_mp4(path: Path, states: np.ndarray) -> Path:
    """Write the states of one clip or of several in a row, (S, H, W, 3) uint8, two seconds each, as H.264."""
    height, width = states.shape[1:3]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = Fraction(1, FRAMES_PER_SECOND)
        for state in np.repeat(states, round(FRAMES_PER_SECOND * STATE_S), axis=0):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(state, format="rgb24")))
        container.mux(stream.encode())
    return path
