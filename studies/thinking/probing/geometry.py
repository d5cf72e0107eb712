"""Effective rank and mean cosine similarity of a set of vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tte_retriever.training.lame.diversity import pairwise_cosines

if TYPE_CHECKING:
    from torch import Tensor


def effective_rank(vectors: Tensor) -> float:
    """The exponential of the entropy of the normalised singular values (Roy & Vetterli, EUSIPCO 2007).

    The vectors are not centred, so a shared direction lowers the rank.

    Args:
        vectors: (B, D), not all zero.

    Returns:
        1 if all vectors lie on one line, up to min(B, D) if they are orthogonal and of equal length.
    """
    values = torch.linalg.svdvals(vectors.double())
    return float(torch.special.entr(values / values.sum()).sum().exp())


def mean_cosine(vectors: Tensor) -> Tensor:
    """Mean cosine over all pairs of different vectors of each set: (B, N, D) to (B,); 0 for sets of one."""
    return pairwise_cosines(vectors, torch.ones(vectors.shape[:2], dtype=torch.bool))[0]
