"""Cosines between the reason states of an item: a regulariser, and a measure of collapse."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor


def pairwise_cosines(states: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Mean, and mean square, of the cosine over all pairs of different states of each row.

    Args:
        states: (B, K, D)
        present: True where there is a state.  (B, K) bool

    Returns:
        (B,) float32 each, 0 for rows with fewer than two states.
    """
    units = F.normalize(states.float(), dim=-1)
    cosines = units @ units.mT  # (B, K, K)
    pairs = present[:, :, None] & present[:, None, :]  # (B, K, K)
    pairs.diagonal(dim1=1, dim2=2).fill_(False)
    count = pairs.sum((1, 2)).clamp(min=1)  # (B,)
    return (cosines * pairs).sum((1, 2)) / count, (cosines.square() * pairs).sum((1, 2)) / count
