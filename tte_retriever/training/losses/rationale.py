"""Generation loss: a rationale has to be decoded from the thought alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor, nn


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
