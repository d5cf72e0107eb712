"""Scenes: up to five things on a three-by-three grid, with descriptions and edits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from .splits import draw_in_split, split_of
from .vocabulary import COLORS, HELD_OUT_LOOKS, PLACES, SHAPES, SIZES, Split

if TYPE_CHECKING:
    import random


class Thing(NamedTuple):
    """One drawn thing; ``place`` is one of the nine cells."""

    size: str
    color: str
    shape: str
    place: str

    @property
    def look(self) -> str:
        """Size, colour and shape in words: ``big red circle``."""
        return f"{self.size} {self.color} {self.shape}"

    @property
    def held_out(self) -> bool:
        """Whether training never shows this shape in this colour."""
        return (self.shape, self.color) in HELD_OUT_LOOKS


@dataclass(frozen=True)
class Scene:
    """Things in reading order, at most one in each cell.

    Example:
        >>> from tte_retriever.small_world import draw_pairs
        >>> scene = draw_pairs("caption", 1, seed=0, split="test")[0].content
        >>> scene.key
        'northwest small red triangle west big yellow ring center small orange circle east big green ring'
    """

    things: tuple[Thing, ...]

    @classmethod
    def of(cls, things: list[Thing]) -> Scene:
        """A scene of these things, put into reading order."""
        return cls(tuple(sorted(things, key=lambda thing: PLACES.index(thing.place))))

    @property
    def key(self) -> str:
        """Complete description in words; equal for scenes with the same content."""
        return " ".join(f"{thing.place} {thing.look}" for thing in self.things)

    @property
    def cells(self) -> list[tuple[str, ...]]:
        """The words drawn in each of the nine cells, row by row."""
        looks = {thing.place: (thing.size, thing.color, thing.shape) for thing in self.things}
        return [looks.get(place, ()) for place in PLACES]

    @property
    def held_out(self) -> bool:
        """Whether any thing has a held-out combination of shape and colour."""
        return any(thing.held_out for thing in self.things)

    @property
    def free_places(self) -> list[str]:
        """Cells with nothing in them."""
        taken = {thing.place for thing in self.things}
        return [place for place in PLACES if place not in taken]


def _draw(rng: random.Random, held_out: bool, count: int) -> Scene:
    looks = [(shape, color) for shape in SHAPES for color in COLORS]
    seen = [look for look in looks if look not in HELD_OUT_LOOKS]
    things = []
    for index, place in enumerate(rng.sample(PLACES, count)):
        shape, color = rng.choice(sorted(HELD_OUT_LOOKS) if held_out and index == 0 else seen)
        things.append(Thing(rng.choice(SIZES), color, shape, place))
    return Scene.of(things)


def draw_scene(rng: random.Random, split: Split, count: int | None = None) -> Scene:
    """Draw a scene of ``split``.

    Args:
        rng: Source of all randomness; the result is a pure function of its state.
        split: Training never sees a scene of another split.
        count: Number of things, 1 to 9; ``None`` draws 2 to 5.
    """
    return draw_in_split(lambda: _draw(rng, split == "held-out", count or rng.randint(2, 5)), split)


class Mention(NamedTuple):
    """The content of a text about one thing; empty fields are not mentioned."""

    size: str
    color: str
    shape: str
    place: str

    def matches(self, thing: Thing) -> bool:
        """Whether the thing has everything that is mentioned."""
        return all(said in ("", given) for said, given in zip(self, thing, strict=True))

    @property
    def phrase(self) -> str:
        """``a big red circle in the north``."""
        look = " ".join(word for word in (self.size, self.color, self.shape or "thing") if word)
        article = "an" if look[0] in "aeiou" else "a"
        return f"{article} {look}" + (f" in the {self.place}" if self.place else "")

    @property
    def words(self) -> str:
        """The mention in the words of a listing: ``north big red circle``."""
        return " ".join(word for word in (self.place, self.size, self.color, self.shape) if word)


@dataclass(frozen=True)
class SceneDescription:
    """The content of a text about a scene.

    Attributes:
        mentions: Things in the scene.
        count: Number of things if the text lists all of them; ``None`` if there may be more.
    """

    mentions: tuple[Mention, ...]
    count: int | None = None

    @property
    def text(self) -> str:
        """``a big red circle in the north and a small blue ring in the south``."""
        return " and ".join(mention.phrase for mention in self.mentions)

    @property
    def words(self) -> str:
        """The description in the words of a listing."""
        return " ".join(mention.words for mention in self.mentions)

    def matches(self, scene: Scene) -> bool:
        """Whether every mention matches a thing of the scene, and the number of things is right if it is given."""
        if self.count not in (None, len(scene.things)):
            return False
        return all(any(mention.matches(thing) for thing in scene.things) for mention in self.mentions)


@dataclass(frozen=True)
class Edit:
    """A change in words and the scene that it leads to."""

    text: str
    result: Scene


def shortest_name(scene: Scene, thing: Thing) -> str | None:
    """The shortest unique name of a thing, or ``None`` if colour and shape do not identify it."""
    if sum(other.shape == thing.shape for other in scene.things) == 1:
        return thing.shape
    same = [other for other in scene.things if (other.shape, other.color) == (thing.shape, thing.color)]
    return f"{thing.color} {thing.shape}" if len(same) == 1 else None


_EDIT_TRIES = 120
"""Draws for one scene; with these, most scenes yield four results in a split with a tenth of all content."""


def draw_edits(rng: random.Random, scene: Scene, count: int) -> list[Edit]:
    """Draw up to ``count`` edits of one scene with pairwise different results: hard negatives of each other.

    Kinds: recolour, remove, add, move to a free cell, swap two things. Every result is in the split of the scene, so that
    edits leak nothing from one split into another. A scene may therefore yield fewer than ``count`` edits.
    """
    named = [(thing, name) for thing in scene.things if (name := shortest_name(scene, thing))]
    split = split_of(scene)
    edits: dict[Scene, Edit] = {}
    for _ in range(_EDIT_TRIES):
        kind = rng.choice(("recolor", "recolor", "remove", "add", "add", "move", "move", "swap"))
        edit = _edit(rng, scene, named, kind)
        if edit is not None and edit.result != scene and split_of(edit.result) == split:
            edits.setdefault(edit.result, edit)
        if len(edits) == count:
            break
    return list(edits.values())


def _edit(rng: random.Random, scene: Scene, named: list[tuple[Thing, str]], kind: str) -> Edit | None:
    if kind == "add":
        if not scene.free_places:
            return None
        thing = Thing(rng.choice(SIZES), rng.choice(list(COLORS)), rng.choice(SHAPES), rng.choice(scene.free_places))
        return Edit(f"add {Mention(*thing).phrase}", Scene.of([*scene.things, thing]))
    if not named or (kind == "remove" and len(scene.things) == 1):
        return None
    thing, name = rng.choice(named)
    others = [other for other in scene.things if other != thing]
    if kind == "remove":
        return Edit(f"remove the {name}", Scene.of(others))
    if kind == "recolor":
        color = rng.choice([color for color in COLORS if color != thing.color])
        return Edit(f"make the {name} {color}", Scene.of([*others, thing._replace(color=color)]))
    if kind == "move":
        if not scene.free_places:
            return None
        place = rng.choice(scene.free_places)
        return Edit(f"move the {name} to the {place}", Scene.of([*others, thing._replace(place=place)]))
    partners = [(other, other_name) for other, other_name in named if other != thing]
    if not partners:
        return None
    other, other_name = rng.choice(partners)
    rest = [third for third in scene.things if third not in (thing, other)]
    swapped = [thing._replace(place=other.place), other._replace(place=thing.place)]
    return Edit(f"swap the {name} and the {other_name}", Scene.of([*rest, *swapped]))
