"""What a training run of LaME is, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tte_retriever.training.config import CollatorConfig, LossConfig, StageConfig, TrainConfig

Reconstruct = Literal["answer", "rationale"]
"""What the reason tokens have to hold."""


@dataclass(frozen=True)
class LameCollatorConfig(CollatorConfig):
    """How rows become batches.

    Attributes:
        reconstruct: What the reason tokens have to hold: ``answer`` is the text of the positive, for the query's tokens;
            ``rationale`` each item's own rationale, as in TTE-Flash.
        rationale_as_caption: Whether the rationale of a positive with media is its caption. Otherwise the text beside the
            media is reconstructed, and where there is none, nothing.
    """

    reconstruct: Reconstruct = "answer"
    rationale_as_caption: bool = False


@dataclass(frozen=True)
class LameLossConfig(LossConfig):
    """Flags of :class:`tte_retriever.training.lame.loss.LameLoss` that all stages share; they are explained there."""

    decoder_layers: int = 1


@dataclass(frozen=True)
class LameStage(StageConfig):
    """One stage, whose generation loss is the reconstruction.

    Attributes:
        diversity_weight: Of the regulariser on the reason states; 0 leaves it out.
    """

    diversity_weight: float = 1.0


@dataclass(frozen=True)
class LameConfig(TrainConfig):
    """A whole run."""

    stages: tuple[LameStage, ...]
    collator: LameCollatorConfig = LameCollatorConfig()
    loss: LameLossConfig = LameLossConfig()
