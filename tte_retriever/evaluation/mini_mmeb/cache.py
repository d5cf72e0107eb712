"""A cache of vectors on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tte_retriever.atomic import atomic_write
from tte_retriever.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def cached(file: Path | None, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """Read vectors from ``file``; if it does not exist, compute and write them.

    Args:
        file: An ``.npy`` file, written atomically; ``None`` computes without a cache.
        compute: Computes the vectors.

    Raises:
        InputError: The file cannot be read or written.
    """
    if file is None:
        return compute()
    try:
        if file.exists():
            return np.load(file, allow_pickle=False)
        file.parent.mkdir(parents=True, exist_ok=True)  # a bad folder is found before the work
    except (OSError, EOFError, ValueError) as error:
        raise _unusable(file, error) from error
    vectors = compute()
    try:
        with atomic_write(file) as draft:
            np.save(draft, vectors)
    except OSError as error:
        raise _unusable(file, error) from error
    return vectors


def _unusable(file: Path, error: Exception) -> InputError:
    return InputError(
        f"The cached vectors {file} cannot be read or written ({error}); delete the file, or give another folder."
    )
