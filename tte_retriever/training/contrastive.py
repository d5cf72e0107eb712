"""Contrastive loss over distinct candidates, with false negatives left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Candidates:
    """Which items of a batch are candidates, and which of them are no negatives of a query.

    Attributes:
        distinct: The first item of every distinct candidate.  (N,) int64
        positives: Index of each query's candidate among the distinct ones.  (B,) int64
        excluded: True where a candidate other than the positive answers the query too.  (B, N) bool
    """

    distinct: Tensor
    positives: Tensor
    excluded: Tensor


def distinct_candidates(anchors: Tensor, items: Tensor, answers: Tensor | None = None) -> Candidates:
    """Tell candidates apart by what they are.

    A candidate answers a query if it is the positive of any row with the same anchor, or one of the row's ``answers``.

    Args:
        anchors: Identity of each anchor.  (B,) int64
        items: Identity of each item of the other columns: all positives, then all negatives.  (C,) int64, C >= B
        answers: Identities of everything known to answer each anchor, padded with -1.  (B, M) int64
    """
    distinct, index = items.unique(return_inverse=True)  # (N,), (C,)
    order = torch.arange(len(items), device=items.device)
    first = torch.full_like(distinct, len(items)).scatter_reduce(0, index, order, "amin")
    positives = index[: len(anchors)]
    questions = anchors.unique(return_inverse=True)[1]  # (B,)
    answered = torch.zeros(len(anchors), len(distinct), dtype=torch.bool, device=items.device)
    answered[questions, positives] = True
    excluded = answered[questions]  # (B, N)
    if answers is not None:
        place = torch.searchsorted(distinct, answers).clamp(max=len(distinct) - 1)  # (B, M)
        row, column = ((distinct[place] == answers) & (answers != -1)).nonzero(as_tuple=True)
        excluded[row, place[row, column]] = True
    excluded[order[: len(anchors)], positives] = False
    return Candidates(first, positives, excluded)


def masked_info_nce(
    queries: Tensor, candidates: Tensor, positives: Tensor, excluded: Tensor, scale: Tensor, *, symmetric: bool = False
) -> Tensor:
    """InfoNCE in which candidates that also answer the query are no negatives.

    Args:
        queries: Unit vectors.  (B, E)
        candidates: Unit vectors of distinct candidates.  (N, E)
        positives: Index of each query's candidate.  (B,) int64
        excluded: True where a candidate other than the positive answers the query too.  (B, N) bool
        scale: Inverse temperature, a scalar.
        symmetric: Whether every positive has to find its query as well, among the queries that it does not answer.
    """
    scores = queries.float() @ candidates.float().T * scale  # (B, N)
    loss = F.cross_entropy(scores.masked_fill(excluded, -torch.inf), positives)
    if not symmetric:
        return loss
    rows = torch.arange(len(queries), device=queries.device)
    answers = excluded.clone()
    answers[rows, positives] = True
    shared = answers[
        :, positives
    ].T  # (B, B): row i is the positive of query i, column k says whether it answers query k
    shared[rows, rows] = False
    return (loss + F.cross_entropy(scores[:, positives].T.masked_fill(shared, -torch.inf), rows)) / 2
