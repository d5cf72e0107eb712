"""How every engine indexes and searches a collection, and how a point's vector is stored in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tte_retriever_qdrant.records import CollectionSpec

QUANTIZE_FROM = 10_000
"""A collection of this many points is indexed by int8 vectors; the best matches are scored with the originals."""

HNSW_EF = 256
"""Candidates that a search of the index keeps."""

OVERSAMPLING = 3.0
"""Int8 matches per hit that are scored with the original vectors."""

FULL, PREFIX = "full", "prefix"
"""Names of a point's two vectors in a collection with a prefix; without a prefix, its one vector has no name."""

SCROLL_PAGE = 128
"""Points read at a time; 10 MB of JSON at 4096 dimensions."""


def candidates(limit: int) -> int:
    """How many points are found by their prefix and then scored by their full vectors."""
    return max(100, 10 * limit)


def to_stored(vector: np.ndarray, spec: CollectionSpec) -> Any:
    """A vector (D,) in the form in which engines take it."""
    full = vector.astype(np.float32).tolist()
    return {FULL: full, PREFIX: full[: spec.prefix]} if spec.prefix else full


def from_stored(stored: Any, spec: CollectionSpec) -> np.ndarray:
    """The vector (D,), float32, of what an engine returns."""
    return np.array(stored[FULL] if spec.prefix else stored, np.float32)
