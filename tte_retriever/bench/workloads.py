"""Items to encode, drawn one by one from their number alone, so that a stream of them takes no memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from tte_retriever.small_world.vocabulary import COLORS, KEYS, PLACES, SHAPES, VALUES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_WORDS = (*COLORS, *SHAPES, *PLACES, *KEYS, *VALUES)
_SIZES = ((224, 224), (320, 240), (336, 336), (448, 224), (448, 336), (192, 320))


def sentence(words: int, random: np.random.Generator) -> str:
    """Random words with one token each in the bundled vocabulary."""
    return " ".join(random.choice(_WORDS, words))


def picture(width: int, height: int, random: np.random.Generator) -> Image.Image:
    """A picture of noise."""
    return Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))


def _text(random: np.random.Generator) -> dict[str, Any]:
    """A text of lognormal length with a median of 30 words, like queries and passages."""
    return {"text": sentence(int(np.clip(random.lognormal(3.4, 1.0), 3, 220)), random)}


def _picture(random: np.random.Generator) -> dict[str, Any]:
    return {"image": picture(*_SIZES[random.integers(len(_SIZES))], random)}


def _mixed(random: np.random.Generator) -> dict[str, Any]:
    kinds = random.choice([(True, False), (True, False), (False, True), (True, True)])  # text, picture
    return {**(_picture(random) if kinds[1] else {}), **(_text(random) if kinds[0] else {})}


def _chat(random: np.random.Generator) -> list[dict[str, Any]]:
    pictures = random.choice([0, 0, 0, 1, 2, 3])
    parts = [*(_picture(random) for _ in range(pictures)), _text(random)]
    return [{"role": "user", "content": [{"type": kind, **part} for part in parts for kind in part]}]


WORKLOADS: dict[str, Callable[[np.random.Generator], Any]] = {"texts": _text, "mixed": _mixed, "messages": _chat}
"""Name → drawn item. ``mixed`` is half texts, a quarter pictures, a quarter both; ``messages`` are chats, half of them with
one to three pictures."""


def draw(workload: str, count: int) -> Iterator[Any]:
    """The first ``count`` items of a workload, the same in every run."""
    for number in range(count):
        yield WORKLOADS[workload](np.random.default_rng([number, len(workload)]))
