"""What every engine refuses, so that none of them has to be trusted to."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import numpy as np

from tte_retriever.errors import InputError
from tte_retriever_qdrant.errors import ModelMismatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tte_retriever_qdrant.records import CollectionSpec, Filter, Point, Scalar


def check_same_model(existing: CollectionSpec, wanted: CollectionSpec, where: str) -> None:
    """Refuse to mix the vectors of two models.

    Raises:
        ModelMismatch: The fingerprints or the vectors' lengths differ.
    """
    if (existing.fingerprint, existing.dim) == (wanted.fingerprint, wanted.dim):
        return
    raise ModelMismatch(
        f"{where} holds vectors of the model {existing.model or 'of unknown name'} (fingerprint {existing.fingerprint}, "
        f"{existing.dim} dimensions), and {wanted.model or 'the model given'} has the fingerprint {wanted.fingerprint} "
        f"({wanted.dim} dimensions); use the store's own model, or index into a new store"
    )


def check_points(points: Sequence[Point], dim: int) -> None:
    """Refuse points that an engine would store and never find, or choke on.

    Raises:
        InputError: Names the first such point.
    """
    for point in points:
        name = f"the point {point.id!r} ({point.payload.get('uri', 'no uri')})"
        try:
            UUID(point.id)
        except (ValueError, AttributeError, TypeError) as error:
            raise InputError(f"{name} has an id that is no UUID; give one, such as str(uuid.uuid5(...))") from error
        check_vector(point.vector, dim, name)


def check_vector(vector: np.ndarray, dim: int, name: str) -> np.ndarray:
    """Return ``vector`` as float32.

    Raises:
        InputError: It is not of shape (``dim``,), not finite or all zero.
    """
    vector = np.asarray(vector, dtype=np.float32)
    if vector.shape != (dim,):
        raise InputError(f"{name} has a vector of shape {vector.shape}; this collection holds shape ({dim},)")
    if not np.isfinite(vector).all():
        raise InputError(f"{name} has a vector with NaN or infinite values; the model failed on this item")
    if not vector.any():
        raise InputError(f"{name} has a vector of zeros, which has no direction to compare")
    return vector


def check_limit(limit: int) -> None:
    """Refuse a number of hits below one."""
    if limit < 1:
        raise InputError(f"{limit} hits were asked for; ask for 1 or more")


def conditions(filter: Filter | None) -> list[tuple[str, list[str] | list[int | float]]]:
    """Spell a filter out as keys with the values that each may have, all of one kind.

    Raises:
        InputError: A value that is neither text nor a number, a mixture of both, or no value at all.
    """
    return [(key, _values(key, value)) for key, value in (filter or {}).items()]


def _values(key: str, value: Scalar | Sequence[Scalar]) -> list[str] | list[int | float]:
    values = list(value) if isinstance(value, (list, tuple, set, frozenset)) else [value]
    texts = [v for v in values if isinstance(v, str)]
    # bool is an int to Python but not to Qdrant, and the edge engine matches it with nothing at all.
    numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool) and np.isfinite(v)]
    if values and len(texts) == len(values):
        return texts
    if values and len(numbers) == len(values):
        return numbers
    raise InputError(f"the filter {key}={value!r} cannot be applied; give a text, a number, or a list of one of them")


def check_selection(ids: Sequence[str] | None, filter: Filter | None) -> None:
    """Refuse a deletion that does not say in exactly one way what to delete."""
    if (ids is None) == (not filter):
        raise InputError("delete takes either ids or a filter that is not empty, and exactly one of them")
