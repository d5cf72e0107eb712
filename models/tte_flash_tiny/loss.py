"""The loss of the bundled model's training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from models.tte_flash_tiny.visual_words import visual_word_nll
from tte_retriever.backbones import qwen_vl_model
from tte_retriever.training.tte_flash.loss import TTELoss

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tte_retriever.encoder import TTEEncoder


class WorldLoss(TTELoss):
    """``TTELoss`` with a dense loss on the visual tokens of all columns.

    Args:
        model: As for :class:`TTELoss`.
        visual_weight: Weight of the dense loss.
        **options: As for :class:`TTELoss`.
    """

    PARTS = (*TTELoss.PARTS, "visual")

    def __init__(self, model: TTEEncoder, *, visual_weight: float, **options: Any) -> None:
        super().__init__(model, **options)
        self.visual_weight = visual_weight
        self.visual_scale = nn.Parameter(torch.tensor(1.0))
        backbone = qwen_vl_model(model.transformer)
        self.empty_id = model.tokenizer(" empty").input_ids[0]
        # In lists, so that they are not submodules: the trainer optimises them as parts of the model.
        self._merger, self._embed_tokens = [backbone.visual.merger], [backbone.get_input_embeddings()]

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None) -> dict[str, Tensor]:
        """The parts of :class:`TTELoss` and ``visual``."""
        columns = [dict(column) for column in sentence_features]
        words = torch.cat([column.pop("words") for column in columns])  # (N, 3)
        # The loss from candidates to queries needs as many of one as of the other, so it is off with hard negatives.
        self.symmetric = len(columns) == 2
        tokens: list[Tensor] = []
        hook = self._merger[0].register_forward_hook(lambda _module, _args, output: tokens.append(output))
        try:
            parts = super().forward(columns)
        finally:
            hook.remove()
        # Most cells are empty; keep one in five of them, so that words have enough weight.
        keep = (words[:, 0] != self.empty_id) | (torch.rand(len(words)) < 0.2)  # (N,)
        visual = visual_word_nll(torch.cat(tokens)[keep], words[keep], self._embed_tokens[0], self.visual_scale)
        return parts | {"visual": self.visual_weight * visual}
