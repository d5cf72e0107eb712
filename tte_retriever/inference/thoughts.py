"""Check that a batch has the thoughts that it should have, before the model reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from tte_retriever.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PreTrainedTokenizerBase

    from tte_retriever.tokens import ThoughtVocabulary


def check_thoughts(
    features: Mapping[str, Any],
    budgets: Sequence[int],
    thought: ThoughtVocabulary,
    *,
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int | None,
) -> None:
    """Raise unless each row of ``input_ids`` (B, L) has its think tokens and ends in the embed token.

    Args:
        features: The batch.
        budgets: Number of think tokens of each row.
        thought: The think tokens and the embed token; without an embed token, nothing is checked.
        tokenizer: For the message.
        max_tokens: The maximum length of the model, for the message.

    Raises:
        InputError: Truncation removed think tokens from a row.
        CheckpointError: The model reads another token after the embed token, whose state would become the vector.
    """
    if thought.embed_id is None:
        return
    ids = torch.tensor([*thought.think_ids, thought.embed_id])
    input_ids, mask = features["input_ids"].cpu(), features["attention_mask"].cpu()  # (B, L) each
    found = torch.isin(input_ids, ids).sum(1).tolist()  # (B,)
    for row, (has, budget) in enumerate(zip(found, budgets, strict=True)):
        if has != budget + 1:
            raise InputError(
                f"Row {row} of the batch has {has} think and embed tokens instead of {budget + 1}: it does not fit into "
                f"{max_tokens} tokens. Shorten the text, use smaller or fewer media, or raise max_seq_length."
            )
    last = mask.shape[1] - 1 - mask.flip(1).argmax(1)  # (B,)
    for token in input_ids[torch.arange(len(last)), last].tolist():
        if token != thought.embed_id:
            raise CheckpointError(
                f"The last token that the model reads is {tokenizer.decode([token])!r} instead of the embed token: the "
                "tokenizer of this checkpoint appends it to every sequence. Build or import the checkpoint again."
            )
