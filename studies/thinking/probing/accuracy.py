"""How much of a rationale is said, word by word."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

OPENED, CLOSED = "<think>", "</think>"
"""Tags around the rationale of an explicit chain of thought."""


@dataclass(frozen=True)
class Comparison:
    """A rationale as it should be and as it was said.

    Attributes:
        gold: Its words.
        said: The words that were written freely.
        free: Of each word of ``gold``, whether it was written in its place.
        forced: Of each word of ``gold``, whether all of its tokens were the likeliest after the true ones before them.
    """

    gold: tuple[str, ...]
    said: tuple[str, ...]
    free: tuple[bool, ...]
    forced: tuple[bool, ...]

    @property
    def exact(self) -> bool:
        """Whether all words were written, and no other."""
        return self.gold == self.said


def compare(
    tokenizer: PreTrainedTokenizerBase, gold_ids: Sequence[int], written_ids: Sequence[int], predicted: Sequence[int]
) -> Comparison:
    """Compare the rationale of one item with what was written, and with what was predicted under teacher forcing.

    Args:
        tokenizer: Of the model.
        gold_ids: What should be written, without the token that ends it.
        written_ids: What was, likewise.
        predicted: The likeliest token at each place of ``gold_ids``, at least as many.
    """
    wanted = words_of(tokenizer, gold_ids)
    gold = tuple(word for word, _ in wanted)
    said = tuple(word for word, _ in words_of(tokenizer, written_ids))
    free = tuple(index < len(said) and said[index] == word for index, word in enumerate(gold))
    forced = tuple(all(predicted[token] == gold_ids[token] for token in tokens) for _, tokens in wanted)
    return Comparison(gold, said, free, forced)


def words_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[tuple[str, list[int]]]:
    """The words of a rationale, ``<think>`` tags around it apart, and the indices of the tokens that each is made of."""
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
