from __future__ import annotations

import pytest

from tte_retriever_qdrant.moments import merge_moments
from tte_retriever_qdrant.records import Hit


def moment(score, start_s, end_s, asset="a"):
    return Hit(
        f"{asset}{start_s}", score, {"asset_id": asset, "uri": f"{asset}.mp4", "start_s": start_s, "end_s": end_s}
    )


def spans(hits):
    return [(hit.payload["asset_id"], hit.payload["start_s"], hit.payload["end_s"], hit.score) for hit in hits]


@pytest.mark.parametrize(
    ("hits", "clips"),
    [
        ([moment(0.9, 6, 12), moment(0.8, 12, 18)], [("a", 6, 18, 0.9)]),  # follow each other
        ([moment(0.9, 6, 12), moment(0.8, 2, 8)], [("a", 2, 12, 0.9)]),  # overlap
        ([moment(0.9, 6, 12), moment(0.8, 12.001, 18)], [("a", 6, 18, 0.9)]),  # rounded to milliseconds
        ([moment(0.9, 6, 12), moment(0.8, 18, 24)], [("a", 6, 12, 0.9), ("a", 18, 24, 0.8)]),  # a gap
        ([moment(0.9, 6, 12), moment(0.8, 12, 18, "b")], [("a", 6, 12, 0.9), ("b", 12, 18, 0.8)]),  # two videos
        ([moment(0.9, 6, 12), moment(0.5, 12, 18)], [("a", 6, 12, 0.9), ("a", 12, 18, 0.5)]),  # much worse
        ([moment(-0.1, 6, 12), moment(-0.2, 12, 18)], [("a", 6, 12, -0.1), ("a", 12, 18, -0.2)]),  # opposite
        # a third one closes the gap between two
        ([moment(0.9, 0, 6), moment(0.88, 12, 18), moment(0.85, 6, 12)], [("a", 0, 18, 0.9)]),
        # what is joined does not make the next one good enough: 0.6 of 0.9, though 0.8 of 0.75
        ([moment(0.9, 0, 6), moment(0.75, 6, 12), moment(0.6, 12, 18)], [("a", 0, 12, 0.9), ("a", 12, 18, 0.6)]),
    ],
)
def test_what_becomes_a_clip(hits, clips):
    assert spans(merge_moments(hits)) == clips


def test_all_else_stays_where_it_is():
    page = Hit("p", 0.7, {"asset_id": "p", "uri": "p.pdf", "page": 2})
    text = Hit("t", 0.6, {"asset_id": "t", "uri": "t.txt"})
    hits = [moment(0.8, 0, 6), page, moment(0.79, 6, 12), text]
    assert [hit.id for hit in merge_moments(hits)] == ["a0", "p", "t"]
    assert merge_moments([page, text, page]) == [page, text, page]


def test_the_hits_themselves_are_not_changed():
    hits = [moment(0.9, 6, 12), moment(0.8, 12, 18)]
    merge_moments(hits)
    assert spans(hits) == [("a", 6, 12, 0.9), ("a", 12, 18, 0.8)]
