"""How much room a set of vectors takes, and how alike they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tte_retriever.training.lame.diversity import pairwise_cosines

if TYPE_CHECKING:
    from torch import Tensor


def effective_rank(vectors: Tensor) -> float:
    """The exponential of the entropy of the normalised singular values (Roy & Vetterli, EUSIPCO 2007).

    Nothing is centred: vectors that share a direction have a low rank for it.

    Args:
        vectors: (B, D), not all zero.

    Returns:
        From 1, all on one line, to min(B, D), orthogonal and of one length.
    """
    values = torch.linalg.svdvals(vectors.double())
    return float(torch.special.entr(values / values.sum()).sum().exp())


def mean_cosine(vectors: Tensor) -> Tensor:
    """Mean cosine over all pairs of different vectors of each set: (B, N, D) to (B,); 0 for sets of one."""
    return pairwise_cosines(vectors, torch.ones(vectors.shape[:2], dtype=torch.bool))[0]
