"""Batches of training pairs with rationales as a model writes them out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from tte_retriever.training.collator import IGNORED, PairCollator

if TYPE_CHECKING:
    import torch

    from tte_retriever.encoder import TTEEncoder
    from tte_retriever.methods.explicit_cot import ExplicitCoT


class ExplicitCoTCollator(PairCollator):
    """A :class:`~tte_retriever.training.collator.PairCollator` whose rationales are written as in UME-R1.

    They are enclosed in ``<think>`` tags and end in the embed token. A row without a rationale has only the embed token:
    the model learns to embed it at once, and not to make up a rationale.

    Args:
        model: Built with the method ``explicit-cot``.
        **options: As for ``PairCollator``.

    Raises:
        InputError: As for ``PairCollator``.
    """

    def __init__(self, model: TTEEncoder, **options: Any) -> None:
        super().__init__(model, **options)
        self.end_id = cast("ExplicitCoT", model.transformer).gen_id

    def format_rationale(self, rationale: str) -> str:
        """In its tags, on a line of its own."""
        return f"<think>{rationale}</think>\n"

    def tokenize_rationales(self, rationales: list[str]) -> torch.Tensor:
        """As ``PairCollator``, with the embed token where there is no rationale."""
        ids = super().tokenize_rationales(rationales)  # (B, R)
        ids[(ids == IGNORED).all(1), 0] = self.end_id
        return ids
