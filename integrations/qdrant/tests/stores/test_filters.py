from __future__ import annotations

import uuid

import numpy as np
import pytest

from tte_retriever.errors import InputError
from tte_retriever_qdrant.filters import And, Not, Or, Range, filter_keys, parse_filters
from tte_retriever_qdrant.records import CollectionSpec, Point

PAYLOADS = {
    "a": {"uri": "a.png", "modality": "image", "asset_id": "A"},
    "b": {"uri": "b.pdf", "modality": "page", "asset_id": "B", "page": 1},
    "c": {"uri": "b.pdf", "modality": "page", "asset_id": "B", "page": 2},
    "d": {"uri": "c.mp4", "modality": "video", "asset_id": "C", "start_s": 0.0, "end_s": 6.0},
    "e": {"uri": "c.mp4", "modality": "video", "asset_id": "C", "start_s": 6.0, "end_s": 7.5},
}


@pytest.fixture
def filled(store):
    store.ensure(CollectionSpec(2, "aaaa"))
    store.upsert([Point(str(uuid.uuid5(uuid.NAMESPACE_URL, n)), np.ones(2), p) for n, p in PAYLOADS.items()])
    return store


def test_every_engine_finds_the_same(filled):
    for filter, names in (
        ({"modality": "page"}, "bc"),
        ({"modality": ("page", "image"), "uri": "a.png"}, "a"),
        (Range("page", gte=2), "c"),
        (Range("page", gt=1.5, lt=2.5), "c"),
        (Range("start_s", lte=0), "d"),
        (Range("end_s", gt=6), "e"),
        (Range("end_s", gt=6, lte=7), ""),
        (Or(({"page": 1}, {"modality": "image"})), "ab"),
        (Or(({"page": 1}, {})), "abcde"),
        (And(({"uri": "b.pdf"}, Range("page", lt=2))), "b"),
        (And(()), "abcde"),
        (And(({}, {"page": 2})), "c"),
        (Not({"modality": "video"}), "abc"),
        (Not({"page": 1}), "acde"),
        (Not(Range("page", gte=2)), "abde"),
        (Not(Not({"page": 1})), "b"),
        (Not(Or(({"page": 1}, {"asset_id": "C"}))), "ac"),
        (Or((And(({"asset_id": "C"}, Not({"end_s": 6}))), {"page": [2, 3]})), "ce"),
    ):
        wanted = {str(uuid.uuid5(uuid.NAMESPACE_URL, name)) for name in names}
        assert {hit.id for hit in filled.search(np.ones(2), 10, filter)} == wanted, filter
        assert filled.count(filter) == len(wanted)


def test_delete_by_a_nested_filter(filled):
    filled.delete(filter=And(({"asset_id": "C"}, Range("start_s", gte=6))))
    assert filled.count() == 4
    with pytest.raises(InputError, match="exactly one"):
        filled.delete(filter=And(({},)))
    assert filled.count() == 4


def test_what_cannot_be_applied_is_refused(filled):
    for filter, said in (
        (Or(()), "Or without parts"),
        (Not({}), "excludes everything"),
        (Not(And(())), "excludes everything"),
        (Range("page"), "one or more of gt"),
        (Range("page", gt=float("nan")), "finite"),
        (Range("page", gt="1"), "finite"),
        (And(({"page": True},)), "page=True"),
        ({"page": []}, "page"),
        (["page"], "no filter"),
        (And(("page=1",)), "no filter"),
    ):
        for call in (filled.search, filled.count):
            with pytest.raises(InputError, match=said):
                call(*((np.ones(2), 1) if call == filled.search else ()), filter)


def test_keys():
    assert filter_keys(And((Not(Range("page", gt=1)), Or(({"uri": "x", "modality": "y"},))))) == {
        "page",
        "uri",
        "modality",
    }
    assert filter_keys(None) == set()


def test_arguments():
    assert parse_filters(["modality=page", "page=2", "page=3", "uri=a=b"]) == {
        "modality": ["page"],
        "page": [2, 3],
        "uri": ["a=b"],
    }
    for wrong, said in (("page", "key=value"), ("x=1", "key=value"), ("page=one", "type int")):
        with pytest.raises(InputError, match=said):
            parse_filters([wrong])
