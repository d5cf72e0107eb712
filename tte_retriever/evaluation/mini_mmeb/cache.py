"""Vectors on disk, under everything that they depend on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from tte_retriever.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def cached(file: Path | None, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """What ``file`` holds; where there is none, what ``compute`` gives, which is then kept there.

    A file is there as a whole or not at all, however the run ends. ``None`` computes and keeps nothing.

    Raises:
        InputError: If the file cannot be read or written.
    """
    if file is None:
        return compute()
    try:
        if file.exists():
            return np.load(file, allow_pickle=False)
        file.parent.mkdir(parents=True, exist_ok=True)  # before the work, so that a bad folder costs none
    except (OSError, EOFError, ValueError) as error:
        raise _unusable(file, error) from error
    vectors = compute()
    part = file.with_suffix(f".{os.getpid()}.part")
    try:
        with part.open("wb") as stream:
            np.save(stream, vectors)
        part.replace(file)
    except OSError as error:
        raise _unusable(file, error) from error
    return vectors


def _unusable(file: Path, error: Exception) -> InputError:
    return InputError(
        f"The cached vectors {file} cannot be read or written ({error}); delete the file, or give another folder."
    )
