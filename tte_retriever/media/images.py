"""Decode images to upright 8-bit RGB."""

from __future__ import annotations

import threading
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from PIL import Image, ImageOps

from tte_retriever.errors import InputError, MediaError
from tte_retriever.media.decoders import missing_format, registered_formats
from tte_retriever.media.files import Source, corrupt_if_it_fails, describe, open_source, read_head, refuse_string
from tte_retriever.media.limits import DEFAULT_LIMITS, MediaLimits
from tte_retriever.media.signatures import kind_of

if TYPE_CHECKING:
    from collections.abc import Iterator

ImageLike: TypeAlias = Path | bytes | Image.Image | np.ndarray
"""What :func:`load_image` takes: an encoded image, or its pixels."""

_ANIMATED_FORMATS = ("GIF", "PNG", "WEBP", "AVIF")  # the frames of TIFF and MPO are pages and views, not moments


def load_image(source: ImageLike, limits: MediaLimits = DEFAULT_LIMITS) -> Image.Image:
    """Decode an image to a fully loaded, upright RGB image.

    EXIF orientation is applied, transparent pixels become white, 16-bit, 32-bit and float grey is scaled by its range,
    and CMYK is converted. An animation gives its first frame.

    Args:
        source: A path, the bytes of a file, a PIL image (its current frame), or an array of shape (H, W), (H, W, 1),
            (H, W, 3) or (H, W, 4) and dtype uint8, uint16 (0..65535), bool or float (0..1).
        limits: What may be opened.

    Returns:
        A new image of mode RGB, without metadata and without an open file.

    Raises:
        MediaError: The source is not a usable image; ``reason`` says why.
        InputError: The source is of another type.

    Example:
        >>> import numpy as np
        >>> from tte_retriever.media import load_image
        >>> load_image(np.zeros((4, 6), dtype=np.uint16)).size  # width and height
        (6, 4)
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, limits)
    if isinstance(source, Image.Image):
        check_size(source.size, source, limits)
        with _quiet_pillow(), corrupt_if_it_fails(source):
            return upright_rgb(source)
    with open_image(source, limits) as image, corrupt_if_it_fails(source):
        return upright_rgb(image)


@contextmanager
def open_image(source: Source, limits: MediaLimits) -> Iterator[Image.Image]:
    """Open an encoded image and check its size without decoding pixels.

    Raises:
        MediaError: The file cannot be read, its format is not allowed or not built into Pillow (``unsupported``), its
            header is broken (``corrupt``), or it has too many pixels (``too-large``).
        InputError: The source is neither a path nor bytes.
    """
    if isinstance(source, str):
        raise refuse_string("an image")
    if not isinstance(source, (Path, bytes)):
        message = f"{describe(source)} was given as an image; give a pathlib.Path, bytes, a PIL image or a NumPy array"
        raise InputError(message)
    with open_source(source, limits) as file, _quiet_pillow():
        try:
            image = Image.open(file, formats=registered_formats(limits.image_formats))
        except Exception as error:  # plugins raise almost anything for a broken header
            raise _refusal(source, limits, error) from error
        with image:
            check_size(image.size, source, limits)
            yield image


def is_animation(source: Source, limits: MediaLimits = DEFAULT_LIMITS) -> bool:
    """Whether an encoded image has several frames that are shown one after the other. Raises as :func:`open_image`."""
    with open_image(source, limits) as image, corrupt_if_it_fails(source):
        return image.format in _ANIMATED_FORMATS and getattr(image, "is_animated", False)


def check_size(size: tuple[int, int], source: object, limits: MediaLimits) -> None:
    """Refuse an image or frame of no pixels (``empty``) or of too many (``too-large``)."""
    width, height = size
    if width < 1 or height < 1:
        raise MediaError(f"{describe(source)} is {width}x{height} pixels; give an image with pixels", "empty")
    if width * height > limits.max_pixels:
        message = f"{describe(source)} is {width}x{height} = {width * height} pixels"
        raise MediaError(f"{message}; at most {limits.max_pixels} are decoded (MediaLimits.max_pixels)", "too-large")


def upright_rgb(image: Image.Image) -> Image.Image:
    """Decode an opened image and convert it to upright 8-bit RGB. Raises whatever the decoder raises."""
    image.load()
    try:
        upright = ImageOps.exif_transpose(image)  # a copy in any case
    except Exception:  # broken metadata, good pixels: no orientation to apply
        upright = image.copy()
    rgb = _to_rgb(upright)
    rgb.info.clear()  # EXIF orientation, for one, would be applied a second time
    return rgb


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _grey_to_rgb(image)
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    rgba = image.convert("RGBA")
    on_white = Image.new("RGB", image.size, "white")
    on_white.paste(rgba, mask=rgba.getchannel("A"))
    return on_white


def _grey_to_rgb(image: Image.Image) -> Image.Image:
    """Scale deep grey to 8 bit. Pillow's own conversion clips at 255, which turns a 16-bit scan white.

    16-bit values are scaled from 0..65535. The modes I and F have no range of their own: the narrowest usual range that
    holds every value is used (I: 0..65535; F: 0..1, then 0..255), or else the image's minimum to maximum.
    """
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("it has pixels that are not finite numbers")
    low, high = float(values.min()), float(values.max())
    usual = (1.0, 255.0) if image.mode == "F" else (65535.0,)
    if low >= 0 and high <= usual[-1]:
        low, high = 0.0, next(limit for limit in usual if high <= limit)
    grey = np.rint((values - low) * (255.0 / ((high - low) or 1.0))).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):  # PNG: one grey level that is transparent
        grey[values == transparent] = 255
    return Image.fromarray(grey).convert("RGB")


def _from_array(array: np.ndarray, limits: MediaLimits) -> Image.Image:
    given = f"an array of shape {array.shape} and dtype {array.dtype}"
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        message = f"{given} was given as an image; give (height, width), (height, width, 3) or (height, width, 4)"
        raise MediaError(message, "unsupported")
    check_size((array.shape[1], array.shape[0]), array, limits)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype == np.uint16:
        array = np.rint(array / 257.0).astype(np.uint8)
    elif np.issubdtype(array.dtype, np.floating):
        if not (array.min() >= 0.0 and array.max() <= 1.0):  # true for NaN as well
            message = f"{given} has values outside 0..1 or NaN; scale it to 0..1, or give uint8 in 0..255"
            raise MediaError(message, "unsupported")
        array = np.rint(array * 255.0).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise MediaError(f"{given} was given as an image; give uint8, uint16, bool or float in 0..1", "unsupported")
    return _to_rgb(Image.fromarray(np.ascontiguousarray(array)))


def _refusal(source: Source, limits: MediaLimits, error: Exception) -> MediaError:
    """Return the error for a source that Pillow did not open: too large, corrupt or unsupported."""
    if isinstance(error, Image.DecompressionBombError):
        message = f"{describe(source)} has too many pixels; at most {limits.max_pixels} are decoded"
        return MediaError(f"{message} (MediaLimits.max_pixels)", "too-large")
    head = read_head(source, limits)
    kind, missing = kind_of(head), missing_format(head)
    if missing in limits.image_formats:
        message = f"{describe(source)} is a {missing} image, and Pillow was built without {missing}"
        return MediaError(f"{message}; install a build that has it, or convert the file", "unsupported")
    if kind == "image" and set(limits.image_formats) >= set(DEFAULT_LIMITS.image_formats):
        return MediaError(f"{describe(source)} is corrupt or cut short; give a complete file", "corrupt")
    advice = {"video": "; give it as a video", "pdf": "; render its pages to images"}.get(kind, "")
    allowed = ", ".join(limits.image_formats)
    message = f"{describe(source)} (content: {kind}) is not an image of an allowed format ({allowed}){advice}"
    return MediaError(message, "unsupported")


_quiet_lock = threading.Lock()
_quiet_depth = 0
_quiet_filters: warnings.catch_warnings | None = None


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Silence Pillow's warnings: their causes are refused here, or do not change the pixels.

    ``warnings`` filters belong to the process, and overlapping threads would not restore them properly. So the first
    thread in sets the filter, the last one out restores the previous state, and decoding stays parallel.
    """
    global _quiet_depth, _quiet_filters
    with _quiet_lock:
        if _quiet_depth == 0:
            _quiet_filters = warnings.catch_warnings()
            _quiet_filters.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\.")
        _quiet_depth += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0 and _quiet_filters is not None:
                _quiet_filters.__exit__(None, None, None)
