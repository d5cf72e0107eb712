"""Compare two systems on the same queries and training seeds: the interval of their paired difference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
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
    """Plain mean over tasks of the mean over queries and seeds; the bootstrap resamples both.

    With one seed the interval covers queries alone, and not how much another seed would differ.

    Raises:
        InputError: There is no task, or the tasks have different numbers of seeds.
    """
    seeds = {len(values) for values in scores.values()}
    if len(seeds) != 1:
        raise InputError(
            f"The tasks have {sorted(seeds)} training seeds; give at least one task, and the same seeds for all."
        )
    counts = tuple(values.shape[1] for values in scores.values())
    # (R, S), the same seeds for all tasks, and (R, B) for each task
    by_seed, *by_query = _shares(seeds.pop(), counts, resamples)
    drawn = np.zeros(resamples)
    for values, share in zip(scores.values(), by_query, strict=True):
        drawn += (by_seed * (share @ values.T)).sum(1) / len(scores)  # (R, B) (B, S) → (R, S) → (R,)
    low, high = np.percentile(drawn, (2.5, 97.5))
    value = np.mean([values.mean() for values in scores.values()])
    return Estimate(float(value), float(low), float(high))


def paired_difference(one: Scores, other: Scores, *, resamples: int = 2000) -> Estimate:
    """The difference of ``one`` from ``other``, query by query and seed by seed.

    Raises:
        InputError: They differ in tasks, number of queries or number of seeds.
    """
    shapes = [{task: values.shape for task, values in scores.items()} for scores in (one, other)]
    if shapes[0] != shapes[1]:
        raise InputError(f"Only the same queries can be paired, but their shapes are {shapes[0]} and {shapes[1]}.")
    return mean_over_tasks({task: one[task] - other[task] for task in one}, resamples=resamples)


@lru_cache(maxsize=32)  # a page of tables needs the same few draws hundreds of times
def _shares(seeds: int, queries: tuple[int, ...], resamples: int) -> list[np.ndarray]:
    """How often each seed, then each query of every task is drawn, over all draws; (R, count) float32 each."""
    rng = np.random.default_rng(0)
    counts = (seeds, *queries)
    drawn = [rng.multinomial(count, np.full(count, 1 / count), size=resamples) / count for count in counts]
    return [share.astype(np.float32) for share in drawn]
