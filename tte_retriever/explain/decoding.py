"""Decode text from the hidden states of a thought, which are the only prompt of the backbone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F
from transformers import DynamicCache

if TYPE_CHECKING:
    from torch import Tensor

    from tte_retriever.backbones import QwenVLModel


@dataclass(frozen=True)
class Prefill:
    """Keys and values of a pass through the language model.

    Attributes:
        keys_values: Of every layer, with rotated keys.  (B, A, L, head size) each
        positions: Text position of every token.  (B, L) int64
    """

    keys_values: list[tuple[Tensor, Tensor]]
    positions: Tensor

    def of_rows(self, rows: Tensor) -> Prefill:
        """The same for some rows of the batch."""
        return Prefill([(keys[rows], values[rows]) for keys, values in self.keys_values], self.positions[rows])

    def cache(self, columns: Tensor) -> DynamicCache:
        """A cache of the tokens in ``columns`` (B, K) alone."""
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(self.keys_values):
            at = columns[:, None, :, None].expand(-1, keys.shape[1], -1, keys.shape[-1])
            cache.update(keys.gather(2, at), values.gather(2, at), layer)
        return cache


def predicting_states(
    backbone: QwenVLModel,
    states: Tensor,
    rationale_ids: Tensor,
    visible: Tensor | None = None,
    prefill: Prefill | None = None,
) -> Tensor:
    """The states that predict each token of rationales that follow the visible tokens and nothing else.

    Without ``prefill`` the last hidden states of the visible tokens are a soft prompt in front of the rationale. With it,
    the rationale attends to their keys and values in every layer, and its positions continue after the last of them.

    Args:
        backbone: A Qwen-VL model; its ``language_model`` is the decoder.
        states: Its last hidden states.  (B, L, D)
        rationale_ids: Token ids, padded on the right with -100.  (B, R) int64
        visible: True at the tokens that the rationale follows, at least one in every row; ``None`` is all.  (B, L) bool
        prefill: Keys and values of the pass that gave ``states``.

    Returns:
        (B, R, D).
    """
    embed_tokens = backbone.get_input_embeddings()
    if visible is None:
        visible = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
    # Right-aligned, so that the rationale starts in the same column in every row.
    columns = visible_columns(visible)  # (B, K)
    prompt = states_at(states, columns)  # (B, K, D)
    inputs = embed_tokens(rationale_ids.clamp(min=0))  # (B, R, D)
    mask = F.pad(visible.gather(1, columns), (0, rationale_ids.shape[1]), value=True)  # (B, K + R)
    positions = mask.cumsum(1) - 1  # (B, K + R)
    cache = None
    if prefill is None:
        inputs = torch.cat([prompt.to(inputs.dtype), inputs], dim=1)  # (B, K + R, D)
        positions = positions.clamp(min=0)
    else:
        cache = prefill.cache(columns)
        after = prefill.positions.gather(1, columns[:, -1:]) + 1  # (B, 1)
        positions = after + torch.arange(inputs.shape[1], device=inputs.device)  # (B, R)
    hidden = backbone.language_model(
        inputs_embeds=inputs,
        attention_mask=mask,
        # Text positions on all three axes; the outer model would derive them from its last batch with images.
        position_ids=positions.expand(3, *positions.shape),
        past_key_values=cache,
        use_cache=cache is not None,
    ).last_hidden_state
    # The last visible token predicts the first token of the rationale.
    if cache is not None:
        hidden = torch.cat([prompt[:, -1:].to(hidden.dtype), hidden], dim=1)  # (B, 1 + R, D)
    return hidden[:, -rationale_ids.shape[1] - 1 : -1]  # (B, R, D)


def visible_columns(visible: Tensor) -> Tensor:
    """Columns of the visible tokens of every row, in order; K is the largest number of them in a row.

    Rows with fewer start with columns of invisible tokens.

    Args:
        visible: (B, L) bool

    Returns:
        (B, K) int64.
    """
    return visible.long().argsort(dim=1, stable=True)[:, visible.shape[1] - int(visible.sum(1).max()) :]  # (B, K)


def states_at(states: Tensor, columns: Tensor) -> Tensor:
    """The states (B, L, D) at columns (B, K); (B, K, D)."""
    return states.gather(1, columns[..., None].expand(-1, -1, states.shape[-1]))  # (B, K, D)


def output_matrix(backbone: QwenVLModel) -> Tensor:
    """The matrix that gives logits: the output head, or the input embedding of a model without one; (V, D)."""
    return (backbone.get_output_embeddings() or backbone.get_input_embeddings()).weight
