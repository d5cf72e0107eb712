"""A written rationale is compared with the true one word by word, whatever tokens its words have."""

from __future__ import annotations

import pytest

from studies.thinking.probing.accuracy import compare, words_of

GOLD = "north big red circle so red"


@pytest.fixture
def ids_of(bundled):
    return lambda text: bundled.tokenizer(text, add_special_tokens=False).input_ids


def test_words_are_compared_in_their_places(bundled, ids_of):
    gold = ids_of(f" {GOLD}")
    same = compare(bundled.tokenizer, gold, gold, gold)
    assert same.exact
    assert all(same.free + same.forced)
    assert same.gold == tuple(GOLD.split())
    one = compare(bundled.tokenizer, gold, ids_of(" north big blue circle so red"), gold)
    assert (one.exact, one.free) == (False, (True, True, False, True, True, True))
    short = compare(bundled.tokenizer, gold, ids_of(" north big"), gold)
    assert short.free == (True, True, False, False, False, False)
    long = compare(bundled.tokenizer, gold, ids_of(f" {GOLD} so red"), gold)
    assert (long.exact, all(long.free)) == (False, True)
    nothing = compare(bundled.tokenizer, gold, [], gold)
    assert (nothing.written, any(nothing.free)) == ((), False)


def test_a_word_is_predicted_if_all_of_its_tokens_are(bundled, ids_of):
    gold = ids_of(f"<think>{GOLD}</think>\n")
    words = words_of(bundled.tokenizer, gold)
    assert [word for word, _ in words] == GOLD.split()
    for index, (_, tokens) in enumerate(words):
        wrong = [0 if place == tokens[-1] else token for place, token in enumerate(gold)]
        forced = compare(bundled.tokenizer, gold, gold, wrong).forced
        assert forced == tuple(place != index for place in range(len(words)))
    tags = {token for _, tokens in words for token in tokens} ^ set(range(len(gold)))
    wrong = [0 if place in tags else token for place, token in enumerate(gold)]
    assert all(compare(bundled.tokenizer, gold, gold, wrong).forced)  # tags are not words


def test_words_of_several_tokens(untrained):
    tokenizer = untrained("tte-flash").tokenizer  # a token a letter
    gold = tokenizer(" red ring", add_special_tokens=False).input_ids
    assert [(word, len(tokens)) for word, tokens in words_of(tokenizer, gold)] == [("red", 3), ("ring", 4)]
    wrong = [*gold[:-1], gold[0]]
    assert compare(tokenizer, gold, wrong, wrong).forced == (True, False)
    assert compare(tokenizer, gold, wrong, wrong).free == (True, False)
