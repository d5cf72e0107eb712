"""Replacements for the thought of an item, which show whether its embedding depends on the thought."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, TypeVar

import torch

from tte_retriever.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

T = TypeVar("T")


def swapped_rows(count: int, seed: int) -> Tensor:
    """A permutation of ``count`` rows that leaves no row in its place; (B,) int64.

    Raises:
        InputError: There are fewer than two rows.
    """
    if count < 2:
        raise InputError(f"A thought can be swapped among items, and there are {count}; give 2 or more.")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return torch.empty_like(order).scatter(0, order, order.roll(1))


def swap(thoughts: Tensor, seed: int) -> Tensor:
    """Give each item the thought of another item."""
    return thoughts[:, swapped_rows(thoughts.shape[1], seed)]


def shuffle(thoughts: Tensor, seed: int) -> Tensor:
    """Put the steps of each item into another order, the same in all layers.

    Raises:
        InputError: There are fewer than two steps.
    """
    _, rows, steps, _ = thoughts.shape
    if steps < 2:
        raise InputError(f"The order of {steps} step cannot be changed; give 2 or more.")
    order = torch.rand(rows, steps, generator=torch.Generator().manual_seed(seed)).argsort(1)  # (B, K)
    same = (order == torch.arange(steps)).all(1, keepdim=True)  # (B, 1)
    order = torch.where(same, order.roll(1, 1), order)
    return thoughts[:, torch.arange(rows)[:, None], order]


def zero(thoughts: Tensor, _seed: int) -> Tensor:
    """Replace every hidden state by zeros."""
    return torch.zeros_like(thoughts)


def mean(thoughts: Tensor, _seed: int) -> Tensor:
    """Replace each step by its mean over the items."""
    return thoughts.mean(1, keepdim=True).expand_as(thoughts)


INTERVENTIONS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "swap": swap,
    "shuffle": shuffle,
    "zero": zero,
    "mean": mean,
}
"""Name → a function of the hidden states of several thoughts, (layers, B, K, D), and a seed, to states of the same shape."""


def swap_items(items: Sequence[T], seed: int) -> list[T]:
    """As :func:`swap`, for a list with one element for each item, such as its rationale."""
    return [items[row] for row in swapped_rows(len(items), seed).tolist()]


def shuffle_words(text: str, seed: int) -> str:
    """A text with its words in another order; unchanged if it has fewer than two different words."""
    words = text.split()
    if len(set(words)) < 2:
        return text
    order, random_order = list(words), random.Random(seed)
    while order == words:
        random_order.shuffle(order)
    return " ".join(order)
