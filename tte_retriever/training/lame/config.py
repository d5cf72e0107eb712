"""The config of a training run of LaME."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tte_retriever.training.config import StageConfig
from tte_retriever.training.tte_flash.config import TTECollatorConfig, TTEConfig, TTELossConfig

Reconstruct = Literal["answer", "rationale"]
"""The text that is reconstructed from the reason tokens."""


@dataclass(frozen=True)
class LameCollatorConfig(TTECollatorConfig):
    """How rows become batches.

    Attributes:
        reconstruct: The text that is reconstructed from the reason tokens. ``answer`` is the text of the positive, from the
            tokens of the query; ``rationale`` is each item's own rationale, as in TTE-Flash.
        rationale_as_caption: Whether the rationale of a positive with media is used as its caption. Otherwise the text
            beside the media is reconstructed, if there is any.
    """

    reconstruct: Reconstruct = "answer"
    rationale_as_caption: bool = False


@dataclass(frozen=True)
class LameLossConfig(TTELossConfig):
    """Flags of :class:`tte_retriever.training.lame.loss.LameLoss` that all stages share; they are explained there."""

    decoder_layers: int = 1
    decoder_model: str | None = None


@dataclass(frozen=True)
class LameStage(StageConfig):
    """One stage. Its generation loss is the reconstruction.

    Attributes:
        diversity_weight: Weight of the diversity regulariser on the reason tokens' hidden states; 0 leaves it out.
    """

    diversity_weight: float = 1.0


@dataclass(frozen=True)
class LameConfig(TTEConfig):
    """A whole run."""

    stages: tuple[LameStage, ...]
    collator: LameCollatorConfig = LameCollatorConfig()
    loss: LameLossConfig = LameLossConfig()
