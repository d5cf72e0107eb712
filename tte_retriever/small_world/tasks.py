"""The retrieval families of the small world: pairs of items with rationales, which depend on a seed alone."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import partial
from operator import eq
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, get_args

import numpy as np

from . import drawing
from .clips import STATE_S, Clip, ClipDescription, draw_clip
from .pages import Page, PageDescription, draw_page
from .scenes import Edit, Mention, Scene, SceneDescription, Thing, draw_edits, draw_scene
from .vocabulary import COLORS, DIRECTIONS, NUMBERS, PLACES, SHAPES, SIZES, VALUES, Split, neighbour

if TYPE_CHECKING:
    from collections.abc import Callable

Family = Literal["caption", "question", "edit", "page", "page-question", "moment", "moment-question"]
FAMILIES: tuple[Family, ...] = get_args(Family)
Description: TypeAlias = SceneDescription | PageDescription | ClipDescription

ANSWERS: dict[Family, tuple[str, ...]] = {
    "question": (*COLORS, *SHAPES, *SIZES, *PLACES, *NUMBERS),
    "page-question": VALUES,
    "moment-question": (
        *(f"moves {direction}" for direction in DIRECTIONS),
        *(f"turns {color}" for color in COLORS),
        *("grows", "shrinks", "vanishes", "appears"),
    ),
}
"""Family → every possible answer: the candidates of its questions."""


class Item(TypedDict, total=False):
    """Text and pixels of one item. Images are (H, W, 3) uint8, videos (T, H, W, 3) uint8.

    Example:
        >>> from tte_retriever.small_world import Item
        >>> query: Item = {"text": "a big red circle in the north"}
        >>> list(query)
        ['text']
    """

    text: str
    image: np.ndarray
    video: np.ndarray


@dataclass(frozen=True)
class Pair:
    """A query, the candidate that answers it, and the rationale between them.

    Attributes:
        family: The task.
        kind: The sub-task, for scores per kind, such as ``question/color-of``.
        query: Text, or pixels and text.
        positive: The right candidate.
        query_rationale: The reasoning from the query to its answer.
        positive_rationale: The content of the candidate in words; empty for plain answers.
        shown: Content of the pixels of the query; ``None`` if the query is text alone.
        content: Content of the candidate: a :class:`Scene`, :class:`Clip`, :class:`Page`, or an answer.
        accepts: Whether a content answers the query; a candidate with such a content is a false negative.

    Example:
        >>> from tte_retriever.small_world import draw_pairs
        >>> pair = draw_pairs("question", 1, seed=0, split="test")[0]
        >>> pair.query["text"], pair.query_rationale
        ('what color is in the east ?', 'east big red cross so red')
        >>> pair.accepts(pair.content)
        True
    """

    family: Family
    kind: str
    query: Item
    positive: Item
    query_rationale: str
    positive_rationale: str
    shown: Scene | Clip | Page | None
    content: Scene | Clip | Page | str
    accepts: Callable[[object], bool]


def rngs(*key: object) -> tuple[random.Random, np.random.Generator]:
    """Two random generators, for content and for pixels, that depend on ``key`` alone."""
    content = random.Random("/".join(map(str, key)))
    return content, np.random.default_rng(content.getrandbits(64))


def _fits(matches: Callable[[Any], bool], kind: type, other: object) -> bool:
    return isinstance(other, kind) and matches(other)


def _description_pair(
    family: Family, kind: str, said: Description, positive: Item, listing: str, content: Scene | Clip | Page
) -> Pair:
    """A description → the pixels that it describes."""
    query, accepts = Item(text=said.text), partial(_fits, said.matches, type(content))
    return Pair(family, f"{family}/{kind}", query, positive, said.words, listing, None, content, accepts)


def _answer_pair(
    family: Family, kind: str, query: Item, shown: Scene | Clip | Page, evidence: str, answer: str
) -> Pair:
    """Pixels and a question about them → the answer."""
    positive, rationale, accepts = Item(text=answer), f"{evidence} so {answer}", partial(eq, answer)
    return Pair(family, f"{family}/{kind}", query, positive, rationale, "", shown, answer, accepts)


def caption_pair(rng: random.Random, pixels: np.random.Generator, split: Split) -> Pair:
    """A description of one thing or more → the image."""
    scene = draw_scene(rng, split)
    full = rng.random() < 0.5
    chosen = list(scene.things) if full else rng.sample(scene.things, min(len(scene.things), rng.choice((1, 2, 2))))
    drop_size = rng.random() < 0.3
    mentions = tuple(Mention("" if drop_size else t.size, t.color, t.shape, t.place) for t in Scene.of(chosen).things)
    said = SceneDescription(mentions, len(scene.things) if full else None)
    positive: Item = {"image": drawing.scene_image(scene, pixels)}
    return _description_pair("caption", "full" if full else "partial", said, positive, scene.key, scene)


_QUESTIONS = ("color-of", "size-of", "place-of", "shape-at", "color-at", "count-color", "count-shape", "beside")


def draw_question(rng: random.Random, scene: Scene) -> tuple[str, str, str, str] | None:
    """Kind, question, evidence and answer, or ``None`` if the drawn kind of question does not fit the scene."""
    thing: Thing = rng.choice(scene.things)
    unique_shape = sum(other.shape == thing.shape for other in scene.things) == 1
    kind = rng.choice(_QUESTIONS)
    if kind in ("color-of", "size-of", "place-of"):
        if not unique_shape:
            return None
        field = kind.removesuffix("-of")
        ask = {"color": "what color is", "size": "what size is", "place": "where is"}[field]
        return kind, f"{ask} the {thing.shape} ?", f"{thing.place} {thing.look}", getattr(thing, field)
    if kind in ("shape-at", "color-at"):
        field = kind.removesuffix("-at")
        return kind, f"what {field} is in the {thing.place} ?", f"{thing.place} {thing.look}", getattr(thing, field)
    if kind.startswith("count"):
        field = kind.removeprefix("count-")
        wanted = rng.choice([thing, *scene.things])
        same = [other for other in scene.things if getattr(other, field) == getattr(wanted, field)]
        question = f"how many {getattr(wanted, field)} things are there ?"
        return kind, question, " ".join(f"{o.place} {o.look}" for o in same), NUMBERS[len(same) - 1]
    direction = rng.choice(list(DIRECTIONS))
    place = neighbour(thing.place, direction)
    other = next((other for other in scene.things if other.place == place), None)
    if not unique_shape or other is None:
        return None
    evidence = f"{thing.place} {thing.shape} {direction} {other.place} {other.look}"
    return kind, f"what color is the thing {direction} of the {thing.shape} ?", evidence, other.color


def question_pair(rng: random.Random, pixels: np.random.Generator, split: Split) -> Pair:
    """An image and a question → the answer."""
    asked = None
    while asked is None:
        scene = draw_scene(rng, split)
        asked = draw_question(rng, scene)
    kind, text, evidence, answer = asked
    query: Item = {"image": drawing.scene_image(scene, pixels), "text": text}
    return _answer_pair("question", kind, query, scene, evidence, answer)


def edit_pairs(rng: random.Random, pixels: np.random.Generator, split: Split, count: int) -> list[Pair]:
    """One image with ``count`` edits → the edited images, which are hard negatives of each other."""
    edits: list[Edit] = []
    while len(edits) < count:
        scene = draw_scene(rng, split)
        edits = draw_edits(rng, scene, count)
    source = drawing.scene_image(scene, pixels)
    return [
        Pair(
            "edit",
            f"edit/{edit.text.split()[0]}",
            {"image": source, "text": edit.text},
            {"image": drawing.scene_image(edit.result, pixels)},
            edit.result.key,
            edit.result.key,
            scene,
            edit.result,
            partial(eq, edit.result),
        )
        for edit in edits
    ]


def describe_page(rng: random.Random, page: Page, detail: float) -> tuple[str, PageDescription]:
    """Kind and description; with a higher ``detail`` (0 to 1) more facts are named."""
    facts, icons = list(page.facts.items()), page.icons
    if rng.random() < detail:
        said = tuple(rng.sample(facts, min(len(facts), rng.randint(2, 4))))
        return "many", PageDescription(title=page.title, facts=said)
    kind = rng.choice(("title", "fact", "two-facts", "title-fact", "icon-fact"))
    if kind == "title":
        return "title", PageDescription(title=page.title)
    if kind == "two-facts" and len(facts) > 1:
        return "two-facts", PageDescription(facts=tuple(rng.sample(facts, 2)))
    fact = (rng.choice(facts),)
    if kind == "title-fact":
        return "title-fact", PageDescription(title=(rng.choice(page.title),), facts=fact)
    if kind == "icon-fact" and icons:
        return "icon-fact", PageDescription(facts=fact, icons=(rng.choice(icons),))
    return "fact", PageDescription(facts=fact)


def page_pair(rng: random.Random, pixels: np.random.Generator, split: Split, detail: float = 0.0) -> Pair:
    """A description of a page → the page; the training curriculum changes ``detail``."""
    page = draw_page(rng, split)
    kind, said = describe_page(rng, page, detail)
    return _description_pair("page", kind, said, {"image": drawing.page_image(page, pixels)}, page.listing, page)


def page_question_pair(rng: random.Random, pixels: np.random.Generator, split: Split) -> Pair:
    """A page and a question about one field → its value."""
    page = draw_page(rng, split)
    key, value = rng.choice(list(page.facts.items()))
    query: Item = {"image": drawing.page_image(page, pixels), "text": f"what is the {key} ?"}
    return _answer_pair("page-question", "value-of", query, page, f"{key} {value}", value)


def moment_pair(rng: random.Random, pixels: np.random.Generator, split: Split) -> Pair:
    """A description of what happens → the clip."""
    clip = draw_clip(rng, split)
    actor = clip.actor
    place = actor.place if rng.random() < 0.5 else ""
    said = ClipDescription(Mention("", actor.color, actor.shape, place), clip.events)
    positive: Item = {"video": drawing.clip_states(clip, pixels)}
    return _description_pair("moment", "placed" if place else "unplaced", said, positive, clip.listing, clip)


def moment_question_pair(rng: random.Random, pixels: np.random.Generator, split: Split) -> Pair:
    """A clip and the question what happens first, or second → the event."""
    clip = draw_clip(rng, split)
    index = rng.randrange(2)
    order = ("first", "second")[index]
    query: Item = {"video": drawing.clip_states(clip, pixels), "text": f"what happens {order} ?"}
    evidence = f"{clip.actor.place} {clip.actor.look} {' '.join(clip.events)}"
    return _answer_pair("moment-question", order, query, clip, evidence, clip.events[index])


_ONE: dict[Family, Callable[[random.Random, np.random.Generator, Split], Pair]] = {
    "caption": caption_pair,
    "question": question_pair,
    "page": page_pair,
    "page-question": page_question_pair,
    "moment": moment_pair,
    "moment-question": moment_question_pair,
}
EDITS_PER_SCENE = 4


def draw_pairs(family: Family, count: int, *, seed: int | str, split: Split) -> list[Pair]:
    """Draw ``count`` pairs of one family; the same arguments give the same pairs.

    Args:
        family: One of :data:`FAMILIES`.
        count: Number of pairs; edits come in groups of four that share a source image.
        seed: Seed of the draw.
        split: No content is in two splits.

    Example:
        >>> from tte_retriever.small_world import draw_pairs
        >>> pair = draw_pairs("caption", 1, seed=0, split="test")[0]
        >>> pair.query["text"]
        'a small red triangle in the northwest and a big yellow ring in the west and a small orange circle in the center and a big green ring in the east'
        >>> pair.positive["image"].shape
        (96, 96, 3)
    """
    if family == "edit":
        groups = -(-count // EDITS_PER_SCENE)
        drawn = [edit_pairs(*rngs(split, family, seed, i), split, EDITS_PER_SCENE) for i in range(groups)]
        return [pair for group in drawn for pair in group][:count]
    return [_ONE[family](*rngs(split, family, seed, i), split) for i in range(count)]


def sample_times(frames: int) -> list[float]:
    """Times in seconds of the frames of :func:`drawing.clip_states`, two for each state, the first at .5."""
    return [STATE_S / 2 * (index + 0.5) for index in range(frames)]
