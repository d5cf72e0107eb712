"""PLUME's latent rollout: a backbone reads on, one latent state after the other, over a cache that keeps what it read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import Cache

    from tte_retriever.methods.plume_adapter import IdentityAdapter, RoutedAdapter


@dataclass(frozen=True)
class DecodeState:
    """What a backbone has read so far.

    Attributes:
        cache: Its keys and values; reading on extends it in place.
        visible: (B, S) bool, which of them may be looked at: no padding, and no step beyond a row's budget.
        position: (B,) int64, where the next token stands, on all three axes.
    """

    cache: Cache
    visible: torch.Tensor
    position: torch.Tensor


@dataclass(frozen=True)
class Rollout:
    """Latent steps of a batch.

    Attributes:
        states: (B, K, D), the state after each step; what stands beyond a row's budget means nothing.
        routing: (B, K, N) float32, the router's probabilities at each step.
        decode_state: Where the rows stand after their last step.
    """

    states: torch.Tensor
    routing: torch.Tensor
    decode_state: DecodeState


def read(
    backbone: Any, embeddings: torch.Tensor, decode_state: DecodeState, real: torch.Tensor
) -> tuple[torch.Tensor, DecodeState]:
    """Let a Qwen-VL model read on behind a decode_state; nothing waits for the device.

    Args:
        backbone: The model without output head.
        embeddings: What it reads, (B, S, D).
        decode_state: What it has read.
        real: (B, S) bool, which of it counts; the rest is padding on the right, and stays invisible.

    Returns:
        States after the last norm, (B, S, D), and the longer decode_state.
    """
    visible = torch.cat([decode_state.visible, real], dim=1)  # (B, S before + S)
    steps = torch.arange(embeddings.shape[1], device=embeddings.device)  # (S,)
    positions = decode_state.position[:, None] + steps  # (B, S)
    states = backbone.language_model(
        inputs_embeds=embeddings,
        position_ids=positions.expand(3, -1, -1),  # (3, B, S)
        attention_mask=_attention_mask(visible, embeddings, backbone.config._attn_implementation),
        past_key_values=decode_state.cache,
        use_cache=True,
    ).last_hidden_state
    return states, DecodeState(decode_state.cache, visible, decode_state.position + real.sum(1))


def rollout(
    backbone: Any,
    adapter: RoutedAdapter | IdentityAdapter,
    decode_state: DecodeState,
    state: torch.Tensor,
    context: torch.Tensor,
    *,
    budget: torch.Tensor,
    steps: int,
) -> Rollout:
    """Think: every state goes through the adapter and is read by the backbone, which gives the next; differentiable.

    Rows of a batch are computed together and think each for its own number of steps; nothing waits for the device.

    Args:
        backbone: The model without output head.
        adapter: From a state to the next input.
        decode_state: What the backbone has read; its cache is extended in place.
        state: The last state of the prefix, (B, D).
        context: What the router looks at, (B, D).
        budget: (B,) int64, how many steps each row takes.
        steps: How many are computed; the largest budget, which the host has to know.
    """
    states = [state.new_empty(len(state), 0, state.shape[1])]
    routing = [state.new_empty(len(state), 0, adapter.experts, dtype=torch.float32)]
    for step in range(steps):
        inputs, probabilities = adapter(state, step, context)  # (B, D), (B, N)
        read_states, decode_state = read(
            backbone, inputs.unsqueeze(1), decode_state, (step < budget).unsqueeze(1)
        )  # (B, 1, D)
        state = read_states.squeeze(1)  # (B, D)
        states.append(read_states)
        routing.append(probabilities.unsqueeze(1))
    return Rollout(torch.cat(states, 1), torch.cat(routing, 1), decode_state)  # (B, K, D), (B, K, N)


def _attention_mask(visible: torch.Tensor, embeddings: torch.Tensor, implementation: str) -> torch.Tensor:
    """What an attention implementation takes for ``visible`` (B, S); made here, as transformers would ask the device."""
    if "flash" in implementation:
        return visible.to(torch.int64)
    queries, keys = embeddings.shape[1], visible.shape[1]
    causal = torch.ones(queries, keys, dtype=torch.bool, device=visible.device).tril(keys - queries)
    allowed = visible[:, None, None] & causal  # (B, 1, queries, keys)
    lowest = torch.finfo(embeddings.dtype).min
    return torch.zeros_like(allowed, dtype=embeddings.dtype).masked_fill(~allowed, lowest)
