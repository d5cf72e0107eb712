"""The two losses of the bundled model: contrastive over distinct candidates, and rationale decoding from the thought."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import nn


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
    if len(candidates) != len(queries):
        return loss
    # One candidate per query: the other direction is a task of its own (image → caption).
    return (loss + F.cross_entropy(scores.T, positives.argsort())) / 2


def rationale_nll(
    language_model: nn.Module, embed_tokens: nn.Embedding, think_states: Tensor, rationale_ids: Tensor
) -> Tensor:
    """Mean next-token NLL of rationales decoded by the backbone from the think states *alone*, as a soft prompt.

    Args:
        language_model: The decoder of the backbone, which takes ``inputs_embeds``.
        embed_tokens: Its input embedding, tied to the output.
        think_states: Last hidden states of the think tokens.  (B, K, D)
        rationale_ids: Token ids, padded on the right with -100.  (B, L) int64
    """
    batch, thoughts, _ = think_states.shape
    inputs = embed_tokens(rationale_ids[:, :-1].clamp(min=0))  # (B, L - 1, D)
    inputs = torch.cat([think_states.to(inputs.dtype), inputs], dim=1)  # (B, K + L - 1, D)
    length = inputs.shape[1]
    # Text positions on all three axes: the top model would derive them from its last image batch.
    positions = torch.arange(length, device=inputs.device).expand(3, batch, length)  # (3, B, K + L - 1)
    states = language_model(inputs_embeds=inputs, position_ids=positions, use_cache=False).last_hidden_state
    predicting = states[:, thoughts - 1 :]  # (B, L, D)
    wanted = rationale_ids >= 0  # (B, L)
    logits = predicting[wanted] @ embed_tokens.weight.T  # (tokens, V)
    return F.cross_entropy(logits.float(), rationale_ids[wanted])


def visual_word_nll(visual_tokens: Tensor, words: Tensor, embed_tokens: nn.Embedding, scale: Tensor) -> Tensor:
    """Dense perception loss: every visual token names the words that are drawn in its cell.

    Args:
        visual_tokens: Merged visual tokens as they enter the language model.  (N, D)
        words: Token ids of up to three words per cell, padded with -100.  (N, 3) int64
        embed_tokens: Input embedding of the backbone; its rows are the classes.
        scale: Scalar applied to the RMS-normalised tokens.
    """
    tokens = F.rms_norm(visual_tokens.float(), visual_tokens.shape[-1:]) * scale  # (N, D)
    log_probs = F.log_softmax(tokens @ embed_tokens.weight.float().T, dim=-1)  # (N, V)
    named = words >= 0  # (N, 3)
    picked = log_probs.gather(1, words.clamp(min=0)) * named  # (N, 3)
    return -(picked.sum(1) / named.sum(1)).mean()
