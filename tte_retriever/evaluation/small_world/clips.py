"""Clips: a scene that changes twice, in words and states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .scenes import Mention, Scene, Thing, draw_scene
from .splits import draw_in_split
from .vocabulary import COLORS, DIRECTIONS, HELD_OUT_LOOKS, PLACES, SIZES, Split

if TYPE_CHECKING:
    import random

STATES = 3
"""States of a clip; every state lasts :data:`STATE_S` seconds and fills one temporal patch."""
STATE_S = 2.0
CLIP_S = STATES * STATE_S


@dataclass(frozen=True)
class Clip:
    """One actor does two things; whatever else there is stays as it was.

    Attributes:
        states: Three scenes.
        actor: The thing that acts, as it first appears.
        events: Two events in words: ``moves north``, ``turns blue``, ``grows``, ``shrinks``, ``vanishes``, ``appears``.
    """

    states: tuple[Scene, Scene, Scene]
    actor: Thing
    events: tuple[str, str]

    @property
    def key(self) -> str:
        """What makes two clips the same content."""
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
        """What is there and does not act."""
        return tuple(thing for thing in self.states[1].things if all(thing in state.things for state in self.states))

    @property
    def listing(self) -> str:
        """The whole clip in words: the actor, its two events, the bystanders."""
        actor = f"{self.actor.place} {self.actor.look}"
        return " ".join([actor, *self.events, *(f"{thing.place} {thing.look}" for thing in self.bystanders)])


def _events(rng: random.Random, thing: Thing | None, actor: Thing, free: list[str]) -> tuple[str, Thing | None] | None:
    """One event and the actor after it; ``None`` where the drawn kind is impossible now."""
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
    direction, (rows, columns) = rng.choice(list(DIRECTIONS.items()))
    row, column = divmod(PLACES.index(thing.place), 3)
    row, column = row + rows, column + columns
    if not (0 <= row < 3 and 0 <= column < 3) or PLACES[3 * row + column] not in free:
        return None
    return f"moves {direction}", thing._replace(place=PLACES[3 * row + column])


def _draw(rng: random.Random, split: Split) -> Clip:
    start = draw_scene(rng, "held-out" if split == "held-out" else "train", rng.randint(1, 3))
    actor = rng.choice(start.things)
    others = [thing for thing in start.things if thing != actor]
    current: Thing | None = None if rng.random() < 0.15 else actor
    states = [Scene.of([*others, *([current] if current else [])])]
    events: list[str] = []
    while len(events) < STATES - 1:
        drawn = _events(rng, current, actor, states[-1].free_places)
        if drawn is None:
            continue
        text, thing = drawn
        if thing is not None and (thing.shape, thing.color) in HELD_OUT_LOOKS and not start.held_out:
            continue
        current = thing
        events.append(text)
        states.append(Scene.of([*others, *([current] if current else [])]))
    return Clip((states[0], states[1], states[2]), actor, (events[0], events[1]))


def draw_clip(rng: random.Random, split: Split) -> Clip:
    """Draw a clip that belongs to ``split``; a pure function of the state of ``rng``."""
    return draw_in_split(lambda: _draw(rng, split), split)


@dataclass(frozen=True)
class ClipDescription:
    """What a text says of a clip."""

    actor: Mention
    events: tuple[str, str]

    @property
    def text(self) -> str:
        """``a red circle in the west moves north, then turns blue``."""
        return f"{self.actor.phrase} {self.events[0]} , then {self.events[1]}"

    @property
    def words(self) -> str:
        """The description as it stands in a listing."""
        return " ".join((self.actor.words, *self.events))

    def matches(self, clip: Clip) -> bool:
        """Whether the text describes the clip."""
        return self.events == clip.events and self.actor.matches(clip.actor)
