"""What identifies a file: its stamp for a quick check, its content for a sure one."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from tte_retriever.errors import MediaError
from tte_retriever.media.files import describe, open_source

if TYPE_CHECKING:
    from pathlib import Path

    from tte_retriever.media import MediaLimits


def stamp(path: Path) -> tuple[int, int]:
    """Size in bytes and time of the last change in nanoseconds.

    Raises:
        MediaError: The file is gone or cannot be reached.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     _ = Path(folder, "note.txt").write_text("a red circle")
        ...     size, mtime_ns = stamp(Path(folder, "note.txt"))
        >>> size
        12
    """
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise MediaError(f"{describe(path)} disappeared while it was being indexed; run again", "missing") from error
    except OSError as error:
        raise MediaError(f"{describe(path)} cannot be read: {error.strerror or error}", "unreadable") from error
    return status.st_size, status.st_mtime_ns


def asset_id_of(path: Path, limits: MediaLimits) -> str:
    """SHA-256 of a file's bytes, in hexadecimal digits.

    Raises:
        MediaError: It cannot be read, or is too large.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from tte_retriever.media import MediaLimits
        >>> with TemporaryDirectory() as folder:
        ...     _ = Path(folder, "note.txt").write_text("a red circle")
        ...     asset_id_of(Path(folder, "note.txt"), MediaLimits())[:8]
        'a1e4a280'
    """
    with open_source(path, limits) as file:
        digest = hashlib.sha256()
        try:
            while block := file.read(1 << 20):
                digest.update(block)
        except OSError as error:
            raise MediaError(f"{describe(path)} cannot be read: {error.strerror or error}", "unreadable") from error
    return digest.hexdigest()
