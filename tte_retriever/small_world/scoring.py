"""Hit@1 of an encoder on new items of the small world."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from tte_retriever.media import VideoFrames

from .clips import CLIP_S
from .tasks import ANSWERS, EDITS_PER_SCENE, Family, Item, Pair, draw_pairs, sample_times

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from .vocabulary import Split

_Z95 = 1.959964


@dataclass(frozen=True)
class Score:
    """Hit@1 of one family.

    Attributes:
        name: The family, or one kind of it.
        split: ``test``, ``held-out``, …
        right: Number of queries whose best candidate answers them.
        asked: Number of queries.
        chance: Expected hit@1 of a random guess.
    """

    name: str
    split: Split
    right: int
    asked: int
    chance: float

    @property
    def hit_rate(self) -> float:
        """Share of right answers, 0..1."""
        return self.right / self.asked

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of :attr:`hit_rate`."""
        p, n, z = self.hit_rate, self.asked, _Z95
        middle, spread = p + z * z / (2 * n), z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return (middle - spread) / (1 + z * z / n), (middle + spread) / (1 + z * z / n)


def encoder_item(item: Item) -> dict[str, Any]:
    """A drawn item as input of :class:`~tte_retriever.TTEEncoder`; frames get their times."""
    encodable: dict[str, Any] = dict(item)
    if "image" in item:
        encodable["image"] = Image.fromarray(item["image"])
    if "video" in item:
        frames, times_s = map(Image.fromarray, item["video"]), sample_times(len(item["video"]))
        encodable["video"] = VideoFrames(tuple(frames), tuple(times_s), 0.0, CLIP_S)
    return encodable


def candidates_of(pairs: list[Pair]) -> tuple[list[Item], list[object]]:
    """The candidates of the queries of one family: their items and their contents.

    For questions every possible answer, for edits all results and all unedited pictures, else the positives.
    """
    family = pairs[0].family
    if family in ANSWERS:
        return [{"text": answer} for answer in ANSWERS[family]], list(ANSWERS[family])
    items = [pair.positive for pair in pairs]
    contents: list[object] = [pair.content for pair in pairs]
    if family == "edit":
        sources = pairs[::EDITS_PER_SCENE]
        items += [{"image": pair.query["image"]} for pair in sources]
        contents += [pair.shown for pair in sources]
    return items, contents


def score_family(
    encoder: SentenceTransformer,
    family: Family,
    *,
    split: Split,
    seed: int | str,
    queries: int = 200,
    **encode_kwargs: Any,
) -> list[Score]:
    """Hit@1 of a family and of each kind in it, on ``queries`` newly drawn pairs.

    Args:
        encoder: The model.
        family: The task.
        split: Split of the small world.
        seed: Seed of the draw.
        queries: Number of queries, and of candidates where these are the positives.
        **encode_kwargs: Arguments of ``encode``, such as ``think_budget``.
    """
    pairs = draw_pairs(family, queries, seed=seed, split=split)
    items, contents = candidates_of(pairs)
    q = encoder.encode([encoder_item(pair.query) for pair in pairs], **encode_kwargs)  # (B, E)
    c = encoder.encode([encoder_item(item) for item in items], **encode_kwargs)  # (N, E)
    best = np.argmax(q @ c.T, axis=1)  # (B,)
    right = np.array([pair.accepts(contents[i]) for pair, i in zip(pairs, best, strict=True)])
    chances = np.array([np.mean([pair.accepts(content) for content in contents]) for pair in pairs])
    kinds = np.array([pair.kind for pair in pairs])
    masks = {family: np.full(len(pairs), True), **{kind: kinds == kind for kind in sorted(set(kinds))}}
    return [
        Score(name, split, int(right[mask].sum()), int(mask.sum()), float(chances[mask].mean()))
        for name, mask in masks.items()
    ]
