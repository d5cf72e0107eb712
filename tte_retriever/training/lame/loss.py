"""The loss of LaME: a contrastive part, a text that is reconstructed from the reason tokens, and their diversity."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from tte_retriever.backbones.qwen_vl import qwen_vl_model
from tte_retriever.errors import InputError
from tte_retriever.training.cached_contrastive import check_weights
from tte_retriever.training.lame.diversity import pairwise_cosines
from tte_retriever.training.lame.light_decoder import LightDecoder
from tte_retriever.training.lame.pretrained_decoder import PretrainedDecoder
from tte_retriever.training.tte_flash.loss import TTELoss

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import Tensor

    from tte_retriever.training.cached_contrastive import Batch
    from tte_retriever.training.tte_flash.thought_pass import ThoughtPass


class LameLoss(TTELoss):
    """:class:`TTELoss` with a decoder in place of the backbone, and a diversity regulariser on the reason states.

    After LaME (arXiv 2606.13061). The decoder reads the last hidden states of the reason tokens and nothing else: a light
    one cross-attends to them, a pretrained language model has their projections as its prompt. It belongs to the loss: the
    trainer's checkpoints hold it, the model's folder never does. What it reconstructs,
    ``rationale_ids``, is the collator's choice: the retrieval target or a rationale. The regulariser is the mean square of
    the cosine between two reason states of an item, over all items with two or more.

    ``metrics`` holds, after each call, the mean cosine between two reason states of an item and between two different
    embeddings of the batch. Values near 1 mean that they have collapsed.

    Under DDP the decoder's gradients are averaged by :class:`tte_retriever.training.trainer.StageTrainer`.

    Args:
        model: As for :class:`TTELoss`.
        decoder_layers: Of the light decoder. With 0 the backbone decodes, as ``decoder`` and ``rationale_from`` say.
        decoder_model: Folder or hub id of a causal language model that decodes in place of the light decoder.
        diversity_weight: Of the regulariser; 0 leaves it out.
        **options: As for :class:`TTELoss`.

    Raises:
        InputError: As for :class:`TTELoss`.

    Example:
        >>> from tte_retriever import TTEEncoder
        >>> loss = LameLoss(TTEEncoder("tte-flash-tiny"), decoder_layers=1)
        >>> loss.PARTS
        ('contrastive', 'reconstruction', 'diversity')
        >>> loss.light_decoder.layers.num_layers
        1
    """

    OPTIONS = (*TTELoss.OPTIONS, "decoder_layers", "decoder_model", "diversity_weight")
    GENERATION = "reconstruction"
    PARTS = ("contrastive", GENERATION, "diversity")
    METRICS = ("reason_cosine", "embedding_cosine")

    def __init__(
        self,
        model: SentenceTransformer,
        *,
        decoder_layers: int = 1,
        decoder_model: str | None = None,
        diversity_weight: float = 1.0,
        **options: Any,
    ) -> None:
        check_weights(diversity_weight=diversity_weight)
        if decoder_layers < 0:
            raise InputError(f"decoder_layers is {decoder_layers}; give 0 to have the backbone decode, or more.")
        super().__init__(model, **options)
        if (decoder_layers or decoder_model) and self.rationale_from != "thought":
            raise InputError(
                f"The decoder reads the reason tokens alone, but rationale_from is {self.rationale_from!r}; set "
                "decoder_layers=0 and leave out decoder_model to have the backbone decode."
            )
        self.decoder_layers, self.decoder_model = decoder_layers, decoder_model
        self.diversity_weight = diversity_weight
        self.light_decoder: LightDecoder | None = None
        self.pretrained_decoder: PretrainedDecoder | None = None
        backbone = qwen_vl_model(model[0])
        settings = backbone.config.get_text_config()
        if decoder_model is not None:
            decoder = PretrainedDecoder(decoder_model, settings.hidden_size, model.tokenizer)
            self.pretrained_decoder = decoder.to(backbone.device)
        elif decoder_layers:
            self.light_decoder = LightDecoder(
                settings.hidden_size, heads=settings.num_attention_heads, layers=decoder_layers
            ).to(backbone.device)

    @property
    def rationale_pass(self) -> ThoughtPass:
        """Texts are decoded from the reason tokens, by a decoder of the loss if it has one."""
        return replace(super().rationale_pass, thought_decoder=self.pretrained_decoder or self.light_decoder)

    def _row_extras(self, features: dict[str, Any]) -> dict[str, Tensor]:
        """Besides the NLL, the mean cosine of a row's reason states, its square, and whether there are two states."""
        present = features["thought_mask"]
        cosine, square = pairwise_cosines(features["thought_states"], present)
        several = (present.sum(1) > 1).float()
        return super()._row_extras(features) | {"diversity": torch.stack([cosine, square, several], dim=1)}

    def _parts(self, vectors: list[Tensor], extras: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        parts = super()._parts(vectors, extras, batch)
        cosine, square, several = extras["diversity"].sum(0)
        count = self._over_processes(several.detach()).clamp(min=1e-9)
        if self.diversity_weight:
            parts["diversity"] = self.diversity_weight * square / count
        with torch.no_grad():
            different = torch.cat([vectors[0], torch.cat(vectors[1:] or vectors)[batch.candidates.distinct]])[None]
            present = torch.ones(different.shape[:2], dtype=torch.bool, device=different.device)
            embedding_cosine = pairwise_cosines(different, present)[0][0]
            self.metrics = {"reason_cosine": cosine / count, "embedding_cosine": embedding_cosine}
        return parts
