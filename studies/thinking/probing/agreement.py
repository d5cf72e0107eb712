"""Do two answers to the same question agree more often than two that know nothing of each other?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


def agreement_by_chance(one: Sequence[str], other: Sequence[str], among: Sequence[str] | None = None) -> float | None:
    """How often ``one`` of a query equals the ``other`` of a different query: the rate if both were independent.

    Args:
        one: An answer to each query.
        other: Another answer to each.
        among: Only queries for which this is the same are compared, such as the right answer: the rate if both depended on
            it and on nothing else. Queries that are alone with theirs are left out.

    Returns:
        0 to 1, the mean over queries; ``None`` where there are no two to compare.
    """
    firsts, seconds = np.asarray(one), np.asarray(other)
    groups = np.asarray(among) if among is not None else np.zeros(len(one))
    others = (groups[:, None] == groups) & ~np.eye(len(one), dtype=bool)  # (B, B)
    counts = others.sum(1)  # (B,)
    equal = ((firsts[:, None] == seconds) & others).sum(1)
    return float((equal[counts > 0] / counts[counts > 0]).mean()) if counts.any() else None
