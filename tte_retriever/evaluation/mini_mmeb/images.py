"""The tasks on images. Every function draws ``count`` queries from its arguments alone."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tte_retriever.small_world import ANSWERS, Scene, draw_pairs
from tte_retriever.small_world.drawing import crop, scene_image
from tte_retriever.small_world.scenes import Mention, SceneDescription, Thing, draw_edits, draw_scene, shortest_name
from tte_retriever.small_world.scoring import candidates_of
from tte_retriever.small_world.splits import draw_in_split
from tte_retriever.small_world.tasks import draw_question, rngs
from tte_retriever.small_world.vocabulary import COLORS, DIRECTIONS, HELD_OUT_LOOKS, PLACES, SHAPES, SIZES, neighbour

from .pools import Candidate, Pool, Query, answer_pool, balanced, description_pool, gains_of, parts, spread

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from tte_retriever.small_world import Item, Split

_LOOKS = [(color, shape) for color in COLORS for shape in SHAPES]


def classification(split: Split, seed: int, count: int) -> list[Pool]:
    """What is the big thing among small ones? Candidates are all 36 looks, with those of the small things."""
    rng, pixels = rngs("mini-mmeb", "classification", split, seed)
    wanted = [look for look in _LOOKS if ((look[1], look[0]) in HELD_OUT_LOOKS) == (split == "held-out")]
    queries, labels = [], spread(wanted, count)
    for label in labels:
        scene = draw_in_split(partial(_one_big, rng, label), split)
        item: Item = {"image": scene_image(scene, pixels), "text": "what is the big thing ?"}
        queries.append(Query(item, "big-thing", scene.key))
    answers, choices = ([Mention("", *look, "").phrase for look in looks] for looks in (labels, _LOOKS))
    return [answer_pool(queries, answers, choices)]


def _one_big(rng: random.Random, look: tuple[str, str]) -> Scene:
    others = rng.sample([(color, shape) for color, shape in _LOOKS if (color, shape) != look], rng.randint(2, 4))
    places = rng.sample(PLACES, len(others) + 1)
    small = [Thing("small", *other, place) for other, place in zip(others, places[1:], strict=True)]
    return Scene.of([Thing("big", *look, places[0]), *small])


_KINDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(COLORS, ("color-of", "color-at", "beside")),
    **dict.fromkeys(SHAPES, ("shape-at",)),
    **dict.fromkeys(SIZES, ("size-of",)),
    **dict.fromkeys(PLACES, ("place-of",)),
    **dict.fromkeys(("one", "two", "three"), ("count-color", "count-shape")),
}
"""Answer → kinds of questions that have it. Counts above three are too rare."""


def question_answering(split: Split, seed: int, count: int) -> list[Pool]:
    """A question about a picture; every answer is right equally often, and every kind of question for one answer."""
    rng, pixels = rngs("mini-mmeb", "question-answering", split, seed)

    def questions() -> Iterator[tuple[Scene, tuple[str, str, str, str]]]:
        while True:
            scene = draw_scene(rng, split)
            asked = draw_question(rng, scene)
            if asked is not None:
                yield scene, asked

    turns = -(-count // len(_KINDS))
    wanted = [(kinds[turn % len(kinds)], answer) for turn in range(turns) for answer, kinds in _KINDS.items()]
    drawn = balanced(wanted[:count], questions(), lambda each: (each[1][0], each[1][3]))
    queries = [
        Query({"image": scene_image(scene, pixels), "text": text}, kind, scene.key)
        for scene, (kind, text, _, _) in drawn
    ]
    return [answer_pool(queries, [answer for _, (_, _, _, answer) in drawn], ANSWERS["question"])]


_ALIKE = 4
"""Scenes in a group of hard negatives: one, and edits of it."""


def _captioned(rng: random.Random, split: Split, count: int) -> tuple[list[Scene], list[SceneDescription]]:
    """Scenes in groups that differ by one edit, and a description of each."""
    scenes: list[Scene] = []
    said: list[SceneDescription] = []
    while len(scenes) < count:
        scene = draw_scene(rng, split)
        group = [scene, *(edit.result for edit in draw_edits(rng, scene, _ALIKE - 1))]
        if len(group) == _ALIKE:
            scenes += group
            said += [_description(rng, each, group) for each in group]
    return scenes, said


def _description(rng: random.Random, scene: Scene, group: list[Scene]) -> SceneDescription:
    """All things of a scene, or one or two that not every scene of the group has."""
    if rng.random() < 0.5:
        return SceneDescription(tuple(Mention(*thing) for thing in scene.things), len(scene.things))
    telling = [thing for thing in scene.things if any(thing not in other.things for other in group)]
    things = telling or list(scene.things)
    chosen = rng.sample(things, min(len(things), rng.randint(1, 2)))
    return SceneDescription(tuple(Mention(*thing) for thing in chosen))


def _kind(said: SceneDescription) -> str:
    return "partial" if said.count is None else "full"


def text_to_image(split: Split, seed: int, count: int) -> list[Pool]:
    """A caption → the pictures that it describes, among pictures that differ by one edit."""
    rng, pixels = rngs("mini-mmeb", "text-to-image", split, seed)
    scenes, said = _captioned(rng, split, count)
    candidates = [Candidate({"image": scene_image(scene, pixels)}, scene.key) for scene in scenes]
    return [description_pool([(_kind(each), each) for each in said[:count]], candidates, scenes)]


def image_to_text(split: Split, seed: int, count: int) -> list[Pool]:
    """A picture → the captions that describe it, among captions of pictures that differ by one edit."""
    rng, pixels = rngs("mini-mmeb", "image-to-text", split, seed)
    scenes, said = _captioned(rng, split, count)
    queries = [
        Query({"image": scene_image(scene, pixels)}, _kind(each), scene.key)
        for scene, each in zip(scenes[:count], said, strict=False)
    ]
    candidates = [Candidate({"text": each.text}) for each in said]
    return [Pool(queries, candidates, gains_of([each.matches for each in said], scenes[:count]).T)]


def composed(split: Split, seed: int, count: int) -> list[Pool]:
    """A picture and a change in words → the changed picture, among other changes of it and the picture itself."""
    pairs = draw_pairs("edit", count, seed=f"mini-mmeb/{seed}", split=split)
    queries = [Query(pair.query, pair.kind.split("/")[1], _key(pair.shown)) for pair in pairs]
    items, contents = candidates_of(pairs)
    candidates = [Candidate(item, _key(content)) for item, content in zip(items, contents, strict=True)]
    return [Pool(queries, candidates, gains_of([pair.accepts for pair in pairs], contents))]


def _key(content: object) -> str:
    assert isinstance(content, Scene)
    return content.key


_THINGS = 5


def grounding(split: Split, seed: int, count: int) -> list[Pool]:
    """A picture and words that name a part of it → the crop of that part.

    Candidates are the crops of the five things in the picture, each of which has a query, and five crops of other things
    that differ from one of them in size, colour or shape alone.
    """
    rng, pixels = rngs("mini-mmeb", "grounding", split, seed)
    return [_grounded(rng, pixels, split, asked) for asked in parts(count, _THINGS)]


def _grounded(rng: random.Random, pixels: np.random.Generator, split: Split, asked: int) -> Pool:
    looks: set[str] = set()
    while len(looks) < 2 * _THINGS:
        scene = draw_scene(rng, split, _THINGS)
        foil = draw_in_split(partial(_foil, rng, scene), split)
        looks = {thing.look for thing in (*scene.things, *foil.things)}
    style = int(pixels.integers(2**63))
    image, other = (scene_image(each, np.random.default_rng(style)) for each in (scene, foil))  # of one style
    queries = []
    for thing in scene.things[:asked]:
        kind, text = _pointer(rng, scene, thing)
        queries.append(Query({"image": image, "text": text}, kind, scene.key))
    candidates = [
        Candidate({"image": crop(picture, thing.place)}, thing.look)
        for picture, things in ((image, scene.things), (other, foil.things))
        for thing in things
    ]
    return Pool(queries, candidates, np.eye(asked, 2 * _THINGS, dtype=np.int8))


def _foil(rng: random.Random, scene: Scene) -> Scene:
    """The same places with every thing changed in one attribute."""
    words = {"size": SIZES, "color": list(COLORS), "shape": SHAPES}
    things = []
    for thing in scene.things:
        field = rng.choice(list(words))
        others = [word for word in words[field] if word != getattr(thing, field)]
        things.append(thing._replace(**{field: rng.choice(others)}))
    return Scene(tuple(things))


def _pointer(rng: random.Random, scene: Scene, thing: Thing) -> tuple[str, str]:
    """Kind and words that name a thing by its neighbour or by its place."""
    steps = [
        (direction, name)
        for direction in DIRECTIONS
        for other in scene.things
        if neighbour(other.place, direction) == thing.place and (name := shortest_name(scene, other))
    ]
    if steps and rng.random() < 0.5:
        direction, name = rng.choice(steps)
        return "beside", f"the thing {direction} of the {name}"
    return "place", f"the thing in the {thing.place}"
