"""The tasks on videos. Every function draws ``count`` queries from its arguments alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tte_retriever.small_world import ANSWERS, Clip
from tte_retriever.small_world.clips import ClipDescription, draw_alternatives, draw_clip, draw_windows
from tte_retriever.small_world.drawing import clip_states
from tte_retriever.small_world.scenes import Mention
from tte_retriever.small_world.tasks import rngs

from .pools import Candidate, Pool, Query, answer_pool, balanced, description_pool, parts, spread

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from tte_retriever.small_world import Split

_WHILE_THERE = ("moves", "turns", "grows", "shrinks")
_CLASSES = [
    *((first, second) for first in ("appears", *_WHILE_THERE) for second in (*_WHILE_THERE, "vanishes")),
    ("vanishes", "appears"),
]
# There are two sizes, so nothing grows or shrinks twice.
_CLASSES = [pair for pair in _CLASSES if pair not in (("grows", "grows"), ("shrinks", "shrinks"))]


def _class_of(clip: Clip) -> tuple[str, str]:
    first, second = (event.split()[0] for event in clip.events)
    return first, second


def _clips(rng: random.Random, split: Split) -> Iterator[Clip]:
    while True:
        yield draw_clip(rng, split)


def classification(split: Split, seed: int, count: int) -> list[Pool]:
    """What happens? Candidates are all 24 orders of two kinds of events."""
    rng, pixels = rngs("mini-mmeb", "video-classification", split, seed)
    clips = balanced(spread(_CLASSES, count), _clips(rng, split), _class_of)
    queries = [
        Query({"video": clip_states(clip, pixels), "text": "what happens ?"}, "order", clip.key) for clip in clips
    ]
    answers, choices = ([" , then ".join(pair) for pair in pairs] for pairs in (map(_class_of, clips), _CLASSES))
    return [answer_pool(queries, answers, choices)]


def question_answering(split: Split, seed: int, count: int) -> list[Pool]:
    """What happens first, or second? Every answer is right equally often."""
    rng, pixels = rngs("mini-mmeb", "video-question-answering", split, seed)
    answers, orders = ANSWERS["moment-question"], ("first", "second")

    def questions() -> Iterator[tuple[Clip, int]]:
        for clip in _clips(rng, split):
            yield clip, rng.randrange(2)

    asked = balanced(spread(answers, count), questions(), lambda each: each[0].events[each[1]])
    queries = [
        Query({"video": clip_states(clip, pixels), "text": f"what happens {orders[index]} ?"}, orders[index], clip.key)
        for clip, index in asked
    ]
    return [answer_pool(queries, [clip.events[index] for clip, index in asked], answers)]


def _description(rng: random.Random, clip: Clip) -> tuple[str, ClipDescription]:
    kind = rng.choice(("placed", "unplaced"))
    actor = clip.actor
    place = actor.place if kind == "placed" else ""
    return kind, ClipDescription(Mention("", actor.color, actor.shape, place), clip.events)


_ALIKE = 4
"""Clips in a group of hard negatives."""


def retrieval(split: Split, seed: int, count: int) -> list[Pool]:
    """Two events in words → the clips that show them, among clips that differ in one event or in the order."""
    rng, pixels = rngs("mini-mmeb", "video-retrieval", split, seed)
    clips: list[Clip] = []
    while len(clips) < count:
        clip = draw_clip(rng, split)
        group = [clip, *draw_alternatives(rng, clip, _ALIKE - 1)]
        clips += group if len(group) == _ALIKE else []
    described = [_description(rng, clip) for clip in clips[:count]]
    candidates = [Candidate({"video": clip_states(clip, pixels)}, clip.key) for clip in clips]
    return [description_pool(described, candidates, clips)]


WINDOWS = 10
"""Windows of a video, as in MMEB-v2; each has a query."""


def moment_retrieval(split: Split, seed: int, count: int) -> list[Pool]:
    """Two events in words → the window of a longer video that shows them."""
    rng, pixels = rngs("mini-mmeb", "moment-retrieval", split, seed)
    pools = []
    for asked in parts(count, WINDOWS):
        windows = draw_windows(rng, split, WINDOWS)
        described = [_description(rng, window) for window in windows[:asked]]
        style = int(pixels.integers(2**63))  # the windows of a video have one style
        candidates = [
            Candidate({"video": clip_states(window, np.random.default_rng(style))}, window.key) for window in windows
        ]
        pools.append(description_pool(described, candidates, windows))
    return pools
