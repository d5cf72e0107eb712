"""Batches of training pairs with what PLUME writes after its latent steps, in every phase of the curriculum."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from tte_retriever.errors import InputError
from tte_retriever.tokens import escape_control_tokens
from tte_retriever.training.collator import IGNORED, PairCollator, item_columns, padded
from tte_retriever.training.data.item_codec import item_parts
from tte_retriever.training.plume.curriculum import written

if TYPE_CHECKING:
    import torch

    from tte_retriever.encoder import TTEEncoder
    from tte_retriever.methods.plume import PlumeTransformer
    from tte_retriever.training.plume.curriculum import Curriculum

_SUFFIX = "<eot></think>\n<gen_emb>"
"""What is written, up to the embed token, when everything is latent and the answer is dropped."""


class PlumeCollator(PairCollator):
    """A :class:`~tte_retriever.training.collator.PairCollator` for the curriculum of PLUME.

    ``c_rationale_ids`` are (B, phases, R) int64: what is written after the latent steps in each phase. The loss picks the
    phase, because a loader that runs ahead, or in another process, does not know it. From ``<eot>`` on, the text holds what
    is left of ``<item>_rationale``, the answer, ``<gen_emb>`` and the end of the turn. The answer is ``<item>_answer``, else
    the positive if it is text alone, for the anchor and the positive alike; columns after these two have none.

    Args:
        model: As for ``PairCollator``, of the method ``plume``.
        curriculum: Phases.
        **options: As for ``PairCollator``; ``max_rationale_tokens`` counts ``<item>_rationale`` alone.

    Raises:
        InputError: As for ``PairCollator``, and a model that reads another suffix at inference.
    """

    def __init__(self, model: TTEEncoder, *, curriculum: Curriculum, **options: Any) -> None:
        super().__init__(model, **options)
        suffix = cast("PlumeTransformer", model.transformer).options.suffix
        if suffix != _SUFFIX:
            raise InputError(
                f"at inference this model reads {suffix!r} after its latent steps, but the curriculum ends in {_SUFFIX!r}; "
                "build or import it with that suffix"
            )
        self.curriculum = curriculum

    def _rationale_ids(self, rows: list[dict[str, Any]], column: str) -> torch.Tensor:
        pair = item_columns(list(rows[0]))[:2]
        ids: list[list[int]] = []
        for row in rows:
            rationale = self._cut(escape_control_tokens(row.get(f"{column}_rationale") or "", self.model.tokenizer))
            usual = _text_alone(row[pair[1]]) if column in pair and len(pair) == 2 else ""
            answer = escape_control_tokens(row.get(f"{column}_answer") or usual, self.model.tokenizer)
            for phase in self.curriculum.phases:
                text = f"<eot>{written(rationale, answer, phase, self.curriculum)}<gen_emb><|im_end|>\n"
                ids.append(self.model.tokenizer(text, add_special_tokens=False).input_ids)
        return padded(ids, IGNORED).unflatten(0, (len(rows), -1))  # (B, phases, R)

    def _cut(self, text: str) -> str:
        """A text without what exceeds ``max_rationale_tokens``."""
        ends = self.model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
        return text if len(ends) <= self.max_rationale_tokens else text[: ends[self.max_rationale_tokens - 1][1]]


def _text_alone(item: Any) -> str:
    """The text of an item that has no media; ``""`` for any other."""
    parts = list(item_parts(item))
    return "" if None in parts else " ".join(filter(None, parts))
