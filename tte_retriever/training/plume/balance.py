"""Routing of latent steps among experts: how even it is, and a loss that keeps it even."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch

if TYPE_CHECKING:
    from torch import Tensor

Balance: TypeAlias = Literal["batch", "step"]


@dataclass(frozen=True)
class RoutingSummary:
    """Statistics of the routing of each row, as means over its steps; zeros where there was no step.

    Attributes:
        probabilities: Of each expert.  (B, X)
        loads: Share of the choices that fell on each expert.  (B, X)
        deviation: Mean squared deviation of the probabilities of a step from evenness.  (B,)
        entropy: Of the probabilities of a step, in nats.  (B,)
    """

    probabilities: Tensor
    loads: Tensor
    deviation: Tensor
    entropy: Tensor

    @classmethod
    def of(cls, routing: Tensor, chosen: int) -> RoutingSummary:
        """Summarise the router's probabilities (B, K, X); each step follows the ``chosen`` largest."""
        steps, experts = max(1, routing.shape[1]), routing.shape[2]
        followed = torch.zeros_like(routing).scatter(-1, routing.topk(chosen).indices, 1 / chosen)  # (B, K, X)
        return cls(
            routing.sum(1) / steps,
            followed.sum(1) / steps,
            (routing - 1 / experts).square().mean(-1).sum(1) / steps,
            torch.special.entr(routing).sum(-1).sum(1) / steps,
        )

    @classmethod
    def unpacked(cls, packed: Tensor) -> RoutingSummary:
        """The inverse of :attr:`packed`."""
        experts = packed.shape[1] // 2 - 1
        probabilities, loads, deviation, entropy = packed.split([experts, experts, 1, 1], dim=1)
        return cls(probabilities, loads, deviation[:, 0], entropy[:, 0])

    @property
    def packed(self) -> Tensor:
        """All of it in one tensor, (B, 2N + 2)."""
        return torch.cat([self.probabilities, self.loads, self.deviation[:, None], self.entropy[:, None]], dim=1)


def batch_balance(probabilities: Tensor, loads: Tensor) -> Tensor:
    """Load balance over a batch (Switch Transformer, arXiv 2101.03961, eq. 4): 1 where it is even, N at worst.

    Routing may be sharp at each step; only the average over the batch is balanced.

    Args:
        probabilities: Mean probability of each expert.  (N,)
        loads: Share of the choices that fell on each; no gradient goes through it.  (N,)
    """
    return len(loads) * (loads.detach() * probabilities).sum()
