"""PLUME's routed adapter: it maps the state of a latent step to the input of the next."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

_WIDENING = 2
"""Width of an expert's hidden layer, as a multiple of its input."""


class IdentityAdapter(nn.Module):
    """No adapter: the state of a step is the input of the next, as in Coconut (arXiv 2412.06769)."""

    experts = 0

    def forward(self, state: torch.Tensor, step: int, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The state (B, D), and empty probabilities (B, 0) float32."""
        return state, state.new_empty(len(state), 0, dtype=torch.float32)


class RoutedAdapter(nn.Module):
    """A residual mixture of small feed-forward experts, chosen by state, anchor and step.

    All experts are computed at once, as one wide feed-forward network whose hidden units are multiplied by the gate of their
    expert, which is 0 if it was not chosen. At this size that is faster than gathering rows per expert, and the host does
    not wait for the device. The gates of chosen experts are the probabilities of the router, not normalised again; the gate
    of the shared expert is 1.

    Args:
        width: D.
        experts: Number of routed experts.
        active_experts: Number of experts that are chosen at each step.
        shared_expert: Whether one more expert is always on.
        step_table: Number of steps with an embedding of their own; later steps use the last one.
    """

    def __init__(self, width: int, *, experts: int, active_experts: int, shared_expert: bool, step_table: int) -> None:
        super().__init__()
        self.experts, self.active_experts, self.shared_expert = experts, active_experts, shared_expert
        every, hidden = experts + shared_expert, _WIDENING * width
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.steps = nn.Embedding(step_table, width)
        self.router = nn.Linear(2 * width, experts)
        self.up = nn.Linear(width, every * hidden)
        self.down = nn.Linear(every * hidden, width, bias=False)
        self.down_bias = nn.Parameter(torch.empty(every, width))
        for parameter in (self.down.weight, self.down_bias):  # each expert starts like a separate layer
            nn.init.uniform_(parameter, -1 / math.sqrt(hidden), 1 / math.sqrt(hidden))

    def forward(self, state: torch.Tensor, step: int, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The input of step ``step``.

        Args:
            state: Last state, (B, D).
            step: Index of the step, from 0.
            context: Second input of the router, (B, D), which the experts do not get.

        Returns:
            The input, (B, D), and the probabilities of the router, (B, X) float32.
        """
        row = self.steps.weight[min(step, self.steps.num_embeddings - 1)].expand_as(state)  # (B, D)
        logits = self.router(torch.cat([state + context, row], dim=-1))  # (B, X)
        probabilities = logits.float().softmax(-1)
        gates = self.gates(probabilities).to(state.dtype)  # (B, X + shared)
        weight, bias = self.norm.weight.float(), self.norm.bias.float()
        inner = functional.layer_norm(state.float(), self.norm.normalized_shape, weight, bias, self.norm.eps)
        hidden = functional.gelu(self.up(inner.to(state.dtype)))  # (B, (X + shared) 2D)
        weighted = hidden.unflatten(-1, (gates.shape[-1], -1)) * gates.unsqueeze(-1)  # (B, X + shared, 2D)
        return state + self.down(weighted.flatten(1)) + gates @ self.down_bias, probabilities  # (B, D)

    def gates(self, probabilities: torch.Tensor) -> torch.Tensor:
        """The gate of each expert, the shared one last: probabilities (…, X) to (…, X + shared)."""
        chosen = probabilities.topk(self.active_experts, dim=-1)
        routed = torch.zeros_like(probabilities).scatter(-1, chosen.indices, chosen.values)  # (…, X)
        if not self.shared_expert:
            return routed
        return torch.cat([routed, torch.ones_like(routed[..., :1])], dim=-1)  # (…, X + 1)
