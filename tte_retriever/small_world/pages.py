"""Document pages: a title, "key over value" fields and coloured icons on a four-by-four grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .splits import draw_in_split
from .vocabulary import COLORS, HELD_OUT_FACTS, HELD_OUT_LOOKS, KEYS, SHAPES, TITLE_FIRST, TITLE_SECOND, VALUES, Split

if TYPE_CHECKING:
    import random

GRID = 4


@dataclass(frozen=True)
class Page:
    """A page as its cells in row-major order; each holds the two words of a field, or no word.

    A title is a field of two title words; an icon is a field of a colour and a shape.

    Example:
        >>> from tte_retriever.small_world import draw_pairs
        >>> page = draw_pairs("page", 1, seed=0, split="test")[0].content
        >>> page.title, len(page.facts)
        (('cold', 'fort'), 6)
    """

    cells: tuple[tuple[str, ...], ...]

    @property
    def key(self) -> str:
        """Equal for pages with the same content."""
        return " ".join(" ".join(cell) or "-" for cell in self.cells)

    @property
    def listing(self) -> str:
        """All words in reading order."""
        return " ".join(" ".join(cell) for cell in self.cells if cell)

    @property
    def _fields(self) -> list[tuple[str, str]]:
        return [(cell[0], cell[1]) for cell in self.cells if cell]

    @property
    def title(self) -> tuple[str, str]:
        """The two title words."""
        return next((first, second) for first, second in self._fields if first in TITLE_FIRST)

    @property
    def facts(self) -> dict[str, str]:
        """Key → value; every key occurs once."""
        return {key: value for key, value in self._fields if key in KEYS}

    @property
    def icons(self) -> list[tuple[str, str]]:
        """(colour, shape) of the icons."""
        return [(color, shape) for color, shape in self._fields if color in COLORS]

    @property
    def held_out(self) -> bool:
        """Whether the page prints a held-out fact."""
        return any(fact in HELD_OUT_FACTS for fact in self.facts.items())


def values_of(key: str, *, held_out: bool) -> list[str]:
    """The values with which a key is a held-out fact, or with which it is none."""
    return [value for value in VALUES if ((key, value) in HELD_OUT_FACTS) == held_out]


def _draw(rng: random.Random, held_out: bool) -> Page:
    keys = enumerate(rng.sample(KEYS, rng.randint(3, 6)))
    fields = [(key, rng.choice(values_of(key, held_out=held_out and index == 0))) for index, key in keys]
    looks = [(color, shape) for color in COLORS for shape in SHAPES if (shape, color) not in HELD_OUT_LOOKS]
    fields += rng.sample(looks, rng.randint(0, 2))
    return lay_out(rng, fields)


def lay_out(rng: random.Random, fields: list[tuple[str, str]], title: tuple[str, str] | None = None) -> Page:
    """Put a title and fields into random cells of a page; the title is drawn if it is ``None``."""
    cells: list[tuple[str, ...]] = [()] * GRID**2
    title_cell = rng.randrange(2)
    cells[title_cell] = title or (rng.choice(TITLE_FIRST), rng.choice(TITLE_SECOND))
    places = rng.sample(range(GRID, GRID**2), len(fields))
    for place, field in zip(places, fields, strict=True):
        cells[place] = field
    return Page(tuple(cells))


def draw_page(rng: random.Random, split: Split) -> Page:
    """Draw a page of ``split`` with 3 to 6 "key over value" fields; training never sees a page of another split."""
    return draw_in_split(lambda: _draw(rng, split == "held-out"), split)


@dataclass(frozen=True)
class PageDescription:
    """The content of a text about a page: title words, facts and icons, any of which may be missing."""

    title: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    icons: tuple[tuple[str, str], ...] = ()

    @property
    def text(self) -> str:
        """``the old mill page with dose oak and a red circle``."""
        details = [f"{key} {value}" for key, value in self.facts]
        details += [f"{'an' if color == 'orange' else 'a'} {color} {shape}" for color, shape in self.icons]
        head = f"the {' '.join(self.title)} page" if self.title else "a page"
        return head + (f" with {' and '.join(details)}" if details else "")

    @property
    def words(self) -> str:
        """The description in the words of a listing."""
        return " ".join([*self.title, *(" ".join(pair) for pair in (*self.facts, *self.icons))])

    def matches(self, page: Page) -> bool:
        """Whether the page shows everything in the text."""
        return (
            set(self.title) <= set(page.title)
            and set(self.facts) <= set(page.facts.items())
            and set(self.icons) <= set(page.icons)
        )
