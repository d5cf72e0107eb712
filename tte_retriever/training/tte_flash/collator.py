"""Batches of training pairs for models with think tokens."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from tte_retriever.errors import InputError
from tte_retriever.training.collator import PairCollator, identity

if TYPE_CHECKING:
    from tte_retriever.encoder import TTEEncoder


class TTECollator(PairCollator):
    """A :class:`~tte_retriever.training.collator.PairCollator` that sets how many think tokens a batch has.

    Args:
        model: As for ``PairCollator``.
        think_budget: Think tokens of every batch; ``None`` is all of them.
        nested_budgets: Whether each batch draws its budget from 0…``think_budget``, so that one checkpoint works with any
            of them. The draw is a function of ``seed`` and the content of the batch: it is the same after a resume and in
            any worker.
        seed: Of that draw.
        **options: As for ``PairCollator``: ``prompts``, ``max_rationale_tokens``, ``quarantine``.

    Raises:
        InputError: As for ``PairCollator``, and a budget that the model does not have.

    Example:
        >>> from tte_retriever import TTEEncoder
        >>> collate = TTECollator(TTEEncoder("tte-flash-tiny"))
        >>> batch = collate([{"anchor": "a red circle", "positive": "circle", "anchor_rationale": "it is round"}])
        >>> sorted(key for key in batch if key.startswith("anchor_"))  # doctest: +NORMALIZE_WHITESPACE
        ['anchor_attention_mask', 'anchor_content_id', 'anchor_input_ids', 'anchor_mm_token_type_ids',
         'anchor_modality', 'anchor_rationale_ids']
    """

    def __init__(
        self,
        model: TTEEncoder,
        *,
        think_budget: int | None = None,
        nested_budgets: bool = False,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        if think_budget is not None and not 0 <= think_budget <= self.largest_budget:
            raise InputError(
                f"think_budget is {think_budget}, but this model has {self.largest_budget} think tokens; give 0 to "
                f"{self.largest_budget}"
            )
        self.largest_budget = self.largest_budget if think_budget is None else think_budget
        self.nested_budgets, self.seed = nested_budgets, seed

    def _budget(self, rows: list[dict[str, Any]], columns: list[str]) -> int:
        if not self.nested_budgets:
            return self.largest_budget
        content = [identity(row[column]) for row in rows for column in columns]
        digest = hashlib.sha256(repr((self.seed, content)).encode()).digest()
        return int.from_bytes(digest[:8], "little") % (self.largest_budget + 1)
