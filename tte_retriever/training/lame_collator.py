"""Rows of training pairs with what LaME reconstructs: the text of the positive, from the query's reason tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

from tte_retriever.errors import InputError
from tte_retriever.training.collator import TTECollator
from tte_retriever.training.lame_config import Reconstruct

if TYPE_CHECKING:
    from tte_retriever.encoder import TTEEncoder


class LameCollator(TTECollator):
    """A :class:`TTECollator` in which the positive's text takes the place of the anchor's rationale.

    Text beside media is text. A positive without any has its rationale for a caption, if it may, else its row is
    reconstructed from nothing. No other column has anything to reconstruct.

    Args:
        model: As for :class:`TTECollator`.
        reconstruct: ``answer``, which is the above, or ``rationale``: batches are those of :class:`TTECollator`.
        rationale_as_caption: Whether a rationale may stand in for the text of a positive without text.
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
        if reconstruct not in get_args(Reconstruct):
            raise InputError(f"reconstruct is {reconstruct!r}; it can be {' or '.join(get_args(Reconstruct))}")
        self.reconstruct, self.rationale_as_caption = reconstruct, rationale_as_caption

    def _collate(self, rows: list[dict[str, Any]], columns: list[str], budget: int) -> dict[str, Any]:
        if self.reconstruct == "answer":
            rows = [self._with_target(row, *columns[:2]) for row in rows]
        return super()._collate(rows, columns, budget)

    def _with_target(self, row: dict[str, Any], anchor: str, positive: str) -> dict[str, Any]:
        target = text_of(row[positive])
        if not target and self.rationale_as_caption:
            target = row.get(f"{positive}_cot") or ""
        return {name: value for name, value in row.items() if not name.endswith("_cot")} | {f"{anchor}_cot": target}


def text_of(item: Any) -> str:
    """All text of an item, its parts on lines of their own; of a chat, what the user says."""
    if isinstance(item, str):
        return item.strip()
    if isinstance(item, Mapping):
        if "message" in item:
            return text_of(item["message"])
        return text_of(item.get("text") or "")
    if isinstance(item, (list, tuple)):
        spoken = (each["content"] if _is_turn(each) else each for each in item if not _is_turn(each, "system"))
        return "\n".join(text for text in map(text_of, spoken) if text)
    return ""


def _is_turn(part: Any, *roles: str) -> bool:
    """Whether it is a message of a chat, of one of the roles."""
    return isinstance(part, Mapping) and "role" in part and (not roles or part["role"] in roles)
