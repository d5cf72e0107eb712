"""Pictures of pages and of moments in videos, as files that can be shown to any multimodal model."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from llama_index.core.utils import get_cache_dir

from tte_retriever.atomic import atomic_write
from tte_retriever.errors import MediaError
from tte_retriever.media import DEFAULT_LIMITS, VideoSampling, load_video
from tte_retriever.media.files import describe
from tte_retriever.sources import asset_id_of, load_page, stamp

if TYPE_CHECKING:
    from PIL import Image

    from tte_retriever.sources import Chunk

_ONE_FRAME = VideoSampling(min_frames=1, max_frames=1)  # the one in the middle


def views_folder(folder: str | Path | None) -> Path:
    """The folder for pictures: ``folder``, or one in LlamaIndex's cache (``LLAMA_INDEX_CACHE_DIR``)."""
    return Path(folder).expanduser().absolute() if folder is not None else Path(get_cache_dir()) / "tte_views"


def check_unchanged(path: Path, asset_id: str) -> None:
    """Check that a file holds the bytes that were indexed.

    Args:
        path: The file.
        asset_id: SHA-256 of the bytes that were indexed.

    Raises:
        MediaError: The bytes are others (``missing``), or the file cannot be read.
    """
    if _asset_id(path, stamp(path)) != asset_id:
        message = f"{describe(path)} is not the file that was indexed; index it again, or check the folder in source="
        raise MediaError(message, "missing")


@lru_cache(maxsize=10_000)
def _asset_id(path: Path, stamped: tuple[int, int]) -> str:
    """The hash of a file, computed once per size and time of change: queries find the same files again and again."""
    return asset_id_of(path, DEFAULT_LIMITS)


def view_of(path: Path, chunk: Chunk, asset_id: str, folder: Path) -> Path:
    """The picture of a page, or of the middle of a video window; it is drawn on first use.

    Args:
        path: The file.
        chunk: The page or the window.
        asset_id: As for :func:`check_unchanged`.
        folder: Folder of the pictures, whose names are made from content.

    Raises:
        MediaError: The file is broken; also as :func:`check_unchanged`.
    """
    check_unchanged(path, asset_id)
    view = folder / f"{asset_id}-{chunk.name.replace('=', '-').replace(',', '-')}.png"
    if not view.exists():
        picture = _draw(path, chunk)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(view) as draft:
            picture.save(draft, "PNG")
    return view


def _draw(path: Path, chunk: Chunk) -> Image.Image:
    if chunk.page is not None:
        return load_page(path, chunk.page)
    return load_video(path, sampling=_ONE_FRAME, start_s=chunk.start_s or 0.0, end_s=chunk.end_s).frames[0]
