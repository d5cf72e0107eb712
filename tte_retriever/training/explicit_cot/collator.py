"""Rows of training pairs with rationales as a model that thinks in words is to write them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from tte_retriever.errors import InputError
from tte_retriever.training.collator import IGNORED, TTECollator

if TYPE_CHECKING:
    import torch

    from tte_retriever.encoder import TTEEncoder
    from tte_retriever.methods.explicit_cot import ExplicitCoT


class ExplicitCoTCollator(TTECollator):
    """A :class:`TTECollator` whose rationales stand in ``<think>`` tags and end in the embed token, as UME-R1 writes them.

    A row without a rationale has nothing but the embed token: the model learns to embed at once, which is how the row is
    read, and does not have to make something up at inference.

    Args:
        model: Built with the method ``explicit-cot``.
        nested_budgets: Must be false: the length of a rationale is what was written.
        **options: As for :class:`TTECollator`.

    Raises:
        InputError: As for :class:`TTECollator`.
    """

    def __init__(self, model: TTEEncoder, *, nested_budgets: bool = False, **options: Any) -> None:
        super().__init__(model, **options)
        if nested_budgets:
            raise InputError("nested_budgets is about think tokens, and explicit-cot has none; leave it out")
        self.end_id = cast("ExplicitCoT", model.transformer).gen_id

    def format_rationale(self, rationale: str) -> str:
        """In its tags, on a line of its own."""
        return f"<think>{rationale}</think>\n"

    def _rationale_ids(self, rationales: list[str]) -> torch.Tensor:
        ids = super()._rationale_ids(rationales)  # (B, R)
        ids[(ids == IGNORED).all(1), 0] = self.end_id
        return ids
