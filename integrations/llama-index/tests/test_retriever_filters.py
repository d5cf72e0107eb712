"""The filters of LlamaIndex, as the store applies them."""

from __future__ import annotations

import pytest
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters

from tte_retriever.errors import InputError


def condition(key, operator, value):
    return MetadataFilter(key=key, operator=operator, value=value)


FILTERS = {
    "==": ([condition("uri", "==", "red.png")], "and", {"red.png"}),
    "== of a number": ([condition("page", "==", 2)], "and", {"doc.pdf#2"}),
    "!=": (
        [condition("modality", "!=", "video")],
        "and",
        {"red.png", "sub/blue.jpg", "notes.md", "doc.pdf#1", "doc.pdf#2"},
    ),
    "in": ([condition("modality", "in", ["page", "text"])], "and", {"doc.pdf#1", "doc.pdf#2", "notes.md"}),
    "nin": ([condition("modality", "nin", ["page", "video", "image"])], "and", {"notes.md"}),
    ">": ([condition("page", ">", 1)], "and", {"doc.pdf#2"}),
    "<": ([condition("page", "<", 2)], "and", {"doc.pdf#1"}),
    ">=": ([condition("start_s", ">=", 6.0)], "and", {"clip.mp4#6.0"}),
    "<=": ([condition("end_s", "<=", 6)], "and", {"clip.mp4#0.0"}),
    "the same key twice": ([condition("page", ">", 0), condition("page", "<", 2)], "and", {"doc.pdf#1"}),
    "or": ([condition("page", "==", 1), condition("uri", "==", "red.png")], "or", {"doc.pdf#1", "red.png"}),
    "not": (
        [condition("modality", "in", ["page", "video"]), condition("uri", "==", "red.png")],
        "not",
        {"sub/blue.jpg", "notes.md"},
    ),
    "nested": (
        [condition("modality", "==", "page"), MetadataFilters(filters=[condition("page", "==", 1)], condition="not")],
        "and",
        {"doc.pdf#2"},
    ),
}


@pytest.mark.parametrize("name", FILTERS)
def test_filters_are_those_of_the_store(make, name, found):
    filters, how, expected = FILTERS[name]
    hits = make(filters=MetadataFilters(filters=filters, condition=how)).retrieve("x")
    names = {uri if page is None and start is None else f"{uri}#{page or start}" for uri, page, start in found(hits)}
    assert names == expected


@pytest.mark.parametrize(
    ("filter", "complaint"),
    [
        (condition("colour", "==", "red"), "filter key 'colour' is unknown"),
        (condition("uri", "text_match", "red"), "'text_match' is not supported; use one of ==, in"),
        (condition("page", "==", "2"), "page is a number"),
        (condition("uri", "in", []), "uri is text"),
        (condition("page", "==", None), "page is a number"),
        (condition("page", ">", [1]), "cannot be applied"),
    ],
)
def test_filters_that_a_store_cannot_apply_are_refused(make, filter, complaint):
    with pytest.raises(InputError, match=complaint):
        make(filters=MetadataFilters(filters=[filter])).retrieve("x")
