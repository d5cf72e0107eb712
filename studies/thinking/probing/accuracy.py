"""Compare a written rationale with the true one, word by word."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

OPENED, CLOSED = "<think>", "</think>"
"""Tags around a rationale of ``explicit-cot`` and ``plume``."""


@dataclass(frozen=True)
class Comparison:
    """A true rationale and the one that the model wrote.

    Attributes:
        gold: Words of the true rationale.
        written: Words that the model wrote freely.
        free: For each word of ``gold``, whether it was written in its place.
        forced: For each word of ``gold``, whether each of its tokens was the likeliest after the true tokens before it.
    """

    gold: tuple[str, ...]
    written: tuple[str, ...]
    free: tuple[bool, ...]
    forced: tuple[bool, ...]

    @property
    def exact(self) -> bool:
        """Whether exactly these words were written."""
        return self.gold == self.written


def compare(
    tokenizer: PreTrainedTokenizerBase, gold_ids: Sequence[int], written_ids: Sequence[int], predicted: Sequence[int]
) -> Comparison:
    """Compare the true rationale of one item with the written one, and with predictions under teacher forcing.

    Args:
        tokenizer: The model's tokenizer.
        gold_ids: Token ids of the true rationale, without its end token.
        written_ids: Token ids of the written rationale, without its end token.
        predicted: The likeliest token in each place of ``gold_ids``; further ones are ignored.
    """
    wanted = words_of(tokenizer, gold_ids)
    gold = tuple(word for word, _ in wanted)
    written = tuple(word for word, _ in words_of(tokenizer, written_ids))
    free = tuple(index < len(written) and written[index] == word for index, word in enumerate(gold))
    forced = tuple(all(predicted[token] == gold_ids[token] for token in tokens) for _, tokens in wanted)
    return Comparison(gold, written, free, forced)


def words_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[tuple[str, list[int]]]:
    """The words of a rationale without ``<think>`` tags, each with the indices of its tokens."""
    pieces = [str(tokenizer.decode([token])) for token in ids]
    text, ends = "".join(pieces), list(accumulate(map(len, pieces)))
    starts = [0, *ends]
    opened = len(OPENED) if text.startswith(OPENED) else 0
    closed = text.find(CLOSED) if CLOSED in text else len(text)
    return [
        (
            match[0],
            [token for token in range(len(ids)) if starts[token] < match.end() and ends[token] > match.start()],
        )
        for match in re.compile(r"\S+").finditer(text, opened, closed)
    ]
