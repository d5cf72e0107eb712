"""Generation loss: the negative log-likelihood of rationales."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch.nn import functional as F

from tte_retriever.explain.decoding import output_matrix, predicting_states

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from sentence_transformers.sentence_transformer.modules import Transformer
    from torch import Tensor

    from tte_retriever.backbones.qwen_vl import QwenVLModel
    from tte_retriever.explain.decoding import Prefill


class RationalePass(Protocol):
    """How a model decodes rationales in a training pass, which is what differs between the methods.

    The work is done in hooks, inside the model's own forward: under its autocast, and where DDP can see it.
    """

    def decodable(self, input_ids: Tensor, rationale_ids: Tensor) -> Tensor:
        """Which rows have a rationale, and what it is decoded from; (B,) bool.

        Args:
            input_ids: Tokens of the prompts.  (B, L) int64
            rationale_ids: Tokens of the rationales, padded with -100.  (B, R) int64
        """
        return (rationale_ids >= 0).any(1)

    def attached_to(self, transformer: Transformer, rationale_ids: Tensor | None) -> AbstractContextManager[None]:
        """Within, a forward pass of ``transformer`` adds ``rationale_nll`` (B,) float32 to its features.

        It is 0 for rows that are not decodable, and left out if there are no ``rationale_ids``.

        Args:
            transformer: The model's first module.
            rationale_ids: Of the rows of the pass, padded with -100.  (B, R) int64
        """


def rationale_nll(
    backbone: QwenVLModel,
    states: Tensor,
    rationale_ids: Tensor,
    visible: Tensor | None = None,
    prefill: Prefill | None = None,
) -> Tensor:
    """Next-token NLL of rationales, decoded by the backbone from the visible tokens alone; the mean over each row's tokens.

    The logits come from the backbone's output head. A model without one, such as every ``AutoModel``, is decoded with its
    input embedding.

    Args:
        backbone: As for :func:`~tte_retriever.explain.decoding.predicting_states`.
        states: Last hidden states of the prompts.  (B, L, D)
        rationale_ids: Token ids, padded on the right with -100, at least one in every row.  (B, R) int64
        visible: True at the tokens that the rationale is decoded from.  (B, L) bool
        prefill: Keys and values of the pass that computed ``states``; with them, decoding attends to keys and values.

    Returns:
        (B,) float32.
    """
    predicting = predicting_states(backbone, states, rationale_ids, visible, prefill)  # (B, R, D)
    return token_nll(predicting, rationale_ids, output_matrix(backbone))


def token_nll(predicting: Tensor, ids: Tensor, matrix: Tensor) -> Tensor:
    """NLL of tokens, the mean over each row's tokens.

    Args:
        predicting: The hidden state that predicts each token.  (B, R, D)
        ids: The tokens, padded with -100, at least one in every row.  (B, R) int64
        matrix: The output embedding.  (V, D)

    Returns:
        (B,) float32.
    """
    wanted = ids >= 0  # (B, R)
    logits = F.linear(predicting[wanted].to(matrix.dtype), matrix)  # (tokens, V)
    nll = torch.zeros(wanted.shape, device=ids.device)  # (B, R)
    nll[wanted] = F.cross_entropy(logits.float(), ids[wanted], reduction="none")
    return nll.sum(1) / wanted.sum(1)
