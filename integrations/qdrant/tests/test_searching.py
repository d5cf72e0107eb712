from __future__ import annotations

import uuid

import numpy as np
import pytest

from tte_retriever.errors import InputError
from tte_retriever_qdrant import ingest, search
from tte_retriever_qdrant.filters import And, Not, Or, Range
from tte_retriever_qdrant.records import CollectionSpec, Point
from tte_retriever_qdrant.searching import best_per_asset


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
