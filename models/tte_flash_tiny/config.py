"""The config of the bundled model's training: that of the trainer, with what only the small world needs."""

from __future__ import annotations

from dataclasses import dataclass, field

from tte_retriever.training.config import StageConfig
from tte_retriever.training.tte_flash.config import TTEConfig
from tte_retriever.training.tte_flash.thought_pass import Decoder, RationaleFrom  # noqa: TC001  (read from the annotations)


@dataclass(frozen=True)
class WorldStage(StageConfig):
    """One stage of the training.

    Attributes:
        mixture: Family → share of the steps.
        rationale_from: As in ``TTELossConfig``.
        decoder: As in ``TTELossConfig``.
        visual_weight: Weight of the dense loss on the visual tokens.
        short_budgets: Share of the steps with fewer think tokens, so that the model works at every budget.
        curriculum: Whether page queries name several facts at the start of the stage and one at its end.
    """

    mixture: dict[str, float] = field(default_factory=dict)
    rationale_from: RationaleFrom = "thought"
    decoder: Decoder = "soft-prompt"
    visual_weight: float = 1.0
    short_budgets: float = 0.0
    curriculum: bool = False


@dataclass(frozen=True)
class WorldConfig(TTEConfig):
    """The whole run.

    Attributes:
        wear: Share of images that go through a JPEG or resizing round trip.
    """

    stages: tuple[WorldStage, ...]
    wear: float = 0.4
