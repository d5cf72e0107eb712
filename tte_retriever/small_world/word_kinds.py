"""The kind of each word of a rationale: colour, shape, place and so on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .vocabulary import COLORS, DIRECTIONS, KEYS, NUMBERS, PLACES, SHAPES, SIZES, TITLE_FIRST, TITLE_SECOND, VALUES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_WORDS: dict[str, Iterable[str]] = {
    "color": COLORS,
    "shape": SHAPES,
    "size": SIZES,
    "place": PLACES,
    "number": NUMBERS,
    "event": ("moves", "turns", "grows", "shrinks", "vanishes", "appears"),
    "key": KEYS,
    "value": VALUES,
    "title": (*TITLE_FIRST, *TITLE_SECOND),
}
_KIND = {word: kind for kind, words in _WORDS.items() for word in words}

WORD_KINDS: tuple[str, ...] = (*_WORDS, "direction", "other")
"""All kinds; ``other`` is a word in no list, such as ``so``."""


def word_kinds(words: Sequence[str]) -> list[str]:
    """The kind of each word of a rationale.

    Four words are both places and directions. They are directions after ``moves`` and before a place.
    """
    kinds = [_KIND.get(word, "other") for word in words]
    for index, word in enumerate(words):
        moved = index > 0 and words[index - 1] == "moves"
        related = index + 1 < len(words) and words[index + 1] in PLACES
        if word in DIRECTIONS and (moved or related):
            kinds[index] = "direction"
    return kinds
