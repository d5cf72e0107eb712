"""Choose which items share a forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tte_retriever.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

_BATCH_OVERHEAD = 32
"""Cost of one more forward pass, in tokens: less padding than that is cheaper than another batch."""


def pack(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Split items into batches with the least padding.

    The items are sorted by length and cut where the number of padded tokens, plus a few tokens for each batch, is smallest.

    Args:
        lengths: Number of tokens of each item.
        batch_tokens: The most tokens in a batch, padding included. A longer item gets a batch of its own.

    Returns:
        Batches of indices into ``lengths``, the longest first.

    Raises:
        InputError: If ``batch_tokens`` is not positive.

    Example:
        >>> pack([10, 500, 12, 480], batch_tokens=1000)
        [[3, 1], [0, 2]]
    """
    if batch_tokens < 1:
        raise InputError(f"batch_tokens is {batch_tokens}; give a positive number of tokens, such as 8192.")
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    cheapest, cuts = [0], [0]  # for the first n items: least cost, and where their last batch starts
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        first = max(0, min(end - 1, end - batch_tokens // max(longest, 1)))
        cost, cut = min(
            (cheapest[start] + (end - start) * longest + _BATCH_OVERHEAD, start) for start in range(first, end)
        )
        cheapest.append(cost)
        cuts.append(cut)
    batches, end = [], len(order)
    while end:
        batches.append(order[cuts[end] : end])
        end = cuts[end]
    return batches
