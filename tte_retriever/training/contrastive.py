"""InfoNCE over the distinct candidates of a batch, with false negatives masked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from sentence_transformers.util import all_gather
from sentence_transformers.util.distributed import all_gather_padded
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(frozen=True)
class Candidates:
    """Which items of a batch are candidates, and which of them are masked as false negatives of a query.

    Attributes:
        distinct: Index of the first item of every distinct candidate.  (N,) int64
        positives: Index of each query's candidate among the distinct ones.  (B,) int64
        excluded: True where a candidate other than the positive answers the query too.  (B, N) bool
    """

    distinct: Tensor
    positives: Tensor
    excluded: Tensor


def distinct_candidates(anchors: Tensor, items: Tensor, answers: Tensor | None = None) -> Candidates:
    """Find the distinct candidates by their identities, and the false negatives among them.

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


def batch_candidates(columns: Sequence[dict[str, Any]], *, gather: bool) -> Candidates:
    """The candidates of a batch, from the ``content_id`` and ``answer_ids`` of its columns.

    Args:
        columns: Features of the anchor, the positive and the hard negatives. Without ``content_id`` all items differ.
        gather: Whether the batches of all processes are one.
    """
    anchor = columns[0]
    answers = anchor.get("answer_ids")
    if "content_id" not in anchor:
        rows = len(anchor["input_ids"]) * (dist.get_world_size() if gather else 1)
        ids = list(torch.arange(rows * len(columns), device=anchor["input_ids"].device).split(rows))
    elif not gather:
        ids = [column["content_id"] for column in columns]
    else:
        ids = [all_gather(column["content_id"]) for column in columns]
        if answers is not None:  # each process pads to a width of its own
            padded, known = all_gather_padded(answers[..., None], answers != -1)
            answers = padded[..., 0].masked_fill(~known, -1)
    return distinct_candidates(ids[0], torch.cat(ids[1:] or ids), answers)


def masked_info_nce(
    queries: Tensor, candidates: Tensor, positives: Tensor, excluded: Tensor, scale: Tensor, *, symmetric: bool = False
) -> Tensor:
    """InfoNCE (van den Oord et al., arXiv 1807.03748) without the candidates that are masked.

    Args:
        queries: Unit vectors.  (B, E)
        candidates: Unit vectors of distinct candidates.  (N, E)
        positives: Index of each query's candidate.  (B,) int64
        excluded: True where a candidate other than the positive answers the query too.  (B, N) bool
        scale: Inverse temperature.  ()
        symmetric: Whether to add the direction from each positive to its query, among the queries that it does not answer.

    Returns:
        () float32.
    """
    scores = queries.float() @ candidates.float().T * scale  # (B, N)
    loss = F.cross_entropy(scores.masked_fill(excluded, -torch.inf), positives)
    if not symmetric:
        return loss
    rows = torch.arange(len(queries), device=queries.device)
    answers = excluded.clone()
    answers[rows, positives] = True
    # (B, B): row i is the positive of query i, column k says whether it answers query k.
    shared = answers[:, positives].T
    shared[rows, rows] = False
    return (loss + F.cross_entropy(scores[:, positives].T.masked_fill(shared, -torch.inf), rows)) / 2


def matryoshka_info_nce(
    vectors: Sequence[Tensor], among: Candidates, scale: Tensor, *, dims: Sequence[int] | None, symmetric: bool
) -> Tensor:
    """The mean of :func:`masked_info_nce` over leading dimensions (Kusupati et al., arXiv 2205.13147); () float32.

    Args:
        vectors: Embeddings of the anchor, the positive and the hard negatives.  (B, E) each
        among: The candidates of the batch.
        scale: Inverse temperature.  ()
        dims: Numbers of leading dimensions; ``None`` is E alone.
        symmetric: As for :func:`masked_info_nce`.
    """
    queries, candidates = vectors[0], torch.cat(list(vectors[1:]))[among.distinct]
    losses = []
    for dimension in dims or (queries.shape[1],):
        query, candidate = (F.normalize(each[:, :dimension], dim=1) for each in (queries, candidates))
        losses.append(masked_info_nce(query, candidate, among.positives, among.excluded, scale, symmetric=symmetric))
    return torch.stack(losses).mean()
