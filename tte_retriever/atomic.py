"""Write a file or a folder so that it exists completely or not at all, also after a kill or a power cut."""

from __future__ import annotations

import itertools
import os
import platform
import re
import shutil
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MACHINE = f"{zlib.crc32(platform.node().encode()):08x}"  # process ids say nothing about another machine's processes
_counter = itertools.count()
_open_drafts: set[Path] = set()


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Write to a draft beside ``path``, which takes its place when the block ends without an error.

    The draft has a hidden name that ends like ``path``, and is deleted if the block fails. Several processes may write
    the same path at once; the last one wins. What a killed process left is deleted by the next write of the same path.

    Args:
        path: A file, which may exist, or a folder, which must be absent or empty. Its parent exists.

    Yields:
        The draft, which does not exist yet: make it a file or a folder.

    Raises:
        OSError: The disk failed, or ``path`` is a folder with content.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     with atomic_write(Path(folder, "vectors.txt")) as draft:
        ...         _ = draft.write_text("0.6 0.8")
        ...     [path.name for path in Path(folder).iterdir()]
        ['vectors.txt']
    """
    _delete_leftovers(path)
    draft = path.with_name(f".partial-{_MACHINE}-{os.getpid()}-{next(_counter)}.{path.name}")
    _open_drafts.add(draft)
    try:
        yield draft
        for each in [*draft.rglob("*"), draft]:
            _flush(each)
        draft.replace(path)
        _flush(path.parent)
    finally:
        _delete(draft)
        _open_drafts.discard(draft)


def atomic_write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically; see :func:`atomic_write`.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     atomic_write_text(Path(folder, "note.txt"), "a red circle")
        ...     Path(folder, "note.txt").read_text()
        'a red circle'
    """
    with atomic_write(path) as draft:
        draft.write_text(text, encoding="utf-8")


def _flush(path: Path) -> None:
    """Have the disk keep a file's bytes or a folder's list of names."""
    if os.name != "posix":  # Windows opens no folders, and orders its renames itself
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _delete(draft: Path) -> None:
    if draft.is_dir():
        shutil.rmtree(draft, ignore_errors=True)
    else:
        draft.unlink(missing_ok=True)


def _delete_leftovers(path: Path) -> None:
    """Delete the drafts of ``path`` whose process on this machine has ended."""
    pattern = re.compile(rf"\.partial-{_MACHINE}-(\d+)-\d+\.{re.escape(path.name)}")
    for name in os.listdir(path.parent):  # noqa: PTH208
        if (match := pattern.fullmatch(name)) and not _is_in_use(path.with_name(name), int(match[1])):
            _delete(path.with_name(name))


def _is_in_use(draft: Path, process: int) -> bool:
    if process == os.getpid():
        return draft in _open_drafts
    if os.name != "posix":  # where signal 0 is no question, but ends the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it belongs to another user
        return True
    return True
