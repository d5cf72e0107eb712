"""Interventions change every thought, and only in the way that their names say."""

from __future__ import annotations

import pytest
import torch

from studies.thinking.probing.interventions import INTERVENTIONS, shuffle_words, swap_items
from tte_retriever.errors import InputError

LAYERS, ROWS, STEPS = 3, 7, 4


@pytest.fixture
def thoughts():
    """Hidden states that hold their own layer, item and step."""
    axes = torch.meshgrid(torch.arange(LAYERS), torch.arange(ROWS), torch.arange(STEPS), indexing="ij")
    return torch.stack(axes, dim=-1).float()


@pytest.mark.parametrize("seed", range(5))
def test_a_swap_gives_each_item_the_whole_thought_of_another(thoughts, seed):
    other = INTERVENTIONS["swap"](thoughts, seed)
    donors = other[0, :, 0, 1]
    assert sorted(donors.tolist()) == list(range(ROWS))
    assert (donors != torch.arange(ROWS)).all()
    assert torch.equal(other[..., 1], donors[:, None].expand(LAYERS, ROWS, STEPS))
    assert torch.equal(other[..., [0, 2]], thoughts[..., [0, 2]])
    assert swap_items(list("abcdefg"), seed) == ["abcdefg"[int(donor)] for donor in donors]


@pytest.mark.parametrize("steps", [2, 4])
def test_a_shuffle_changes_every_order_and_equally_in_all_layers(thoughts, steps):
    thoughts = thoughts[:, :, :steps]
    other = INTERVENTIONS["shuffle"](thoughts, 0)
    assert torch.equal(other[..., :2], thoughts[..., :2])
    orders = other[..., 2]
    assert torch.equal(orders.sort(-1).values, thoughts[..., 2])
    assert (orders == orders[:1]).all()
    assert (orders != thoughts[..., 2]).any(-1).all()


def test_zero_is_zeros_and_the_mean_is_equal_for_all(thoughts):
    assert not INTERVENTIONS["zero"](thoughts, 0).any()
    other = INTERVENTIONS["mean"](thoughts, 0)
    assert (other[..., 1] == (ROWS - 1) / 2).all()
    assert torch.equal(other[..., [0, 2]], thoughts[..., [0, 2]])


def test_too_few_items_or_steps_are_refused(thoughts):
    with pytest.raises(InputError, match="2 or more"):
        INTERVENTIONS["swap"](thoughts[:, :1], 0)
    with pytest.raises(InputError, match="2 or more"):
        INTERVENTIONS["shuffle"](thoughts[:, :, :1], 0)


def test_words_are_shuffled_unless_they_are_all_equal():
    text = "north big red circle so red"
    for seed in range(5):
        other = shuffle_words(text, seed)
        assert other != text
        assert sorted(other.split()) == sorted(text.split())
    assert shuffle_words("two", 0) == "two"
    assert shuffle_words("two two", 0) == "two two"
