"""Documents of several pages: volumes of one series, alike in all but what they are told apart by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .pages import Page, lay_out
from .splits import draw_in_split
from .vocabulary import HELD_OUT_FACTS, KEYS, TITLE_FIRST, TITLE_SECOND, VALUES, Split

if TYPE_CHECKING:
    import random

VOLUMES = 2
PAGES = 3
_OWN_FACTS = 3


@dataclass(frozen=True)
class Volume:
    """One document.

    Attributes:
        title: On every page, and on every page of the other volumes of the series.
        running: The fact that every page of this volume states, and no page of another volume of the series.
        pages: Pages with the same keys, each with values of its own.
    """

    title: tuple[str, str]
    running: tuple[str, str]
    pages: tuple[Page, ...]

    def own_facts(self, page: Page) -> list[tuple[str, str]]:
        """What only this page of the series states."""
        return [fact for fact in page.facts.items() if fact != self.running]


def _values(key: str, held_out: bool) -> list[str]:
    return [value for value in VALUES if ((key, value) in HELD_OUT_FACTS) == held_out]


def draw_series(rng: random.Random, split: Split) -> list[Volume]:
    """Draw two volumes of three pages, every page of which belongs to ``split``.

    In ``held-out`` the running facts are the held-out ones, so that every page carries one.
    """
    title = rng.choice(TITLE_FIRST), rng.choice(TITLE_SECOND)
    held_out = split == "held-out"
    shared = rng.choice([key for key in KEYS if len(_values(key, held_out)) >= VOLUMES])
    keys = rng.sample([key for key in KEYS if key != shared], _OWN_FACTS)
    own = {key: rng.sample(_values(key, False), VOLUMES * PAGES) for key in keys}
    volumes = []
    for index, value in enumerate(rng.sample(_values(shared, held_out), VOLUMES)):
        pages = []
        for number in range(index * PAGES, (index + 1) * PAGES):
            facts = [(shared, value), *((key, own[key][number]) for key in keys)]
            pages.append(draw_in_split(lambda facts=facts: lay_out(rng, facts, title), split))  # type: ignore[misc]
        volumes.append(Volume(title, (shared, value), tuple(pages)))
    return volumes
