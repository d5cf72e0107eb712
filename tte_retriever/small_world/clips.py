"""Clips: a scene that changes twice, in words and states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .scenes import Mention, Scene, Thing, draw_scene
from .splits import draw_in_split, split_of
from .vocabulary import COLORS, DIRECTIONS, HELD_OUT_LOOKS, SHAPES, SIZES, Split, neighbour

if TYPE_CHECKING:
    import random

STATES = 3
"""States of a clip; every state lasts :data:`STATE_S` seconds and fills one temporal patch."""
STATE_S = 2.0
CLIP_S = STATES * STATE_S


@dataclass(frozen=True)
class Clip:
    """A clip in which one thing, the actor, does two things and the others do not change.

    Attributes:
        states: Three scenes.
        actor: The thing that acts, as it looks at first.
        events: Two events in words: ``moves north``, ``turns blue``, ``grows``, ``shrinks``, ``vanishes``, ``appears``.

    Example:
        >>> from tte_retriever.small_world import draw_pairs
        >>> clip = draw_pairs("moment", 1, seed=0, split="test")[0].content
        >>> clip.actor.look, clip.events
        ('small green ring', ('moves north', 'turns purple'))
    """

    states: tuple[Scene, Scene, Scene]
    actor: Thing
    events: tuple[str, str]

    @property
    def key(self) -> str:
        """Equal for clips with the same content."""
        return " | ".join(state.key for state in self.states)

    @property
    def cells(self) -> list[tuple[str, ...]]:
        """The words drawn in each cell, state by state and row by row."""
        return [cell for state in self.states for cell in state.cells]

    @property
    def held_out(self) -> bool:
        """Whether any state shows a held-out combination."""
        return any(state.held_out for state in self.states)

    @property
    def bystanders(self) -> tuple[Thing, ...]:
        """The things that do not act."""
        return tuple(thing for thing in self.states[1].things if all(thing in state.things for state in self.states))

    @property
    def listing(self) -> str:
        """The whole clip in words: the actor, its two events, the bystanders."""
        actor = f"{self.actor.place} {self.actor.look}"
        return " ".join([actor, *self.events, *(f"{thing.place} {thing.look}" for thing in self.bystanders)])


def _events(rng: random.Random, thing: Thing | None, actor: Thing, free: list[str]) -> tuple[str, Thing | None] | None:
    """One event and the actor after it; ``None`` if the drawn kind is impossible in this state."""
    if thing is None:
        return "appears", actor
    kind = rng.choice(("moves", "moves", "turns", "turns", "resizes", "vanishes"))
    if kind == "vanishes":
        return "vanishes", None
    if kind == "turns":
        color = rng.choice([color for color in COLORS if color != thing.color])
        return f"turns {color}", thing._replace(color=color)
    if kind == "resizes":
        size = SIZES[1 - SIZES.index(thing.size)]
        return ("grows" if size == "big" else "shrinks"), thing._replace(size=size)
    direction = rng.choice(list(DIRECTIONS))
    place = neighbour(thing.place, direction)
    if place is None or place not in free:
        return None
    return f"moves {direction}", thing._replace(place=place)


def _act(rng: random.Random, others: list[Thing], actor: Thing, there: bool) -> Clip:
    """Draw two events of one actor among others; ``there`` is whether the actor is visible at first."""
    current: Thing | None = actor if there else None
    held_out = any(thing.held_out for thing in (*others, actor))
    states = [Scene.of([*others, *([current] if current else [])])]
    events: list[str] = []
    while len(events) < STATES - 1:
        drawn = _events(rng, current, actor, states[-1].free_places)
        if drawn is None:
            continue
        text, thing = drawn
        if thing is not None and (thing.shape, thing.color) in HELD_OUT_LOOKS and not held_out:
            continue
        current = thing
        events.append(text)
        states.append(Scene.of([*others, *([current] if current else [])]))
    return Clip((states[0], states[1], states[2]), actor, (events[0], events[1]))


_ABSENT = 0.15
"""Share of clips whose actor is not visible at first."""


def _draw(rng: random.Random, split: Split) -> Clip:
    start = draw_scene(rng, "held-out" if split == "held-out" else "train", rng.randint(1, 3))
    actor = rng.choice(start.things)
    return _act(rng, [thing for thing in start.things if thing != actor], actor, rng.random() >= _ABSENT)


def draw_clip(rng: random.Random, split: Split) -> Clip:
    """Draw a clip of ``split``; a pure function of the state of ``rng``."""
    return draw_in_split(lambda: _draw(rng, split), split)


_TRIES = 400
"""Draws for one clip or video before another is started; enough for a split with a tenth of all content."""


def draw_alternatives(rng: random.Random, clip: Clip, count: int) -> list[Clip]:
    """Draw up to ``count`` clips of the same split that are hard negatives of a clip and of each other.

    They start like the clip, and the same actor does one of the same two things, or both in the other order.
    """
    split, start = split_of(clip), clip.states[0].things
    others = [thing for thing in start if thing != clip.actor]
    found: dict[tuple[str, str], Clip] = {}
    for _ in range(_TRIES):
        other = _act(rng, others, clip.actor, clip.actor in start)
        alike = other.events != clip.events and set(other.events) & set(clip.events)
        if alike and split_of(other) == split:
            found.setdefault(other.events, other)
        if len(found) == count:
            break
    return list(found.values())


def draw_windows(rng: random.Random, split: Split, count: int) -> list[Clip]:
    """Draw a video of ``count`` clips of ``split`` in a row, each of which starts in the last state of the one before.

    Colour and shape of the actor and the two events together occur in one clip only, so a text that names them is unique.
    """
    while True:
        scene = draw_scene(rng, "held-out" if split == "held-out" else "train", 3)
        windows: dict[tuple[object, ...], Clip] = {}
        for _ in range(_TRIES):
            clip = _go_on(rng, scene)
            named = clip.actor.color, clip.actor.shape, clip.events
            # Without a held-out combination in its last state, the video could not continue in the held-out split.
            lasting = clip.states[-1].held_out == (split == "held-out")
            if lasting and named not in windows and split_of(clip) == split:
                windows[named] = clip
                scene = clip.states[-1]
            if len(windows) == count:
                return list(windows.values())


_MOST_THINGS = 4


def _go_on(rng: random.Random, scene: Scene) -> Clip:
    """Draw what a thing of the scene does next; sometimes, or if the scene is empty, a new thing appears."""
    if not scene.things or (len(scene.things) < _MOST_THINGS and rng.random() < _ABSENT):
        look = rng.choice(SIZES), rng.choice(list(COLORS)), rng.choice(SHAPES)
        return _act(rng, list(scene.things), Thing(*look, rng.choice(scene.free_places)), there=False)
    actor = rng.choice(scene.things)
    return _act(rng, [thing for thing in scene.things if thing != actor], actor, there=True)


@dataclass(frozen=True)
class ClipDescription:
    """The content of a text about a clip."""

    actor: Mention
    events: tuple[str, str]

    @property
    def text(self) -> str:
        """``a red circle in the west moves north, then turns blue``."""
        return f"{self.actor.phrase} {self.events[0]} , then {self.events[1]}"

    @property
    def words(self) -> str:
        """The description in the words of a listing."""
        return " ".join((self.actor.words, *self.events))

    def matches(self, clip: Clip) -> bool:
        """Whether the text describes the clip."""
        return self.events == clip.events and self.actor.matches(clip.actor)
