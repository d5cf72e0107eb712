"""Contrastive loss over distinct candidates, with false negatives left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor


def masked_info_nce(queries: Tensor, candidates: Tensor, positives: Tensor, excluded: Tensor, scale: Tensor) -> Tensor:
    """InfoNCE in which candidates that also answer the query are no negatives.

    Args:
        queries: Unit vectors.  (B, E)
        candidates: Unit vectors of distinct candidates.  (N, E)
        positives: Index of each query's candidate.  (B,) int64
        excluded: True where a candidate other than the positive answers the query too.  (B, N) bool
        scale: Inverse temperature, a scalar.
    """
    scores = (queries.float() @ candidates.float().T * scale).masked_fill(excluded, -torch.inf)  # (B, N)
    loss = F.cross_entropy(scores, positives)
    if not len(queries) == len(candidates) == len(positives.unique()):
        return loss
    # Every candidate belongs to one query: the other direction is a task of its own (image → caption).
    return (loss + F.cross_entropy(scores.T, positives.argsort())) / 2
