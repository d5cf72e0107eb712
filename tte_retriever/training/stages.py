"""Stages of training, as data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tte_retriever.evaluation.small_world import Family


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    Attributes:
        name: Names it in the log; seeds its order of families.
        objective: Which losses: ``transcription``, ``warm_up`` or ``joint``.
        steps: Optimiser steps.
        lr: Peak learning rate, after 100 steps of linear warm-up.
        mixture: Family → its share of the steps.
        decay_over: Steps over which the rate falls to 5 % along a cosine; ``None`` keeps the peak.
        curriculum: Whether page queries begin by saying several facts and end by saying one.
    """

    name: str
    objective: str
    steps: int
    lr: float
    mixture: dict[Family, float]
    decay_over: int | None = None
    curriculum: bool = False

    def learning_rate(self, step: int) -> float:
        """The rate of one step."""
        if step < 100:
            return self.lr * (step + 1) / 100
        if self.decay_over is None:
            return self.lr
        return self.lr * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / self.decay_over)))

    def detail(self, step: int) -> float:
        """Share of page queries that say several facts."""
        return max(0.15, 1 - 2 * step / self.decay_over) if self.curriculum and self.decay_over else 0.15
