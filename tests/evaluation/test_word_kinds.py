"""Kinds of the words of the small world."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from tte_retriever.small_world import FAMILIES, Clip, draw_pairs, word_kinds


def kinds(text):
    return dict(zip(text.split(), word_kinds.word_kinds(text.split()), strict=True))


def test_no_word_is_of_two_kinds():
    for one, other in combinations(word_kinds._WORDS.values(), 2):
        assert not set(one) & set(other)


def test_a_place_is_a_direction_where_something_moves_or_lies_from_a_thing():
    moves = word_kinds.word_kinds(["north", "ring", "moves", "north", "so", "moves", "north"])
    assert moves == ["place", "shape", "event", "direction", "other", "event", "direction"]
    assert kinds("west ring south northwest big red cross so red")["south"] == "direction"
    assert kinds("west ring south northwest big red cross so red")["northwest"] == "place"
    assert kinds("west big ring east small cross so east") == {
        **{"west": "place", "big": "size", "ring": "shape", "east": "place", "small": "size"},
        **{"cross": "shape", "so": "other"},
    }
    assert kinds("dose oak so oak") == {"dose": "key", "oak": "value", "so": "other"}


@settings(max_examples=60, deadline=None)
@given(family=st.sampled_from(FAMILIES), seed=st.integers(0, 2**31))
def test_only_so_is_in_no_list_and_directions_are_as_many_as_are_said(family, seed):
    (pair,) = draw_pairs(family, 1, seed=seed, split="test")
    words = pair.query_rationale.split()
    found = word_kinds.word_kinds(words)
    assert {word for word, kind in zip(words, found, strict=True) if kind == "other"} <= {"so"}
    related = pair.kind == "question/beside"
    moves = words.count("moves") if isinstance(pair.content, Clip) or "moves" in words else 0
    assert found.count("direction") == moves + related
