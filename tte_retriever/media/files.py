"""Open a path or a byte string under limits. Only regular files are opened."""

from __future__ import annotations

import io
import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

from tte_retriever.errors import MediaError, TTEError
from tte_retriever.media.decoders import missing_decoder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tte_retriever.media.limits import MediaLimits

Source: TypeAlias = Path | bytes
"""An encoded file: a path or its bytes. A ``str`` is text, never a path or a URL."""


def describe(source: object) -> str:
    """Name a source in an error message without printing its content."""
    if isinstance(source, Path):
        return repr(str(source))  # repr, because a name may hold bytes that no terminal can print
    if isinstance(source, bytes):
        return f"a byte string of {len(source)} bytes"
    return f"an object of type {type(source).__name__}"


def refuse_string(kind: str) -> MediaError:
    """Return the error for a ``str`` that was given as an image or a video."""
    message = (
        f"a str was given as {kind}; a str is never a path, and a URL only if its host is allowed; give a pathlib.Path, "
        "bytes or decoded pixels, or name the host of the URL in MediaLimits.url_hosts"
    )
    return MediaError(message, "not-allowed")


@contextmanager
def open_source(source: Source, limits: MediaLimits) -> Iterator[BinaryIO]:
    """Open a source for reading.

    Yields:
        A binary file positioned at its start.

    Raises:
        MediaError: ``missing``, ``not-a-file``, ``unreadable``, ``empty`` or ``too-large``.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else _open_path(source) as file:
        if isinstance(source, Path):  # it may have been replaced by a pipe since it was checked
            _require_regular(source, os.fstat(file.fileno()).st_mode)
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if size == 0:
            raise MediaError(f"{describe(source)} is empty (0 bytes)", "empty")
        if size > limits.max_bytes:
            message = f"{describe(source)} has {size} bytes; at most {limits.max_bytes} are opened"
            raise MediaError(f"{message} (MediaLimits.max_bytes)", "too-large")
        yield file


def read_head(source: Source, limits: MediaLimits, size: int = 8192) -> bytes:
    """Return the first ``size`` bytes of a source; raises as :func:`open_source` does."""
    with open_source(source, limits) as file, corrupt_if_it_fails(source):
        return file.read(size)


@contextmanager
def corrupt_if_it_fails(source: object) -> Iterator[None]:
    """Raise ``MediaError`` for any error of a decoder: ``unsupported`` if Pillow was built without it, else ``corrupt``.

    Broken bytes make decoders raise almost anything (OSError, SyntaxError, struct.error, IndexError, ...), so every
    exception counts. Errors of this project pass through.
    """
    try:
        yield
    except TTEError:
        raise
    except Exception as error:
        if decoder := missing_decoder(error):
            message = f"{describe(source)} needs the decoder {decoder}, which Pillow was built without"
            raise MediaError(f"{message}; install a build that has it, or convert the file", "unsupported") from error
        message = f"{describe(source)} is corrupt or cut short: {error or type(error).__name__}; give a complete file"
        raise MediaError(message, "corrupt") from error


def _open_path(path: Path) -> BinaryIO:
    # Checked before it is opened, because opening a device can have effects; then opened without blocking.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        _require_regular(path, path.stat().st_mode)
        return os.fdopen(os.open(path, flags), "rb")
    except MediaError:
        raise
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a NUL in the name
        raise MediaError(f"{describe(path)} does not exist; check the path", "missing") from error
    except OSError as error:
        raise MediaError(f"{describe(path)} cannot be read: {error.strerror or error}", "unreadable") from error


def _require_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "a device, pipe or socket"
        raise MediaError(f"{describe(path)} is {kind}; only regular files are opened", "not-a-file")
