"""What goes into a store and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

Role: TypeAlias = Literal["current", "previous", "next", "update"]
"""What a generation of a store is for: searched; gone back to; a re-embedding that is filled; a copy of the current one
that is brought up to date while that is searched."""

ROLES: tuple[Role, ...] = get_args(Role)

PAYLOAD_FIELDS: dict[str, type[str | int | float]] = {
    "uri": str,  # path of the file under the source folder, with forward slashes
    "modality": str,
    "asset_id": str,  # SHA-256 of the file's bytes
    "page": int,  # of documents, from 1
    "start_s": float,  # of videos, in seconds
    "end_s": float,
}
"""The payload keys that are indexed and can be filtered by, and the type of their values."""


@dataclass(frozen=True)
class CollectionSpec:
    """What a collection holds.

    Attributes:
        dim: Length of its vectors.
        fingerprint: Identity of the model that made them.
        model: Name or folder by which that model can be loaded again; empty where that is not known.
        prefix: For Matryoshka models: candidates are found by so many leading dimensions, which are all that is
            indexed, and scored by all of them. 0 is for models whose leading dimensions say nothing by themselves.
    """

    dim: int
    fingerprint: str
    model: str = ""
    prefix: int = 0


@dataclass(frozen=True)
class GenerationInfo:
    """One generation of a store.

    Attributes:
        role: What it is for.
        spec: What it holds.
        state_dir: The directory for what belongs beside its vectors, such as the ledger; it need not exist.
    """

    role: Role
    spec: CollectionSpec
    state_dir: Path


@dataclass(frozen=True, eq=False)
class Point:
    """One vector with its id and payload.

    Attributes:
        id: A UUID; writing another point with the same id replaces this one.
        vector: Shape (D,), float32, finite and not all zero.
        payload: JSON values; the keys of :data:`PAYLOAD_FIELDS` can be filtered by.
    """

    id: str
    vector: np.ndarray
    payload: dict[str, Any]


@dataclass(frozen=True)
class Hit:
    """A point that was found, with the cosine similarity of its vector to the query's."""

    id: str
    score: float
    payload: dict[str, Any]
