"""Paired comparison: it finds real differences, has honest intervals, and refuses scores that do not match."""

from __future__ import annotations

import numpy as np
import pytest

from studies.thinking.comparison import mean_over_tasks, paired_difference
from tte_retriever.errors import InputError


def drawn(seed, seeds=3, queries=400, rate=0.5):
    return (np.random.default_rng(seed).random((seeds, queries)) < rate).astype(float)


def test_a_mean_over_tasks_not_over_queries():
    scores = {"easy": np.ones((2, 1000)), "hard": np.zeros((2, 10))}
    found = mean_over_tasks(scores)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))


def test_intervals_cover_the_mean_as_often_as_they_should():
    """Of 200 samples of one population, about 190 intervals cover its mean."""
    held = sum(
        found.low <= 0.3 <= found.high
        for found in (mean_over_tasks({"task": drawn(seed, 1, 150, 0.3)}, resamples=400) for seed in range(200))
    )
    assert 180 <= held <= 198


def test_pairing_finds_a_difference_that_separate_intervals_hide():
    hard = drawn(0)
    better = np.where(np.random.default_rng(1).random(hard.shape) < 0.03, 1.0, hard)
    bars = mean_over_tasks({"task": hard}), mean_over_tasks({"task": better})
    assert bars[0].high > bars[1].low  # they overlap
    assert paired_difference({"task": better}, {"task": hard}).is_positive
    assert paired_difference({"task": hard}, {"task": better}).is_negative


def test_no_difference_is_found_where_there_is_none():
    found = paired_difference({"task": drawn(2)}, {"task": drawn(3)})
    assert not found.is_positive
    assert not found.is_negative


def test_seeds_that_disagree_widen_the_interval():
    """The same queries gain as much in the mean, but all of it in one seed."""
    agree, one_seed = np.full((3, 400), 0.1), np.zeros((3, 400))
    one_seed[0] = 0.3
    steady, shaky = mean_over_tasks({"task": agree}), mean_over_tasks({"task": one_seed})
    assert steady.value == pytest.approx(shaky.value)
    assert steady.is_positive
    assert not shaky.is_positive


def test_scores_that_do_not_match_are_refused():
    with pytest.raises(InputError, match="same queries"):
        paired_difference({"task": drawn(0, queries=4)}, {"task": drawn(0, queries=5)})
    with pytest.raises(InputError, match="training seeds"):
        mean_over_tasks({"one": drawn(0, seeds=1), "two": drawn(0, seeds=2)})
    with pytest.raises(InputError, match="at least one task"):
        mean_over_tasks({})
