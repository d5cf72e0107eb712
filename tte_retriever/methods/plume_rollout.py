"""PLUME's latent rollout: a backbone reads on, one latent state after the other, over a cache of what it has read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import Cache

    from tte_retriever.backbones import QwenVLModel
    from tte_retriever.methods.plume_adapter import IdentityAdapter, RoutedAdapter


@dataclass(frozen=True)
class DecodeState:
    """What a backbone has read so far.

    Attributes:
        cache: Keys and values of C tokens; reading on extends it in place.
        visible: Which of them are attended to: neither padding nor steps beyond a row's budget.  (B, C) bool
        position: Where the next token stands, on all three axes.  (B,) int64
    """

    cache: Cache
    visible: torch.Tensor
    position: torch.Tensor


@dataclass(frozen=True)
class Prefix:
    """The prompts of a batch, after the backbone has read them.

    Attributes:
        states: Last hidden states.  (B, L, D)
        decode_state: What has been read.
        text_position: Where a text would go on.  (B,) int64
        last: The state at the end of each row.  (B, D)
        anchor: Column of the last ``<disc_emb>`` of each row.  (B,) int64
    """

    states: torch.Tensor
    decode_state: DecodeState
    text_position: torch.Tensor
    last: torch.Tensor
    anchor: torch.Tensor

    def at_anchor(self, offset: int = 0) -> torch.Tensor:
        """The state at ``<disc_emb>``, or ``offset`` tokens after it.  (B, D)."""
        return self.states[torch.arange(len(self.states), device=self.states.device), self.anchor + offset]


CONTEXTS: dict[str, Callable[[Prefix], torch.Tensor]] = {
    "disc": Prefix.at_anchor,
    "prefix_last": lambda prefix: prefix.last,
    "none": lambda prefix: torch.zeros_like(prefix.last),
}
"""What the router reads beside state and step, by name: (B, D)."""


@dataclass(frozen=True)
class Rollout:
    """The latent steps of a batch.

    Attributes:
        states: The state after each step; those beyond a row's budget mean nothing.  (B, K, D)
        last: The state after each row's last step, or before the first where the budget is 0.  (B, D)
        routing: The router's probabilities at each step.  (B, K, X) float32
        decode_state: What has been read after the last step.
    """

    states: torch.Tensor
    last: torch.Tensor
    routing: torch.Tensor
    decode_state: DecodeState


def read(
    backbone: QwenVLModel, embeddings: torch.Tensor, decode_state: DecodeState, real: torch.Tensor
) -> tuple[torch.Tensor, DecodeState]:
    """Let a backbone read on, without waiting for the device.

    Args:
        backbone: The model without output head.
        embeddings: What it reads.  (B, L, D)
        decode_state: What it has read before.
        real: False at padding, which is on the right and stays invisible.  (B, L) bool

    Returns:
        The last hidden states, (B, L, D), and what has been read now.
    """
    visible = torch.cat([decode_state.visible, real], dim=1)  # (B, C + L)
    steps = torch.arange(embeddings.shape[1], device=embeddings.device)  # (L,)
    positions = decode_state.position[:, None] + steps  # (B, L)
    states = backbone.language_model(
        inputs_embeds=embeddings,
        position_ids=positions.expand(3, -1, -1),  # (3, B, L)
        attention_mask=_attention_mask(visible, embeddings, backbone.config._attn_implementation),
        past_key_values=decode_state.cache,
        use_cache=True,
    ).last_hidden_state
    return states, DecodeState(decode_state.cache, visible, decode_state.position + real.sum(1))


def rollout(
    backbone: QwenVLModel,
    adapter: RoutedAdapter | IdentityAdapter,
    decode_state: DecodeState,
    state: torch.Tensor,
    context: torch.Tensor,
    *,
    budget: torch.Tensor,
    steps: int,
) -> Rollout:
    """Take latent steps: the adapter maps each state to an input, and the backbone reads it and gives the next state.

    Rows of a batch are computed together, and each takes its own number of steps. It is differentiable and does not wait
    for the device.

    Args:
        backbone: The model without output head.
        adapter: Maps a state to the next input.
        decode_state: What the backbone has read; its cache is extended in place.
        state: The last state of the prefix.  (B, D)
        context: The router's second input.  (B, D)
        budget: The steps of each row.  (B,) int64
        steps: K, the largest budget, as a number on the host.
    """
    states = [state.unsqueeze(1)]  # (B, 1, D)
    routing = [state.new_empty(len(state), 0, adapter.experts, dtype=torch.float32)]
    for step in range(steps):
        inputs, probabilities = adapter(state, step, context)  # (B, D), (B, X)
        read_states, decode_state = read(backbone, inputs.unsqueeze(1), decode_state, (step < budget).unsqueeze(1))
        state = read_states.squeeze(1)  # (B, D)
        states.append(read_states)
        routing.append(probabilities.unsqueeze(1))
    every = torch.cat(states, 1)  # (B, K + 1, D)
    last = every[torch.arange(len(budget), device=budget.device), budget]  # (B, D)
    return Rollout(every[:, 1:], last, torch.cat(routing, 1), decode_state)  # routing (B, K, X)


def _attention_mask(visible: torch.Tensor, embeddings: torch.Tensor, implementation: str) -> torch.Tensor:
    """The mask that an attention implementation takes for ``visible`` (B, C + L).

    Made here, because transformers would wait for the device to make it.
    """
    if "flash" in implementation:
        return visible.to(torch.int64)
    queries, keys = embeddings.shape[1], visible.shape[1]
    causal = torch.ones(queries, keys, dtype=torch.bool, device=visible.device).tril(keys - queries)
    allowed = visible[:, None, None] & causal  # (B, 1, queries, keys)
    lowest = torch.finfo(embeddings.dtype).min
    return torch.zeros_like(allowed, dtype=embeddings.dtype).masked_fill(~allowed, lowest)
