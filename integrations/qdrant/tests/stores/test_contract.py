from __future__ import annotations

import uuid

import numpy as np
import pytest

from tte_retriever.errors import InputError
from tte_retriever_qdrant.errors import ModelMismatch, StoreError, StoreNotFound
from tte_retriever_qdrant.records import CollectionSpec, Point

SPEC = CollectionSpec(dim=4, fingerprint="aaaa", model="some-model")


def point(name: str, vector: object, **payload: object) -> Point:
    return Point(str(uuid.uuid5(uuid.NAMESPACE_URL, name)), np.asarray(vector, np.float32), dict(payload))


POINTS = [
    point("a", [1, 0, 0, 0], uri="a.png", modality="image", asset_id="A"),
    point("b", [0.9, 0.1, 0, 0], uri="b.pdf", modality="page", asset_id="B", page=1),
    point("c", [0.5, 0.5, 0, 0], uri="b.pdf", modality="page", asset_id="B", page=2),
    point("d", [0, 1, 0, 0], uri="c.mp4", modality="video", asset_id="C", start_s=0.0, end_s=6.0),
    point("e", [0, 0, 1, 0], uri="c.mp4", modality="video", asset_id="C", start_s=6.0, end_s=7.5),
]
QUERY = np.array([1, 0, 0, 0], np.float32)


class TestContract:
    """What every engine must do; the fixture ``store`` is each of them in turn."""

    @pytest.fixture(autouse=True)
    def _filled(self, store):
        store.ensure(SPEC)
        store.upsert(POINTS)

    def test_best_first_with_cosine_scores(self, store):
        hits = store.search(QUERY * 7, limit=3)
        assert [hit.payload["uri"] for hit in hits] == ["a.png", "b.pdf", "b.pdf"]
        assert [hit.payload.get("page") for hit in hits] == [None, 1, 2]
        np.testing.assert_allclose([hit.score for hit in hits], [1, 0.9 / np.hypot(0.9, 0.1), 0.5**0.5], atol=1e-5)
        assert hits[0].id == POINTS[0].id
        assert hits[0].payload == POINTS[0].payload

    def test_filters(self, store):
        for filter, names in (
            ({"modality": "page"}, "bc"),
            ({"modality": ["page", "image"]}, "abc"),
            ({"page": 2}, "c"),
            ({"page": 2.0}, "c"),
            ({"page": [1, 2]}, "bc"),
            ({"start_s": 6.0}, "e"),
            ({"start_s": 6}, "e"),
            ({"end_s": 7.5, "modality": "video"}, "e"),
            ({"end_s": 7.5, "modality": "page"}, ""),
            ({"asset_id": ["A", "C"]}, "ade"),
            ({}, "abcde"),
            (None, "abcde"),
        ):
            wanted = {POINTS["abcde".index(name)].id for name in names}
            assert {hit.id for hit in store.search(QUERY, limit=10, filter=filter)} == wanted, filter
            assert store.count(filter) == len(wanted)

    def test_a_filter_that_no_engine_applies_alike_is_refused(self, store):
        for value in (True, None, [], [True], ["a", 1], float("nan"), {"a": 1}):
            for call in (lambda f: store.search(QUERY, 3, f), store.count, lambda f: store.delete(filter=f)):
                with pytest.raises((InputError, TypeError)):
                    call({"page": value})
        assert store.count() == 5

    def test_same_id_replaces(self, store):
        store.upsert([Point(POINTS[0].id, np.array([0, 0, 0, 1], np.float32), {"uri": "new.png"})])
        assert store.count() == 5
        assert store.search(np.array([0, 0, 0, 1]), limit=1)[0].payload == {"uri": "new.png"}

    def test_bad_points_are_refused_with_their_whole_batch(self, store):
        good = point("good", [1, 1, 1, 1])
        for bad, said in (
            (point("x", [np.nan, 0, 0, 0], uri="x.png"), "x.png"),
            (point("x", [np.inf, 0, 0, 0]), "infinite"),
            (point("x", [0, 0, 0, 0]), "zeros"),
            (point("x", [1, 0, 0]), r"\(3,\)"),
            (point("x", [[1, 0, 0, 0]]), r"\(1, 4\)"),
            (Point("x.png", np.ones(4, np.float32), {}), "UUID"),
        ):
            with pytest.raises(InputError, match=said):
                store.upsert([good, bad])
            assert store.count() == 5
            assert store.exists([good.id]) == set()

    def test_bad_queries_are_refused(self, store):
        for query in ([np.nan, 0, 0, 0], [0, 0, 0, 0], [1, 0]):
            with pytest.raises(InputError, match="query"):
                store.search(np.array(query), limit=1)
        with pytest.raises(InputError, match="1 or more"):
            store.search(QUERY, limit=0)

    def test_a_batch_is_each_of_its_searches(self, store):
        queries = np.eye(4)[:3] + 0.2
        filter = {"modality": ["page", "video"]}
        found = store.query_batch(queries, 2, filter)
        assert found == [store.search(query, 2, filter) for query in queries]
        assert [len(hits) for hits in found] == [2, 2, 2]
        assert store.query_batch([], 2) == []
        with pytest.raises(InputError, match="zeros"):
            store.query_batch([QUERY, QUERY * 0], 1)

    def test_exact_finds_the_same(self, store):
        assert store.search(QUERY, 3, {"modality": "page"}, exact=True) == store.search(QUERY, 3, {"modality": "page"})

    def test_a_sample_is_of_stored_vectors(self, store):
        wanted = {tuple(np.round(p.vector / np.linalg.norm(p.vector), 4)) for p in POINTS}
        assert {tuple(np.round(v, 4)) for v in store.sample(10)} == wanted
        assert store.sample(2).shape == (2, 4)
        store.delete([p.id for p in POINTS])
        assert store.sample(2).shape == (0, 4)

    def test_a_scroll_is_of_every_point_once(self, store):
        more = [point(f"more {i}", [i + 1, 1, 0, 0], uri=f"{i}.png", nested={"list": [i, "x"]}) for i in range(300)]
        store.upsert(more)
        found = {each.id: each for each in store.scroll()}
        assert len(list(store.scroll())) == len(found) == len(POINTS) + len(more)
        for wanted in (*POINTS, *more):
            assert found[wanted.id].payload == wanted.payload
            np.testing.assert_allclose(
                found[wanted.id].vector, wanted.vector / np.linalg.norm(wanted.vector), atol=1e-6
            )
            assert found[wanted.id].vector.dtype == np.float32
        store.delete([each.id for each in (*POINTS, *more)])
        assert list(store.scroll()) == []

    def test_exists_and_delete(self, store):
        absent = str(uuid.uuid4())
        assert store.exists([POINTS[0].id, absent]) == {POINTS[0].id}
        store.delete([POINTS[0].id, absent])
        assert store.exists([POINTS[0].id]) == set()
        store.delete(filter={"asset_id": "B"})
        assert store.count() == 2
        store.delete([])
        assert store.count() == 2

    def test_delete_without_saying_what_deletes_nothing(self, store):
        for arguments in ({}, {"filter": {}}, {"ids": [POINTS[0].id], "filter": {"page": 1}}):
            with pytest.raises(InputError, match="exactly one"):
                store.delete(**arguments)
        assert store.count() == 5

    def test_finalize_changes_nothing_that_is_found(self, store):
        before = [hit.id for hit in store.search(QUERY, 5)]
        store.finalize()
        assert [hit.id for hit in store.search(QUERY, 5)] == before

    def test_another_model_is_refused_with_both_fingerprints(self, store):
        store.ensure(CollectionSpec(dim=4, fingerprint="aaaa", model="the same, elsewhere"))
        with pytest.raises(ModelMismatch, match=r"aaaa.*bbbb.*new store") as caught:
            store.ensure(CollectionSpec(dim=4, fingerprint="bbbb"))
        assert caught.value.exit_code == 2
        assert store.spec == SPEC

    def test_after_close(self, store):
        store.close()
        store.close()
        for call in (lambda: store.search(QUERY, 1), store.count, lambda: store.ensure(SPEC)):
            with pytest.raises(StoreError, match="closed"):
                call()


def test_nothing_is_found_before_anything_was_stored(store):
    assert store.spec is None
    with pytest.raises(StoreNotFound, match="index something first"):
        store.search(QUERY, 1)
