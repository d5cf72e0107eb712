"""Every engine against exact search by NumPy, on vectors with the structure that embeddings have."""

from __future__ import annotations

import time
import uuid

import numpy as np
import pytest

from tte_retriever.errors import InputError
from tte_retriever_qdrant.filters import And, Not, Range
from tte_retriever_qdrant.records import CollectionSpec, Point

DIM = 96


def embeddings(n: int, seed: int = 0) -> np.ndarray:
    """Unit vectors near a 24-dimensional subspace, as models make them; pure noise has no near neighbours to find."""
    basis = np.random.default_rng(7).normal(size=(24, DIM))
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, 24)) @ basis + rng.normal(size=(n, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def fill(store, vectors):
    if store.spec is None:
        store.ensure(CollectionSpec(DIM, "aaaa"))
    for start in range(0, len(vectors), 500):
        batch = enumerate(vectors[start : start + 500], start)
        store.upsert([Point(str(uuid.UUID(int=i)), v, {"page": i, "uri": f"{i % 7}"}) for i, v in batch])
    store.finalize()


def nearest(vectors, queries, allowed=None, k=10):
    scores = queries @ vectors.T
    if allowed is not None:
        scores[:, ~allowed] = -np.inf
    return np.argsort(-scores, axis=1)[:, :k]


def pages(answers):
    return np.array([[hit.payload["page"] for hit in answer] for answer in answers])


def test_the_ten_best_are_those_of_exact_search(store):
    vectors, queries = embeddings(600), embeddings(20, seed=1)
    fill(store, vectors)
    np.testing.assert_array_equal(pages(store.query_batch(queries, 10)), nearest(vectors, queries))
    scores = [[hit.score for hit in answer] for answer in store.query_batch(queries, 10)]
    np.testing.assert_allclose(scores, np.sort(queries @ vectors.T, axis=1)[:, :-11:-1], atol=1e-5)

    numbers = np.arange(600)
    allowed = (numbers >= 100) & (numbers % 7 != 3)
    filter = And((Range("page", gte=100), Not({"uri": "3"})))
    np.testing.assert_array_equal(pages(store.query_batch(queries, 10, filter)), nearest(vectors, queries, allowed))


@pytest.mark.slow
@pytest.mark.parametrize("uri", ["edge", "server", "server-grpc"], indirect=True)
def test_a_quantized_index_finds_what_exact_search_finds(store):
    vectors, queries = embeddings(12_000), embeddings(100, seed=1)
    fill(store, vectors)
    if hasattr(store, "_connection"):  # a server builds its index when it sees fit
        while store._connection.client.get_collection(store._collection).status != "green":
            time.sleep(0.2)
    else:
        assert list(store.state_dir.rglob("quantized*"))
    truth = nearest(vectors, queries)
    np.testing.assert_array_equal(pages(store.query_batch(queries, 10, exact=True)), truth)
    found = pages(store.query_batch(queries, 10))
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, truth, strict=True)])
    assert recall >= 0.99

    allowed = np.arange(12_000) % 7 == 3
    found, truth = pages(store.query_batch(queries, 10, {"uri": "3"})), nearest(vectors, queries, allowed)
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, truth, strict=True)]) >= 0.99


# staged queries: the prefix first, then the whole


def matryoshka(n, seed=0):
    """Vectors whose first 24 dimensions say nearly everything."""
    rng = np.random.default_rng(seed)
    vectors = np.concatenate([rng.normal(size=(n, 24)), 0.3 * rng.normal(size=(n, DIM - 24))], axis=1)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.slow
def test_candidates_by_prefix_are_scored_in_full(store):
    vectors, queries = matryoshka(600), matryoshka(20, seed=1)
    store.ensure(CollectionSpec(DIM, "aaaa", prefix=24))
    fill(store, vectors)
    np.testing.assert_array_equal(pages(store.query_batch(queries, 10, exact=True)), nearest(vectors, queries))
    staged = store.query_batch(queries, 10)
    recall = np.mean(
        [len(set(a) & set(b)) / 10 for a, b in zip(pages(staged), nearest(vectors, queries), strict=True)]
    )
    assert recall >= 0.99
    for query, hits in zip(queries, staged, strict=True):
        np.testing.assert_allclose(
            [h.score for h in hits], [vectors[h.payload["page"]] @ query for h in hits], atol=1e-5
        )
    allowed = np.arange(600) % 7 == 3
    assert set(pages(store.query_batch(queries, 10, {"uri": "3"})).ravel()) <= set(np.flatnonzero(allowed))
    assert store.sample(3).shape == (3, DIM)
    np.testing.assert_allclose((store.sample(3) @ vectors.T).max(axis=1), 1, atol=1e-5)


def test_only_the_prefix_finds_candidates(store):
    """Three hundred points point the query's way but for their first two dimensions; others do so in these only."""
    rng = np.random.default_rng(0)
    near = np.full((300, 8), 5.0)
    near[:, :2] = rng.normal(size=(300, 2)) - (9, 0)
    odd = np.full((150, 8), 0.01)
    odd[:, 0] = 1
    vectors = np.concatenate([near, odd])
    store.ensure(CollectionSpec(8, "aaaa", prefix=2))
    store.upsert([Point(str(uuid.UUID(int=i)), v.astype(np.float32), {"page": i}) for i, v in enumerate(vectors)])
    query = np.array([1.0, 0, 3, 3, 3, 3, 3, 3])
    assert store.search(query, 1, exact=True)[0].payload["page"] < 300
    assert store.search(query, 1)[0].payload["page"] >= 300


@pytest.mark.slow
@pytest.mark.parametrize("uri", ["edge", "server", "server-grpc"], indirect=True)
def test_an_index_of_prefixes(store):
    vectors, queries = matryoshka(12_000), matryoshka(100, seed=1)
    store.ensure(CollectionSpec(DIM, "aaaa", prefix=24))
    fill(store, vectors)
    truth = nearest(vectors, queries)
    found = store.query_batch(queries, 10)
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(pages(found), truth, strict=True)]) >= 0.95
    for query, hits in zip(queries, found, strict=True):
        np.testing.assert_allclose(
            [h.score for h in hits], [vectors[h.payload["page"]] @ query for h in hits], atol=1e-5
        )
    before = sorted(store.state_dir.glob("shard-*"))
    store.finalize()
    assert sorted(store.state_dir.glob("shard-*")) == before


def test_prefixes_that_are_none(store):
    for prefix in (-1, 4, 5):
        with pytest.raises(InputError, match="makes no sense"):
            store.ensure(CollectionSpec(4, "aaaa", prefix=prefix))
        with pytest.raises(InputError, match="makes no sense"):
            store.begin_generation(CollectionSpec(4, "aaaa", prefix=prefix))
    assert store.spec is None
    store.ensure(CollectionSpec(4, "aaaa", prefix=2))
    with pytest.raises(InputError, match=r"first 2 dimensions.*zeros"):
        store.upsert([Point(str(uuid.UUID(int=1)), np.array([0, 0, 1, 0], np.float32), {})])
    assert store.count() == 0
