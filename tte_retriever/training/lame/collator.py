"""Batches of training pairs for LaME, which reconstructs the text of the positive from the query's reason tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from tte_retriever.errors import check_choice
from tte_retriever.training.data.item_codec import item_parts
from tte_retriever.training.lame.config import Reconstruct
from tte_retriever.training.tte_flash.collator import TTECollator

if TYPE_CHECKING:
    from tte_retriever.encoder import TTEEncoder


class LameCollator(TTECollator):
    """A :class:`TTECollator` in which the positive's text replaces the anchor's rationale.

    For a positive with media it is the rationale, as a caption, if ``rationale_as_caption`` is set; else the text beside the
    media. A row without either has nothing to reconstruct, and neither has any other column.

    Args:
        model: As for :class:`TTECollator`.
        reconstruct: ``answer`` is the above. With ``rationale``, batches are those of :class:`TTECollator`.
        rationale_as_caption: Whether the rationale of a positive with media is its caption.
        **options: As for :class:`TTECollator`.

    Raises:
        InputError: As for :class:`TTECollator`.
    """

    def __init__(
        self,
        model: TTEEncoder,
        *,
        reconstruct: Reconstruct = "answer",
        rationale_as_caption: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        check_choice("reconstruct", reconstruct, get_args(Reconstruct))
        self.reconstruct, self.rationale_as_caption = reconstruct, rationale_as_caption

    def _collate(self, rows: list[dict[str, Any]], columns: list[str], budget: int) -> dict[str, Any]:
        if self.reconstruct == "answer":
            rows = [self._with_target(row, *columns[:2]) for row in rows]
        return super()._collate(rows, columns, budget)

    def _with_target(self, row: dict[str, Any], anchor: str, positive: str) -> dict[str, Any]:
        parts = list(item_parts(row[positive]))
        caption = row.get(f"{positive}_rationale") if self.rationale_as_caption and None in parts else ""
        target = caption or "\n".join(filter(None, parts))
        kept = {name: value for name, value in row.items() if not name.endswith(("_rationale", "_answer"))}
        return kept | {f"{anchor}_rationale": target}
