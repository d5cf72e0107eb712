"""The figures of a benchmark, and timing on a machine with other load."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True)
class Measurement:
    """One figure and the shape of the work.

    Attributes:
        part: ``streaming``, ``packing``, ``memory`` or ``thinking``.
        model: Name and size of the model.
        shape: Number of items, tokens and batch size.
        quantity: Name of the figure.
        value: The figure; a ratio, unless ``quantity`` names a unit.
        low: Smallest value over the rounds; equal to ``value`` if there is one round.
        high: Largest value over the rounds.
        wanted: The target, such as ``≥ 1.8``; empty if there is none.

    Example:
        >>> from tte_retriever.bench import Measurement
        >>> speed_up = ("64 texts", "encode, batch 32 / embed", 2.2, 2.0, 2.3)
        >>> measured = Measurement("streaming", "tte-flash-tiny", *speed_up, wanted="≥ 1.9")
        >>> measured.low <= measured.value <= measured.high
        True
    """

    part: str
    model: str
    shape: str
    quantity: str
    value: float
    low: float
    high: float
    wanted: str = ""


def interleaved(
    works: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Seconds of each work in every round: by default CPU seconds, those of background threads included.

    All works run in every round, so that other load on the machine affects them alike. A first round is not counted.
    """
    timed: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            started = clock()
            work()
            if number:
                timed[name].append(clock() - started)
    return timed


def ratio(above: list[float], below: list[float]) -> tuple[float, float, float]:
    """Median, smallest and largest of the ratios of the rounds."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return median(ratios), min(ratios), max(ratios)
