"""A small drawn world: scenes, short clips and document pages, and queries about them with their answers.

It trains and tests the bundled model, fills the demo folder and is the ground of mini-MMEB. Everything in it is a pure
function of a seed and a split. No content is in two splits.
"""

from __future__ import annotations

from .clips import CLIP_S, Clip
from .pages import Page
from .scenes import Scene
from .tasks import ANSWERS, FAMILIES, Family, Item, Pair, draw_pairs
from .vocabulary import SPLITS, Split

__all__ = [
    "ANSWERS",
    "CLIP_S",
    "FAMILIES",
    "SPLITS",
    "Clip",
    "Family",
    "Item",
    "Page",
    "Pair",
    "Scene",
    "Split",
    "draw_pairs",
]
