from __future__ import annotations

import uuid

import numpy as np
import pytest

from tte_retriever.errors import InputError
from tte_retriever_qdrant import ingest, search
from tte_retriever_qdrant.filters import And, Not, Or, Range
from tte_retriever_qdrant.records import CollectionSpec, Point
from tte_retriever_qdrant.searching import best_per_asset

pytestmark = pytest.mark.usefixtures("decode_here")


@pytest.mark.parametrize(
    ("filter", "found"),
    [
        (Range("page", gte=2), {("doc.pdf", 2), ("doc.pdf", 3)}),
        (Or(({"page": 1}, {"modality": "text"})), {("doc.pdf", 1), ("notes.md", None)}),
        (And(({"modality": "page"}, Not({"page": [1, 2]}))), {("doc.pdf", 3)}),
    ],
)
def test_filters_of_a_search(small_folder, store, encoder, filter, found):
    ingest(small_folder, store, encoder)
    assert {(hit.uri, hit.page) for hit in search(store, encoder, text="zebra", filter=filter)} == found


def test_an_unknown_key_deep_in_a_filter_is_named(small_folder, store, encoder):
    ingest(small_folder, store, encoder)
    with pytest.raises(InputError, match=r"'pages'.*page"):
        search(store, encoder, text="zebra", filter=And(({"page": 1}, Not(Range("pages", gt=1)))))


def test_one_hit_per_file(small_folder, store, encoder):
    ingest(small_folder, store, encoder)
    every = search(store, encoder, image=np.full((9, 9, 3), (220, 20, 20), np.uint8), top_k=100)
    hits = search(store, encoder, image=np.full((9, 9, 3), (220, 20, 20), np.uint8), top_k=100, per_asset=True)
    assert sorted(hit.uri for hit in hits) == ["clip.mp4", "doc.pdf", "notes.md", "sub/cyan.jpg", "yellow.png"]
    assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5]
    for hit in hits:
        assert hit.score == max(other.score for other in every if other.uri == hit.uri)


def test_moments_that_take_all_the_places_do_not_hide_the_others(store, standin):
    """A long video whose every moment is nearer than anything else is one clip."""

    class Fixed(standin):
        def get_embedding_dimension(self):
            return 2

        def encode_query(self, inputs, **_):
            return np.array([[1, 0]])

    store.ensure(CollectionSpec(2, "aaaa"))
    moments = [
        (f"v{i}", [1, i / 1000], {"asset_id": "v", "modality": "video", "start_s": 2 * i, "end_s": 2 * i + 2})
        for i in range(300)
    ]
    pages = [(f"p{i}", [0.5, 1 + i], {"asset_id": "p", "modality": "page", "page": i}) for i in range(3)]
    store.upsert(
        [
            Point(str(uuid.uuid5(uuid.NAMESPACE_URL, name)), np.array(vector, np.float32), {"uri": "x", **payload})
            for name, vector, payload in moments + pages
        ]
    )
    encoder = Fixed(fingerprint="aaaa")
    hits = search(store, encoder, text="x", top_k=3, clips=True)
    assert [(hit.rank, hit.start_s, hit.end_s, hit.page) for hit in hits] == [
        (1, 0, 600, None),
        (2, None, None, 0),
        (3, None, None, 1),
    ]
    assert [hit.asset_id for hit in search(store, encoder, text="x", top_k=3, clips=True, per_asset=True)] == [
        "v",
        "p",
    ]
    assert {hit.start_s for hit in search(store, encoder, text="x", top_k=3)} == {0, 2, 4}  # equally good


def test_exact_reaches_the_engine(small_folder, store, encoder, monkeypatch):
    ingest(small_folder, store, encoder)
    asked, real = [], store.query_batch

    def query_batch(vectors, limit, filter, *, exact):
        asked.append(exact)
        return real(vectors, limit, filter, exact=exact)

    monkeypatch.setattr(store, "query_batch", query_batch)
    for exact in (True, False):
        search(store, encoder, text="zebra", exact=exact)
        search(store, encoder, text="zebra", exact=exact, clips=True)
    assert asked == [True, True, False, False]


def test_assets_that_take_all_the_places_do_not_hide_the_others(store):
    """A long video whose every moment is nearer than anything else."""
    store.ensure(CollectionSpec(2, "aaaa"))
    near = [(f"v{i}", "video", [1, i / 1000]) for i in range(100)]
    far = [(f"i{i}", f"image {i}", [0.5, 1 + i]) for i in range(5)]
    store.upsert(
        [
            Point(str(uuid.uuid5(uuid.NAMESPACE_URL, name)), np.array(vector, np.float32), {"asset_id": asset})
            for name, asset, vector in near + far
        ]
    )
    hits = best_per_asset(store, np.array([1, 0]), 4)
    assert [hit.payload["asset_id"] for hit in hits] == ["video", "image 0", "image 1", "image 2"]
    assert len(best_per_asset(store, np.array([1, 0]), 50)) == 6
    assert [hit.payload["asset_id"] for hit in best_per_asset(store, np.array([1, 0]), 1)] == ["video"]
