"""Find the files of a folder, and nothing outside it."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from tte_retriever.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STORE_MANIFEST = "tte-store.json"
"""A folder with a file of this name is a store; its files are not indexed."""


def check_source(source: str | Path) -> Path:
    """Return the source as an absolute path without symbolic links.

    Raises:
        InputError: It does not exist, or is neither a file nor a folder.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     check_source(folder).is_absolute()
        True
    """
    try:
        resolved = Path(source).expanduser().resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise InputError(f"the source {str(source)!r} does not exist or cannot be reached; check the path") from error
    if not (resolved.is_dir() or resolved.is_file()):
        raise InputError(f"the source {str(source)!r} is neither a file nor a folder; give one of them")
    return resolved


def root_of(source: Path) -> Path:
    """The folder that the URIs of a source's files are relative to: the source, or the folder of a single file.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     _ = Path(folder, "note.txt").write_text("a red circle")
        ...     root_of(Path(folder, "note.txt")) == Path(folder)
        True
    """
    return source if source.is_dir() else source.parent


def uri_of(path: Path, root: Path) -> str:
    """The path of a file under its root, with forward slashes, as text that any engine can store.

    Example:
        >>> from pathlib import Path
        >>> uri_of(Path("/photos/2024/cat.png"), Path("/photos"))
        '2024/cat.png'
    """
    # A name may hold bytes that are not UTF-8, which neither JSON nor SQLite accepts.
    return os.fsencode(path.relative_to(root).as_posix()).decode("utf-8", "backslashreplace")


def discover(source: Path, on_error: Callable[[OSError], None] | None = None) -> Iterator[Path]:
    """Yield the regular files of a folder, or a single file, in a fixed order.

    Hidden files, hidden folders and stores are left out. Symbolic links are not followed, so nothing outside the source
    is read.

    Args:
        source: What :func:`check_source` returned.
        on_error: Is called for each folder that cannot be listed, and for each path that cannot be reached.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     for name in ("b.txt", "a.txt", ".hidden.txt"):
        ...         Path(folder, name).touch()
        ...     [path.name for path in discover(Path(folder))]
        ['a.txt', 'b.txt']
    """
    if not source.is_dir():
        yield source
        return
    for folder, subfolders, names in os.walk(source, followlinks=False, onerror=on_error):
        if STORE_MANIFEST in names:
            subfolders.clear()
            continue
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and _is_file(path := Path(folder, name), on_error):
                yield path


def _is_file(path: Path, on_error: Callable[[OSError], None] | None) -> bool:
    """Whether it is a regular file, and not a link."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:  # it was there a moment ago
        return False
    except OSError as error:  # its folder may be listed but not entered, say
        if on_error is not None:
            on_error(error)
        return False
