"""Thoughts that are not one's own: what a thought is replaced by, to see whether the embedding depends on it."""

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
    """For each of ``count`` rows another one, each of them once; (B,) int64.

    Raises:
        InputError: If there is no other.
    """
    if count < 2:
        raise InputError(f"A thought is swapped with that of another item, but there are {count}; give 2 or more.")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return torch.empty_like(order).scatter(0, order, order.roll(1))


def swap(thoughts: Tensor, seed: int) -> Tensor:
    """Each item thinks what another one thought."""
    return thoughts[:, swapped_rows(thoughts.shape[1], seed)]


def shuffle(thoughts: Tensor, seed: int) -> Tensor:
    """Each item thinks its own thought in another order, the same in all layers.

    Raises:
        InputError: If there is no other order.
    """
    _, rows, steps, _ = thoughts.shape
    if steps < 2:
        raise InputError(f"The thought has {steps} step, which has no other order; give 2 or more.")
    order = torch.rand(rows, steps, generator=torch.Generator().manual_seed(seed)).argsort(1)  # (B, K)
    same = (order == torch.arange(steps)).all(1, keepdim=True)  # (B, 1)
    order = torch.where(same, order.roll(1, 1), order)
    return thoughts[:, torch.arange(rows)[:, None], order]


def zero(thoughts: Tensor, _seed: int) -> Tensor:
    """Each item thinks nothing."""
    return torch.zeros_like(thoughts)


def mean(thoughts: Tensor, _seed: int) -> Tensor:
    """Each item thinks what all of them think on average, step by step."""
    return thoughts.mean(1, keepdim=True).expand_as(thoughts)


INTERVENTIONS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "swap": swap,
    "shuffle": shuffle,
    "zero": zero,
    "mean": mean,
}
"""Name → a function of the states at the thoughts of several items, (layers, B, K, D), and a seed, to others like them."""


def swap_items(items: Sequence[T], seed: int) -> list[T]:
    """As :func:`swap`, for anything that there is one of for each item, such as rationales."""
    return [items[row] for row in swapped_rows(len(items), seed).tolist()]


def shuffle_words(text: str, seed: int) -> str:
    """A text with its words in another order, or as it is if all orders read the same."""
    words = text.split()
    if len(set(words)) < 2:
        return text
    order, random_order = list(words), random.Random(seed)
    while order == words:
        random_order.shuffle(order)
    return " ".join(order)
