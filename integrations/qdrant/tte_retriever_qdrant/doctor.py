"""Check what searches depend on: the installation, the store, its model and its index."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tte_retriever.errors import InputError, TTEError
from tte_retriever_qdrant.encoder import spec_of
from tte_retriever_qdrant.stores import open_store
from tte_retriever_qdrant.stores.checks import check_same_model, check_vector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tte_retriever_qdrant.encoder import Encoder
    from tte_retriever_qdrant.stores import VectorStore

ENOUGH_RECALL = 0.95
"""Share of the truly nearest points that an index should find."""

_PACKAGES = (
    "tte-retriever",
    "tte-retriever-qdrant",
    "qdrant-client",
    "qdrant-edge-py",
    "sentence-transformers",
    "torch",
)
_SAMPLE = 100
_K = 10


@dataclass(frozen=True)
class Finding:
    """The result of one examination.

    Attributes:
        name: The subject: ``environment``, ``store``, ``model`` or ``recall``.
        ok: Whether all is well.
        detail: The result and, if not all is well, what to do.
    """

    name: str
    ok: bool
    detail: str


def examine(uri: str, load: Callable[[str], Encoder], model: str | None = None) -> Iterator[Finding]:
    """Examine a store without changing it.

    Args:
        uri: As for ``open_store``.
        load: Loads a model by name.
        model: The model to use; ``None`` is the one that the store names.

    Yields:
        Findings; later ones are left out where earlier problems prevent them.
    """
    versions = [f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES]
    yield Finding("environment", True, f"Python {platform.python_version()}, {', '.join(versions)}")
    try:
        store = open_store(uri, create=False)
    except TTEError as error:
        yield Finding("store", False, str(error))
        return
    with store:
        for name, look in (
            ("store", _look_at_store),
            ("model", partial(_look_at_model, load, model)),
            ("recall", _look_at_index),
        ):
            try:
                found = look(store)
            except TTEError as error:
                found = False, str(error)
            if found is not None:
                yield Finding(name, *found)


def _look_at_store(store: VectorStore) -> tuple[bool, str]:
    points, spec = store.count(), store.spec
    detail = f"{points} points of {spec.dim if spec else 0} dimensions"
    return points > 0, detail if points else f"{detail}; index something first"


def _look_at_model(load: Callable[[str], Encoder], model: str | None, store: VectorStore) -> tuple[bool, str]:
    if store.spec is None:
        raise InputError("the store holds nothing yet; index something first")
    name = model or store.spec.model
    if not name:
        raise InputError("the store does not name its model; give it with --model")
    encoder = load(name)
    wanted = spec_of(encoder, name)
    check_same_model(store.spec, wanted, "the store")
    vectors = np.asarray(encoder.encode_query([{"text": "a test"}], batch_size=1, show_progress_bar=False))
    check_vector(vectors[0], wanted.dim, "the model's test")
    return True, f"{name}, fingerprint {wanted.fingerprint}"


def _look_at_index(store: VectorStore) -> tuple[bool, str] | None:
    sample = store.sample(_SAMPLE)
    if not len(sample):
        return None
    found, truth = store.query_batch(sample, _K), store.query_batch(sample, _K, exact=True)
    # Compared by score and not by id, because of equally near points any one is right.
    shares = [
        sum(hit.score >= best[-1].score - 1e-5 for hit in hits) / len(best)
        for hits, best in zip(found, truth, strict=True)
    ]
    recall = sum(shares) / len(shares)
    detail = f"{recall:.3f} of the {_K} nearest are found, with {len(sample)} stored vectors as queries"
    if recall < ENOUGH_RECALL:
        detail += "; the index is broken or unfit for these vectors: fill a new generation with tte-retriever index … --reembed"
    return recall >= ENOUGH_RECALL, detail
