"""Is one system better than another? Intervals over the same queries and training seeds, not two overlapping bars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from tte_retriever.errors import InputError

Scores: TypeAlias = Mapping[str, np.ndarray]
"""Task → the metric of every query, for every training seed.  (S, B) each"""


@dataclass(frozen=True)
class Estimate:
    """A mean over tasks, with its 95 % interval.

    Attributes:
        value: The mean.
        low: 2.5th percentile of the bootstrap.
        high: 97.5th percentile.
    """

    value: float
    low: float
    high: float

    @property
    def is_positive(self) -> bool:
        """Whether the whole interval lies above 0."""
        return self.low > 0

    @property
    def is_negative(self) -> bool:
        """Whether the whole interval lies below 0."""
        return self.high < 0


def mean_over_tasks(scores: Scores, *, resamples: int = 2000) -> Estimate:
    """Plain mean over tasks of the mean over queries and seeds; the bootstrap draws both anew.

    With one seed the interval is over queries alone: it does not know how much another seed would differ.

    Raises:
        InputError: No task, or tasks of unlike numbers of seeds.
    """
    seeds = {len(values) for values in scores.values()}
    if len(seeds) != 1:
        raise InputError(
            f"The tasks have {sorted(seeds)} training seeds; give at least one task, and the same seeds for all."
        )
    rng = np.random.default_rng(0)
    by_seed = _shares(rng, seeds.pop(), resamples)  # (R, S), the same seeds for all tasks
    drawn = np.zeros(resamples)
    for values in scores.values():
        by_query = _shares(rng, values.shape[1], resamples)  # (R, B)
        drawn += ((by_seed @ values) * by_query).sum(1) / len(scores)  # (R, S) (S, B) → (R, B) → (R,)
    low, high = np.percentile(drawn, (2.5, 97.5))
    value = np.mean([values.mean() for values in scores.values()])
    return Estimate(float(value), float(low), float(high))


def paired_difference(one: Scores, other: Scores, *, resamples: int = 2000) -> Estimate:
    """How much better ``one`` is than ``other`` on the same queries, seed by seed.

    Raises:
        InputError: If they are not of the same tasks, queries and number of seeds.
    """
    shapes = [{task: values.shape for task, values in scores.items()} for scores in (one, other)]
    if shapes[0] != shapes[1]:
        raise InputError(f"Only the same queries can be paired, but they are {shapes[0]} and {shapes[1]}.")
    return mean_over_tasks({task: one[task] - other[task] for task in one}, resamples=resamples)


def _shares(rng: np.random.Generator, count: int, resamples: int) -> np.ndarray:
    """How often each of ``count`` is drawn, over all draws; (R, count)."""
    return rng.multinomial(count, np.full(count, 1 / count), size=resamples) / count
