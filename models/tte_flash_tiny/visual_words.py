"""Dense loss on visual tokens: each of them is trained to name what is drawn in its cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor, nn


def visual_word_nll(visual_tokens: Tensor, words: Tensor, embed_tokens: nn.Embedding, scale: Tensor) -> Tensor:
    """Mean negative log-likelihood of the words in the cells of visual tokens.

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
