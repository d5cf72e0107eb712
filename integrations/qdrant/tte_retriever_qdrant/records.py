"""The data that stores take and return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

Role: TypeAlias = Literal["current", "previous", "next", "update"]
"""The role of a generation: the one that is searched; the one before the last commit; the one that a re-embedding fills; a
copy of the current one that is being updated."""

ROLES: tuple[Role, ...] = get_args(Role)

PAYLOAD_FIELDS: dict[str, type[str | int | float]] = {
    "uri": str,  # path of the file under the source folder, with forward slashes
    "modality": str,
    "asset_id": str,  # SHA-256 of the file's bytes
    "page": int,  # of documents, from 1
    "start_s": float,  # of videos, in seconds
    "end_s": float,
}
"""The payload keys that filters may use, with the type of their values."""


@dataclass(frozen=True)
class CollectionSpec:
    """What a collection holds.

    Attributes:
        dim: Length of its vectors.
        fingerprint: Identity of the model that made them.
        model: Name or folder from which the model can be loaded; empty if unknown.
        prefix: Number of leading dimensions that are indexed and find candidates, which are then scored by all
            dimensions. For Matryoshka models only; 0 indexes whole vectors.
        documents: Identity of the model without its prompts of queries, by which models are compared; empty in
            collections that were made before it was recorded.
        think_budget: Think tokens or latent steps of its vectors; ``None`` is all of the model's.
        max_pixels: The most pixels of an image that the model saw; ``None`` is the model's own limit.
    """

    dim: int
    fingerprint: str
    model: str = ""
    prefix: int = 0
    documents: str = ""
    think_budget: int | None = None
    max_pixels: int | None = None


@dataclass(frozen=True)
class GenerationInfo:
    """One generation of a store.

    Attributes:
        role: Its role.
        spec: What it holds.
        state_dir: The directory of files that belong to its vectors, such as the ledger; it may not exist.
    """

    role: Role
    spec: CollectionSpec
    state_dir: Path


@dataclass(frozen=True, eq=False)
class Point:
    """One vector with its id and payload.

    Attributes:
        id: A UUID; a point written later with the same id replaces this one.
        vector: Shape (D,), float32, finite and not all zero.
        payload: JSON values; filters may use the keys of :data:`PAYLOAD_FIELDS`.
    """

    id: str
    vector: np.ndarray
    payload: dict[str, Any]


@dataclass(frozen=True)
class Hit:
    """A point found by a search, with the cosine similarity of its vector and the query."""

    id: str
    score: float
    payload: dict[str, Any]
