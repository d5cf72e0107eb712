"""Find the files of a source, and nothing outside it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tte_retriever.errors import InputError
from tte_retriever_qdrant.stores.manifest import MANIFEST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def check_source(source: Path) -> Path:
    """Return the source as an absolute path without symbolic links.

    Raises:
        InputError: It does not exist, or is neither a file nor a folder.
    """
    try:
        resolved = source.expanduser().resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise InputError(f"the source {str(source)!r} does not exist or cannot be reached; check the path") from error
    if not (resolved.is_dir() or resolved.is_file()):
        raise InputError(f"the source {str(source)!r} is neither a file nor a folder; give one of them")
    return resolved


def root_of(source: Path) -> Path:
    """The folder that the URIs of a source's files are relative to."""
    return source if source.is_dir() else source.parent


def uri_of(path: Path, root: Path) -> str:
    """The path of a file under its root, with forward slashes, as text that any engine can store."""
    # A name may hold bytes that are no UTF-8, which neither JSON nor SQLite takes.
    return os.fsencode(path.relative_to(root).as_posix()).decode("utf-8", "backslashreplace")


def discover(source: Path, on_error: Callable[[OSError], None] | None = None) -> Iterator[Path]:
    """Yield the regular files of a folder, or a single file, in a fixed order.

    Hidden files and folders are left out, and so are stores. Symbolic links are not followed, so that nothing outside
    the source is ever read.

    Args:
        source: What :func:`check_source` returned.
        on_error: Is told of each folder that cannot be listed.
    """
    if not source.is_dir():
        yield source
        return
    for folder, subfolders, names in os.walk(source, followlinks=False, onerror=on_error):
        if MANIFEST in names:
            subfolders.clear()
            continue
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            if not name.startswith(".") and not path.is_symlink() and path.is_file():
                yield path
