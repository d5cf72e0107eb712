"""The config of a training run of explicit chain of thought."""

from __future__ import annotations

from dataclasses import dataclass

from tte_retriever.training.config import StageConfig, TrainConfig


@dataclass(frozen=True)
class ExplicitCoTStage(StageConfig):
    """One stage. Its contrastive loss is on the embedding after the rationale.

    Attributes:
        disc_weight: Weight of the contrastive loss on the embedding before the rationale; 0 leaves it out.
    """

    disc_weight: float = 1.0


@dataclass(frozen=True)
class ExplicitCoTConfig(TrainConfig):
    """A whole run."""

    stages: tuple[ExplicitCoTStage, ...]
