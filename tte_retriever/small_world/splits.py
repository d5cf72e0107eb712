"""The split of a piece of content follows from its hash, so train and test cannot overlap."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from .vocabulary import Split


class Content(Protocol):
    """A scene, clip or page."""

    @property
    def key(self) -> str:
        """Equal for equal content."""

    @property
    def held_out(self) -> bool:
        """Whether it shows a combination that only the ``held-out`` split may show."""


ContentT = TypeVar("ContentT", bound=Content)


def split_of(content: Content) -> Split:
    """The split of a content: ``held-out`` if it has such a combination, else by hash (test and validation a tenth each)."""
    if content.held_out:
        return "held-out"
    bucket = hashlib.sha256(content.key.encode()).digest()[0] % 10
    return "test" if bucket == 0 else "validation" if bucket == 1 else "train"


def draw_in_split(draw: Callable[[], ContentT], split: Split) -> ContentT:
    """Draw until the content belongs to ``split`` (ten tries on average for test and validation)."""
    while split_of(content := draw()) != split:
        pass
    return content
