"""The rate at which two answers would agree by chance, compared with pairs that are counted one by one."""

from __future__ import annotations

import random
from itertools import permutations

import numpy as np
import pytest

from studies.thinking.probing.agreement import agreement_by_chance


@pytest.mark.parametrize("grouped", [False, True])
def test_it_is_the_share_of_agreeing_pairs_of_different_queries(grouped):
    draw = random.Random(0)
    one, other, among = ([draw.choice("abc") for _ in range(12)] for _ in range(3))
    shares = []
    for i in range(12):
        peers = [j for j in range(12) if j != i and (not grouped or among[i] == among[j])]
        shares += [np.mean([one[i] == other[j] for j in peers])] if peers else []
    assert agreement_by_chance(one, other, among if grouped else None) == pytest.approx(np.mean(shares))


def test_independent_answers_agree_as_often_as_chance_says():
    """Over all ways to pair them, the mean agreement is the rate by chance and each query's own pair."""
    one, other = list("aabc"), list("abbb")
    observed = np.mean([[a == b for a, b in zip(one, order, strict=True)] for order in permutations(other)])
    own = np.mean([a == b for a, b in zip(one, other, strict=True)])
    assert agreement_by_chance(one, other) * 3 / 4 + own / 4 == pytest.approx(observed)


def test_given_the_right_answer_the_rate_is_that_of_otherwise_independent_answers():
    right = ["a"] * 4 + ["b"] * 4
    same_mistake = ["a", "a", "c", "c", "b", "b", "c", "c"]
    assert agreement_by_chance(right, right) < 1
    assert agreement_by_chance(right, right, right) == 1
    assert agreement_by_chance(same_mistake, same_mistake, right) == pytest.approx(1 / 3)  # in fact they always agree


def test_there_has_to_be_another_query():
    assert agreement_by_chance(["a"], ["a"]) is None
    assert agreement_by_chance(["a", "b"], ["a", "b"], ["a", "b"]) is None
