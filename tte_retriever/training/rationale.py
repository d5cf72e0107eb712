"""Generation loss: the negative log-likelihood of a rationale, decoded from the thought alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from tte_retriever.explain.decoding import output_matrix, predicting_states

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tte_retriever.explain.decoding import Prefill


def rationale_nll(
    backbone: nn.Module,
    states: Tensor,
    rationale_ids: Tensor,
    visible: Tensor | None = None,
    prefill: Prefill | None = None,
) -> Tensor:
    """Next-token NLL of rationales, decoded by the backbone from the visible tokens alone; the mean of each row.

    The logits come from the backbone's output head; a model without one, such as every ``AutoModel``, is decoded with its
    input embedding.

    Args:
        backbone: As for :func:`predicting_states`, and so are ``states``, ``visible`` and ``prefill``.
        states: (B, L, D)
        rationale_ids: Token ids, padded on the right with -100, at least one in every row.  (B, R) int64
        visible: (B, L) bool
        prefill: Of the pass that gave ``states``.

    Returns:
        (B,) float32.
    """
    predicting = predicting_states(backbone, states, rationale_ids, visible, prefill)  # (B, R, D)
    return token_nll(predicting, rationale_ids, output_matrix(backbone))


def token_nll(predicting: Tensor, ids: Tensor, matrix: Tensor) -> Tensor:
    """NLL of tokens, the mean of each row.

    Args:
        predicting: The state that predicts each token.  (B, R, D)
        ids: The tokens, padded with -100, at least one in every row.  (B, R) int64
        matrix: What logits are made with.  (V, D)

    Returns:
        (B,) float32.
    """
    wanted = ids >= 0  # (B, R)
    logits = F.linear(predicting[wanted].to(matrix.dtype), matrix)  # (tokens, V)
    nll = torch.zeros(wanted.shape, device=ids.device)  # (B, R)
    nll[wanted] = F.cross_entropy(logits.float(), ids[wanted], reduction="none")
    return nll.sum(1) / wanted.sum(1)
