"""A small drawn world: scenes, short clips and document pages, with everything that can be asked about them.

It trains and tests the bundled model, fills the demo folder and is the ground of mini-MMEB. Everything in it is a
pure function of a seed and a split, and content of two splits never coincides.
"""

from __future__ import annotations

from .clips import CLIP_S, Clip, draw_clip
from .pages import Page, draw_page
from .scenes import Scene, draw_scene
from .splits import split_of
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
    "draw_clip",
    "draw_page",
    "draw_pairs",
    "draw_scene",
    "split_of",
]
