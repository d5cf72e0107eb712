"""Rows of training pairs with what LaME reconstructs: the text of the positive, from the query's reason tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, get_args

from tte_retriever.errors import InputError
from tte_retriever.training.collator import TTECollator
from tte_retriever.training.lame.config import Reconstruct

if TYPE_CHECKING:
    from tte_retriever.encoder import TTEEncoder


class LameCollator(TTECollator):
    """A :class:`TTECollator` in which the positive's text takes the place of the anchor's rationale.

    A positive with media has its rationale for a caption, if it may, else the text beside them; a row without either has
    nothing to reconstruct, and no other column has.

    Args:
        model: As for :class:`TTECollator`.
        reconstruct: ``answer``, which is the above, or ``rationale``: batches are those of :class:`TTECollator`.
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
        if reconstruct not in get_args(Reconstruct):
            raise InputError(f"reconstruct is {reconstruct!r}; it can be {' or '.join(get_args(Reconstruct))}")
        self.reconstruct, self.rationale_as_caption = reconstruct, rationale_as_caption

    def _collate(self, rows: list[dict[str, Any]], columns: list[str], budget: int) -> dict[str, Any]:
        if self.reconstruct == "answer":
            rows = [self._with_target(row, *columns[:2]) for row in rows]
        return super()._collate(rows, columns, budget)

    def _with_target(self, row: dict[str, Any], anchor: str, positive: str) -> dict[str, Any]:
        parts = list(parts_of(row[positive]))
        caption = row.get(f"{positive}_rationale") if self.rationale_as_caption and None in parts else ""
        target = caption or "\n".join(filter(None, parts))
        said = ("_rationale", "_answer")
        return {name: value for name, value in row.items() if not name.endswith(said)} | {
            f"{anchor}_rationale": target
        }


def parts_of(item: Any) -> Iterator[str | None]:
    """What an item is made of, in order: texts, and ``None`` for each piece of media; of a chat, what the user says."""
    if isinstance(item, str):
        yield item.strip()
    elif isinstance(item, (list, tuple)):
        for each in item:
            yield from parts_of(each)
    elif not isinstance(item, Mapping):
        yield None
    elif "role" in item:
        yield from parts_of(item["content"]) if item["role"] != "system" else ()
    else:
        for kind, value in item.items():
            if kind in ("text", "message"):
                yield from parts_of(value)
            elif kind in ("image", "video"):
                yield None
