"""Figures and tables as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np

    from studies.thinking.comparison import Estimate


def number(value: float | np.floating[Any]) -> str:
    """A figure from 0 to 1, such as ``.304``."""
    return f"{value:.3f}".replace("0.", ".", 1)


def change(value: float) -> str:
    """A difference, such as ``+.032``."""
    return f"{value:+.3f}".replace("0.", ".", 1)


def with_interval(found: Estimate) -> str:
    """A mean with its interval."""
    return f"{number(found.value)} ({number(found.low)} to {number(found.high)})"


def difference(found: Estimate | None) -> str:
    """A difference with its interval, bold if the interval leaves out 0; a dash for ``None``."""
    if found is None:
        return "–"
    low, value, high = map(change, (found.low, found.value, found.high))
    mark = "**" if found.is_positive or found.is_negative else ""
    return f"{mark}{value}{mark} ({low} to {high})"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with one line for the head and one for each row."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
