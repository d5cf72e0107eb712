"""The rate at which two independent answers to the same question would agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


def agreement_by_chance(one: Sequence[str], other: Sequence[str], among: Sequence[str] | None = None) -> float | None:
    """How often ``one`` of a query equals the ``other`` of a different query: the rate if both were independent.

    Args:
        one: One answer to each query.
        other: Another answer to each query.
        among: A value for each query, such as its right answer. Only queries with equal values are compared, which gives the
            rate if both answers depended on this value alone. Queries with a unique value are left out.

    Returns:
        0 to 1, the mean over queries; ``None`` if there are no two queries to compare.
    """
    firsts, seconds = np.asarray(one), np.asarray(other)
    groups = np.asarray(among) if among is not None else np.zeros(len(one))
    others = (groups[:, None] == groups) & ~np.eye(len(one), dtype=bool)  # (B, B)
    counts = others.sum(1)  # (B,)
    equal = ((firsts[:, None] == seconds) & others).sum(1)
    return float((equal[counts > 0] / counts[counts > 0]).mean()) if counts.any() else None
