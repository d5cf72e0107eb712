"""Pixels for scenes, clips and pages: every cell of 32 x 32 px is exactly one visual token of the bundled model."""

from __future__ import annotations

import io
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .vocabulary import COLORS, PLACES, SHAPES

if TYPE_CHECKING:
    from .clips import Clip
    from .pages import Page
    from .scenes import Scene

CELL = 32
"""Pixels per cell side: patch 16 times merge 2 of the Qwen3-VL vision tower."""
_SUPERSAMPLE = 4
_RADIUS = {"small": 7.0, "big": 13.0, "icon": 12.0}


@cache
def _shape_mask(shape: str, size: str) -> np.ndarray:
    """Coverage of one shape, drawn large and shrunk for smooth edges.  (32, 32) float32 in 0..1."""
    side = CELL * _SUPERSAMPLE
    image = Image.new("L", (side, side))
    draw = ImageDraw.Draw(image)
    middle, radius = side / 2, _RADIUS[size] * _SUPERSAMPLE
    low, high = middle - radius, middle + radius
    if shape == "circle":
        draw.ellipse((low, low, high, high), fill=255)
    elif shape == "square":
        inset = 0.12 * radius
        draw.rectangle((low + inset, low + inset, high - inset, high - inset), fill=255)
    elif shape == "triangle":
        draw.polygon([(middle, low), (high, high), (low, high)], fill=255)
    elif shape == "diamond":
        draw.polygon([(middle, low), (high, middle), (middle, high), (low, middle)], fill=255)
    elif shape == "cross":
        arm = 0.34 * radius
        draw.rectangle((middle - arm, low, middle + arm, high), fill=255)
        draw.rectangle((low, middle - arm, high, middle + arm), fill=255)
    elif shape == "ring":
        draw.ellipse((low, low, high, high), outline=255, width=round(0.38 * radius))
    else:
        raise ValueError(f"unknown shape {shape!r}; the small world has {', '.join(SHAPES)}")
    small = image.resize((CELL, CELL), Image.Resampling.BOX)
    return np.asarray(small, np.float32) / 255


@cache
def _word_mask(word: str) -> np.ndarray:
    """One word in Pillow's own font, squeezed into half a cell.  (16, 32) float32 in 0..1."""
    font = ImageFont.load_default(size=14)
    left, _, right, _ = font.getbbox(word)
    image = Image.new("L", (int(right - left) + 2, 16))
    ImageDraw.Draw(image).text((1 - left, 12), word, fill=255, font=font, anchor="ls")
    canvas = Image.new("L", (CELL, 16))
    if image.width > CELL:
        image = image.resize((CELL, 16), Image.Resampling.BILINEAR)
    canvas.paste(image, ((CELL - image.width) // 2, 0))
    return np.asarray(canvas, np.float32) / 255


def _stamp(canvas: np.ndarray, mask: np.ndarray, color: np.ndarray, top: int, left: int) -> None:
    """Blend ``color`` (3,) into ``canvas`` (H, W, 3) under ``mask`` (h, w), clipped at the border."""
    height, width = canvas.shape[:2]
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + mask.shape[0], height), min(left + mask.shape[1], width)
    part = mask[y0 - top : y1 - top, x0 - left : x1 - left, None]
    canvas[y0:y1, x0:x1] += part * (color - canvas[y0:y1, x0:x1])


def _finish(canvas: np.ndarray, rng: np.random.Generator, noise: int) -> np.ndarray:
    """Add sensor noise of up to ``noise`` levels and round.  (H, W, 3) float32 → (H, W, 3) uint8."""
    return (canvas + rng.integers(-noise, noise + 1, canvas.shape, np.int8)).clip(0, 255).astype(np.uint8)


def _tint(word: str, rng: np.random.Generator) -> np.ndarray:
    return np.array(COLORS[word]) + rng.uniform(-14, 14, 3)


def _scene_canvas(scene: Scene, styles: dict[str, tuple[int, int]], paper: np.ndarray, seed: int) -> np.ndarray:
    """(96, 96, 3) float32; ``styles`` has the jitter of each cell, so that things do not move between states."""
    canvas = np.full((3 * CELL, 3 * CELL, 3), paper, np.float32)
    for thing in scene.things:
        row, column = divmod(PLACES.index(thing.place), 3)
        down, right = styles[thing.place]
        tint = _tint(thing.color, np.random.default_rng(seed))
        _stamp(canvas, _shape_mask(thing.shape, thing.size), tint, row * CELL + down, column * CELL + right)
    return canvas


def _style(rng: np.random.Generator) -> tuple[dict[str, tuple[int, int]], np.ndarray, int]:
    jitter = rng.integers(-2, 3, (len(PLACES), 2))
    styles = {place: (int(down), int(right)) for place, (down, right) in zip(PLACES, jitter, strict=True)}
    return styles, rng.uniform(205, 255) + rng.uniform(-10, 10, 3), int(rng.integers(2**31))


def scene_image(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Draw a scene with random paper, tint, jitter and noise.  (96, 96, 3) uint8."""
    return _finish(_scene_canvas(scene, *_style(rng)), rng, noise=6)


def crop(image: np.ndarray, place: str) -> np.ndarray:
    """Cut one cell out of a drawn scene.  (96, 96, 3) uint8 → (32, 32, 3) uint8."""
    row, column = divmod(PLACES.index(place), 3)
    return image[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]


def clip_states(clip: Clip, rng: np.random.Generator, frames_per_state: int = 2) -> np.ndarray:
    """Draw a clip, every state held for ``frames_per_state`` frames.  (3 * frames_per_state, 96, 96, 3) uint8."""
    style = _style(rng)
    frames = [_scene_canvas(state, *style) for state in clip.states for _ in range(frames_per_state)]
    return np.stack([_finish(frame, rng, noise=4) for frame in frames])


def page_image(page: Page, rng: np.random.Generator) -> np.ndarray:
    """Draw a page in dark ink on light paper.  (128, 128, 3) uint8."""
    side = round(len(page.cells) ** 0.5)
    canvas = np.full((side * CELL, side * CELL, 3), rng.uniform(222, 255) + rng.uniform(-8, 8, 3), np.float32)
    ink = rng.uniform(0, 70) + rng.uniform(-10, 10, 3)
    down, right = (int(step) for step in rng.integers(-1, 2, 2))
    for index, cell in enumerate(page.cells):
        if not cell:
            continue
        top, left = (index // side) * CELL + down, (index % side) * CELL + right
        if cell[0] in COLORS:
            _stamp(canvas, _shape_mask(cell[1], "icon"), _tint(cell[0], rng), top, left)
        else:
            _stamp(canvas, _word_mask(cell[0]), ink, top, left)
            _stamp(canvas, _word_mask(cell[1]), ink, top + 16, left)
    return _finish(canvas, rng, noise=6)


def worn(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Send pixels through JPEG, or double and halve their size, as files do.  (H, W, 3) uint8 → same."""
    height, width = image.shape[:2]
    picture = Image.fromarray(image)
    if rng.random() < 0.5:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=int(rng.integers(60, 96)))
        return np.asarray(Image.open(buffer))
    doubled = picture.resize((2 * width, 2 * height), Image.Resampling.BILINEAR)
    return np.asarray(doubled.resize((width, height), Image.Resampling.BICUBIC))
