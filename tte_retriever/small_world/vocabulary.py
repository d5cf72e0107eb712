"""The closed word lists of the small world, and the combinations that training never shows."""

from __future__ import annotations

from typing import Literal, get_args

Split = Literal["train", "validation", "test", "held-out"]
"""``held-out`` is a test split in which every item carries a combination that no other split contains."""
SPLITS: tuple[Split, ...] = get_args(Split)

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "green": (34, 150, 60),
    "blue": (38, 84, 204),
    "yellow": (236, 200, 28),
    "purple": (138, 52, 178),
    "orange": (242, 124, 24),
}
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "diamond", "cross", "ring")
SIZES: tuple[str, ...] = ("small", "big")
PLACES: tuple[str, ...] = (
    *("northwest", "north", "northeast"),
    *("west", "center", "east"),
    *("southwest", "south", "southeast"),
)
"""The nine cells of a scene in row-major order: place ``i`` is row ``i // 3``, column ``i % 3``."""
NUMBERS: tuple[str, ...] = ("one", "two", "three", "four", "five")
DIRECTIONS: dict[str, tuple[int, int]] = {"north": (-1, 0), "south": (1, 0), "west": (0, -1), "east": (0, 1)}
"""Direction → (row step, column step)."""


def neighbour(place: str, direction: str) -> str | None:
    """The cell next to a place in a direction, or ``None`` beyond the border."""
    row, column = (at + step for at, step in zip(divmod(PLACES.index(place), 3), DIRECTIONS[direction], strict=True))
    return PLACES[3 * row + column] if 0 <= row < 3 and 0 <= column < 3 else None


KEYS: tuple[str, ...] = (
    *("dose", "temp", "mass", "time", "cost", "rate", "size", "gate"),
    *("zone", "team", "area", "code", "unit", "date", "path", "load"),
)
VALUES: tuple[str, ...] = (
    *("oak", "fern", "moss", "reed", "sand", "salt", "iron", "gold", "zinc", "jade"),
    *("wolf", "bear", "hawk", "crow", "lynx", "nova", "dusk", "dawn", "rain", "snow"),
)
TITLE_FIRST: tuple[str, ...] = (
    *("old", "new", "cold", "warm", "calm", "wild"),
    *("deep", "high", "soft", "bold", "grey", "fast"),
)
TITLE_SECOND: tuple[str, ...] = (
    *("port", "mill", "farm", "lake", "hill", "town"),
    *("ship", "lab", "shop", "bank", "camp", "fort"),
)

HELD_OUT_LOOKS: frozenset[tuple[str, str]] = frozenset(
    (shape, color) for i, shape in enumerate(SHAPES) for j, color in enumerate(COLORS) if j == (2 * i + 1) % 6
)
"""Six (shape, colour) pairs, one per shape, that only the ``held-out`` split draws."""
HELD_OUT_FACTS: frozenset[tuple[str, str]] = frozenset(
    (key, value) for i, key in enumerate(KEYS) for j, value in enumerate(VALUES) if (5 * i + 3 * j) % 13 == 0
)
"""(key, value) pairs, about one in thirteen, that only the ``held-out`` split prints on a page."""
