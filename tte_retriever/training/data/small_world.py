"""Pairs of the small drawn world as a dataset; they are drawn when a batch is made, so that a config runs without files."""

from __future__ import annotations

from functools import partial
from typing import Any

from datasets import Dataset

from tte_retriever.errors import InputError
from tte_retriever.small_world import FAMILIES, Family, Pair, draw_pairs
from tte_retriever.small_world.scoring import encoder_item
from tte_retriever.small_world.tasks import EDITS_PER_SCENE


def small_world(family: str, rows: int, *, seed: int) -> Dataset:
    """``rows`` training pairs of one family, each a pure function of the seed and its index.

    Args:
        family: One of :data:`tte_retriever.small_world.FAMILIES`.
        rows: Length of the dataset; a row is drawn when it is read.
        seed: Different seeds draw independent pairs.

    Returns:
        Columns ``anchor``, ``positive``, ``anchor_rationale``, ``positive_rationale``.

    Raises:
        InputError: There is no such family.
    """
    if family not in FAMILIES:
        raise InputError(f"The small world has no family {family!r}; it has {', '.join(FAMILIES)}.")
    draw = partial(_draw, family=family, seed=seed)
    return Dataset.from_dict({"index": range(rows)}).with_transform(draw)


def _draw(batch: dict[str, list[Any]], *, family: Family, seed: int) -> dict[str, list[Any]]:
    pairs = [_pair(family, seed, index) for index in batch["index"]]
    return {
        "anchor": [encoder_item(pair.query) for pair in pairs],
        "positive": [encoder_item(pair.positive) for pair in pairs],
        "anchor_rationale": [pair.query_rationale for pair in pairs],
        "positive_rationale": [pair.positive_rationale for pair in pairs],
    }


def _pair(family: Family, seed: int, index: int) -> Pair:
    if family == "edit":  # drawn in groups that share a picture
        group, place = divmod(index, EDITS_PER_SCENE)
        return draw_pairs(family, EDITS_PER_SCENE, seed=f"{seed}-{group}", split="train")[place]
    return draw_pairs(family, 1, seed=f"{seed}-{index}", split="train")[0]
