"""Documents of several pages: volumes of a series, which share a title and keys and differ in their facts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from .pages import Page, lay_out, values_of
from .splits import draw_in_split
from .vocabulary import KEYS, TITLE_FIRST, TITLE_SECOND, Split

if TYPE_CHECKING:
    import random

VOLUMES = 2
PAGES = 3
_OWN_FACTS = 3


@dataclass(frozen=True)
class Volume:
    """One document.

    Attributes:
        title: The title on every page of the series.
        running: The fact on every page of this volume and on no page of another volume of the series.
        pages: Pages with the same keys and different values.
    """

    title: tuple[str, str]
    running: tuple[str, str]
    pages: tuple[Page, ...]

    def own_facts(self, page: Page) -> list[tuple[str, str]]:
        """The facts that no other page of the series has."""
        return [fact for fact in page.facts.items() if fact != self.running]


def draw_series(rng: random.Random, split: Split) -> list[Volume]:
    """Draw two volumes of three pages, all of them in ``split``.

    In ``held-out`` the running facts are held-out facts, so that every page has one.
    """
    title = rng.choice(TITLE_FIRST), rng.choice(TITLE_SECOND)
    held_out = split == "held-out"
    shared = rng.choice([key for key in KEYS if len(values_of(key, held_out=held_out)) >= VOLUMES])
    keys = rng.sample([key for key in KEYS if key != shared], _OWN_FACTS)
    own = {key: rng.sample(values_of(key, held_out=False), VOLUMES * PAGES) for key in keys}
    volumes = []
    for index, value in enumerate(rng.sample(values_of(shared, held_out=held_out), VOLUMES)):
        pages = []
        for number in range(index * PAGES, (index + 1) * PAGES):
            facts = [(shared, value), *((key, own[key][number]) for key in keys)]
            pages.append(draw_in_split(partial(lay_out, rng, facts, title), split))
        volumes.append(Volume(title, (shared, value), tuple(pages)))
    return volumes
