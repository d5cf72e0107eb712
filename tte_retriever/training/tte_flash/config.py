"""What a training run with think tokens is, as values; also of the controls without them (``direct``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tte_retriever.training.config import CollatorConfig, LossConfig, TrainConfig


@dataclass(frozen=True)
class TTECollatorConfig(CollatorConfig):
    """How rows become batches.

    Attributes:
        nested_budgets: Whether each batch has a random number of think tokens, so that every budget works.
    """

    nested_budgets: bool = False


@dataclass(frozen=True)
class TTELossConfig(LossConfig):
    """Options of :class:`tte_retriever.training.tte_flash.loss.TTELoss` that all stages share; they are explained there."""

    rationale_from: Literal["thought", "query+thought"] = "thought"
    decoder: Literal["soft-prompt", "kv"] = "soft-prompt"
    stop_gradient: bool = False


@dataclass(frozen=True)
class TTEConfig(TrainConfig):
    """A whole run."""

    collator: TTECollatorConfig = TTECollatorConfig()
    loss: TTELossConfig = TTELossConfig()

    @property
    def decodes_query(self) -> bool:
        """Whether the loss decodes rationales from the query as well."""
        return self.loss.rationale_from == "query+thought"

    def collator_options(self, seed: int) -> dict[str, Any]:
        """Besides the options of the section, the seed, which budgets are drawn with."""
        return super().collator_options(seed) | {"seed": seed}
