"""What a training run of explicit chain of thought is, as values."""

from __future__ import annotations

from dataclasses import dataclass

from tte_retriever.training.config import StageConfig, TrainConfig


@dataclass(frozen=True)
class ExplicitCoTStage(StageConfig):
    """One stage, whose contrastive loss is on the embedding after the rationale.

    Attributes:
        disc_weight: Of the same on the embedding in front of it; 0 leaves it out.
    """

    disc_weight: float = 1.0


@dataclass(frozen=True)
class ExplicitCoTConfig(TrainConfig):
    """A whole run."""

    stages: tuple[ExplicitCoTStage, ...]
