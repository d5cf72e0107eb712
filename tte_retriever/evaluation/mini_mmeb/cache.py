"""Vectors on disk, under everything that they depend on."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tte_retriever.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable


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
        file.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise InputError(
            f"The cached vectors {file} cannot be used ({error}); delete the file, or give another folder."
        ) from error
    vectors = compute()
    with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".part", delete=False) as part:
        np.save(part, vectors)
    Path(part.name).replace(file)
    return vectors
