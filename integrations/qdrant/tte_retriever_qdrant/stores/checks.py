"""Input that every engine refuses in the same words."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import numpy as np

from tte_retriever.errors import InputError
from tte_retriever_qdrant.errors import ModelMismatch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tte_retriever_qdrant.records import CollectionSpec, Point, Role


def check_same_model(existing: CollectionSpec, wanted: CollectionSpec, label: str) -> None:
    """Refuse vectors of another model.

    Raises:
        ModelMismatch: The fingerprints or the vectors' lengths differ.
    """
    if is_same_model(existing, wanted):
        return
    raise ModelMismatch(
        f"{label} holds vectors of the model {existing.model or 'of unknown name'} (fingerprint {existing.fingerprint}, "
        f"{existing.dim} dimensions), and {wanted.model or 'the model given'} has the fingerprint {wanted.fingerprint} "
        f"({wanted.dim} dimensions); use the store's own model, index into a new store, or into a new generation of this one: tte-retriever index … --reembed"
    )


def check_same_spec(existing: CollectionSpec, wanted: CollectionSpec, label: str) -> None:
    """Refuse vectors of another model, and a change of the prefix, the think budget or the pixel limit.

    Raises:
        ModelMismatch: As of :func:`check_same_model`.
        InputError: The prefixes, think budgets or pixel limits differ.
    """
    check_same_model(existing, wanted, label)
    if existing.prefix != wanted.prefix:
        raise InputError(
            f"{label} was made with a prefix of {existing.prefix} dimensions, and {wanted.prefix} were given (0: none); use the "
            "store's own, or fill a new generation with tte-retriever index … --reembed (an unfinished one is deleted by "
            "tte-retriever generations drop next)"
        )
    for name, default in (("think_budget", "all think tokens"), ("max_pixels", "the model's own limit")):
        made, given = getattr(existing, name), getattr(wanted, name)
        if made != given:
            raise InputError(
                f"{label} was made with {name} {default if made is None else made}, and what would be written has "
                f"{default if given is None else given}; load the model with the store's own, or fill a new generation with "
                "tte-retriever index … --reembed (an unfinished one is deleted by tte-retriever generations drop next)"
            )


def is_same_model(one: CollectionSpec, other: CollectionSpec) -> bool:
    """Whether the vectors of two collections can be compared: the prompts of queries do not count where both say so."""
    if one.documents and other.documents:
        return (one.documents, one.dim) == (other.documents, other.dim)
    return (one.fingerprint, one.dim) == (other.fingerprint, other.dim)


def not_begun(label: str) -> InputError:
    """The error of committing a store that is not the next generation."""
    return InputError(
        f"{label}: only the next generation can be committed, and this is not the next generation (any more); commit the "
        "store that begin_generation returned, before another one is begun"
    )


def nothing_before(label: str) -> InputError:
    """The error of rolling back a store that never had another generation."""
    return InputError(f"{label} has no generation to go back to; only a commit can be rolled back")


def nothing_begun(label: str) -> InputError:
    """The error of committing where there is no next generation."""
    return InputError(f"{label} has no next generation to commit; begin one with tte-retriever index … --reembed")


def not_dropped(label: str, role: Role, held: Iterable[Role]) -> InputError:
    """The error of dropping the current generation, or one that does not exist."""
    others = ", ".join(each for each in held if each != "current") or "no other"
    return InputError(
        f"{label} cannot drop its {role} generation; beside the current one, which stays, it has {others}"
    )


def check_points(points: Sequence[Point], spec: CollectionSpec) -> None:
    """Refuse points that an engine would store and never find, or fail on.

    Raises:
        InputError: A point has a bad id or vector; the message names it.
    """
    for point in points:
        name = f"the point {point.id!r} ({point.payload.get('uri', 'no uri')})"
        try:
            UUID(point.id)
        except (ValueError, AttributeError, TypeError) as error:
            raise InputError(f"{name} has an id that is not a UUID; give one, such as str(uuid.uuid5(...))") from error
        vector = check_vector(point.vector, spec.dim, name)
        if spec.prefix:
            check_vector(vector[: spec.prefix], spec.prefix, f"{name}, cut to its first {spec.prefix} dimensions,")


def check_prefix(spec: CollectionSpec) -> None:
    """Refuse a prefix of an impossible length.

    Raises:
        InputError: It is negative, or not shorter than the vectors.
    """
    if not 0 <= spec.prefix < spec.dim:
        raise InputError(
            f"a prefix of {spec.prefix} of {spec.dim} dimensions makes no sense; give fewer, or 0 for none"
        )


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
        raise InputError(f"{name} has a vector of zeros, which has no direction; check the model")
    return vector


def check_limit(limit: int) -> None:
    """Refuse a number of hits below 1."""
    if limit < 1:
        raise InputError(f"the number of hits is {limit}; give 1 or more")


def check_selection(ids: Sequence[str] | None, compiled: object | None) -> None:
    """Refuse a deletion without exactly one of ids and a filter; ``compiled`` is the engine's form of the filter."""
    if (ids is None) == (compiled is None):
        raise InputError(
            "delete got both ids and a filter, or neither; give exactly one, and a filter that is not empty"
        )
