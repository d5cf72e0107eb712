"""The config of a training run of PLUME."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from tte_retriever.training.config import LossConfig, ModelConfig, StageConfig, TrainConfig
from tte_retriever.training.plume.curriculum import Curriculum


@dataclass(frozen=True)
class PlumeModelConfig(ModelConfig):
    """The model that is trained: a PLUME, or a backbone from which one is built; think tokens of the backbone are unused.

    Attributes:
        instruction: Instruction after every item, if a PLUME is built; ``None`` is PLUME's own, ``""`` is none.
        experts: Number of experts of the adapter, if a PLUME is built; 0 is no adapter, and needs a ``balance_weight`` of 0.
    """

    instruction: str | None = None
    experts: int | None = None

    @property
    def build_options(self) -> dict[str, Any]:
        """The number of steps, the instruction and the number of experts."""
        own = {"instruction": self.instruction, "experts": self.experts}
        return super().build_options | {name: value for name, value in own.items() if value is not None}


@dataclass(frozen=True)
class PlumeLossConfig(LossConfig):
    """Flags of :class:`tte_retriever.training.plume.loss.PlumeLoss` that all stages share; they are explained there."""

    symmetric: bool = True
    balance: Literal["batch", "step"] = "batch"


@dataclass(frozen=True)
class PlumeStage(StageConfig):
    """One stage, which goes through the whole curriculum.

    Attributes:
        disc_weight: Weight of the contrastive loss at ``<disc_emb>``, before the latent steps; 0 leaves it out.
        balance_weight: Weight of the load balance of the experts; 0 leaves it out.
    """

    disc_weight: float = 1.0
    balance_weight: float = 0.1


@dataclass(frozen=True)
class PlumeConfig(TrainConfig):
    """A whole run.

    Attributes:
        curriculum: How written rationales become latent steps.
    """

    model: PlumeModelConfig
    stages: tuple[PlumeStage, ...]
    loss: PlumeLossConfig = PlumeLossConfig()
    curriculum: Curriculum = field(default_factory=Curriculum)

    @property
    def loss_options(self) -> dict[str, Any]:
        """Besides the options of the section, the curriculum."""
        return super().loss_options | {"curriculum": self.curriculum}

    def collator_options(self, seed: int) -> dict[str, Any]:
        """Besides the options of the section, the curriculum."""
        return super().collator_options(seed) | {"curriculum": self.curriculum}
