"""The loss of LaME: a contrastive part, a text that has to be reconstructed from the reason tokens, and their diversity."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch

from tte_retriever.errors import InputError
from tte_retriever.training.lame.diversity import pairwise_cosines
from tte_retriever.training.lame.light_decoder import LightDecoder
from tte_retriever.training.tte_flash.loss import TTELoss

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import Tensor

    from tte_retriever.training.tte_flash.loss import Batch
    from tte_retriever.training.tte_flash.thinking import Thinking


class LameLoss(TTELoss):
    """:class:`TTELoss` whose generation part is decoded by a light decoder of its own, and a regulariser.

    The decoder cross-attends to the last hidden states of the reason tokens and to nothing else. It lives here: the
    trainer's checkpoints hold it, the model's folder never does. Features are those of :class:`TTELoss`; what a row's
    ``rationale_ids`` say, the retrieval target or a rationale, is the collator's choice. The regulariser is the mean square of
    the cosine between two reason states of an item, over all items with two or more.

    ``metrics`` holds, after each call, the mean cosine between two reason states of an item and between two different
    embeddings of the batch: near 1, they have collapsed.

    Under DDP the decoder's gradients are averaged by :class:`tte_retriever.training.trainer.StageTrainer`.

    Args:
        model: As for :class:`TTELoss`.
        decoder_layers: Of the light decoder; 0 is none: the backbone decodes, as ``decoder`` and ``rationale_from`` say.
        diversity_weight: Of the regulariser; 0 leaves it out.
        **options: As for :class:`TTELoss`.

    Raises:
        InputError: As for :class:`TTELoss`.
    """

    GENERATION = "reconstruction"
    PARTS = ("contrastive", GENERATION, "diversity")
    ROW_EXTRAS = 4
    METRICS = ("reason_cosine", "embedding_cosine")

    def __init__(
        self,
        model: SentenceTransformer,
        *,
        decoder_layers: int = 1,
        diversity_weight: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        if decoder_layers < 0 or diversity_weight < 0:
            raise InputError(
                f"decoder_layers is {decoder_layers} and diversity_weight {diversity_weight}; give 0 to leave it out, or "
                "a positive number."
            )
        if decoder_layers and self.rationale_from != "thought":
            raise InputError(
                f"The light decoder sees the reason tokens alone, but rationale_from is {self.rationale_from!r}; set "
                "decoder_layers=0 to have the backbone decode."
            )
        self.diversity_weight = diversity_weight
        self.light_decoder: LightDecoder | None = None
        if decoder_layers:
            backbone = cast("Any", model[0]).model
            settings = backbone.config.get_text_config()
            self.light_decoder = LightDecoder(
                settings.hidden_size, heads=settings.num_attention_heads, layers=decoder_layers
            ).to(backbone.device)

    @property
    def _thinking(self) -> Thinking:
        return replace(super()._thinking, light_decoder=self.light_decoder)

    def get_config_dict(self) -> dict[str, Any]:
        """The options, for the model card."""
        layers = self.light_decoder.layers.num_layers if self.light_decoder is not None else 0
        return super().get_config_dict() | {"decoder_layers": layers, "diversity_weight": self.diversity_weight}

    def _row_extras(self, features: dict[str, Any]) -> list[Tensor]:
        """Besides the NLL: cosine and its square between the row's reason states, and whether it has two."""
        present = features["thought_mask"]
        cosine, square = pairwise_cosines(features["thought_states"], present)
        return [*super()._row_extras(features), cosine, square, (present.sum(1) > 1).float()]

    def _parts(self, vectors: list[Tensor], facts: Tensor, batch: Batch) -> dict[str, Tensor]:
        parts = super()._parts(vectors, facts, batch)
        cosine, square, several = facts[:, 1:].sum(0)
        count = self._over_processes(several.detach()).clamp(min=1e-9)
        if self.diversity_weight:
            parts["diversity"] = self.diversity_weight * square / count
        with torch.no_grad():
            different = torch.cat([vectors[0], torch.cat(vectors[1:] or vectors)[batch.candidates.distinct]])[None]
            present = torch.ones(different.shape[:2], dtype=torch.bool, device=different.device)
            self.metrics = {
                "reason_cosine": cosine / count,
                "embedding_cosine": pairwise_cosines(different, present)[0][0],
            }
        return parts
