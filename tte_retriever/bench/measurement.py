"""What a benchmark reports, and how it takes times on a machine that is shared with others."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True)
class Measurement:
    """One figure, with the shape that it holds for.

    Attributes:
        part: ``streaming``, ``packing``, ``memory`` or ``thinking``.
        model: Which model.
        shape: What went in: number of items, tokens, batch.
        quantity: What was measured.
        value: The figure; a ratio, unless ``quantity`` names a unit.
        low: Smallest value of any round; ``value`` itself where there is one round only.
        high: Largest value of any round.
        wanted: What it has to reach, such as ``≥ 1.8``; empty where nothing is promised.
    """

    part: str
    model: str
    shape: str
    quantity: str
    value: float
    low: float
    high: float
    wanted: str = ""


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of the whole process, background threads included."""
    started = time.process_time()
    work()
    return time.process_time() - started


def interleaved(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each work in every round; what disturbs one round disturbs all its works alike.

    One round before the first is not counted.
    """
    timed: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            seconds = cpu_seconds(work)
            if number:
                timed[name].append(seconds)
    return timed


def ratio(above: list[float], below: list[float]) -> tuple[float, float, float]:
    """Median, smallest and largest of the ratios of the rounds."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return median(ratios), min(ratios), max(ratios)
