"""The metrics of MMEB-v2 with fair handling of ties, and their values for systems that ignore the query."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import ndcg_score

METRICS: dict[str, int] = {"hit@1": 1, "ndcg@5": 5}
"""Metric → cut-off. Hit@1 is nDCG@1 of gains that are 0 or 1."""

_DIGITS = 6
"""Similarities that are equal to this many digits of the largest are ties; smaller differences come from rounding."""


def ndcg(similarities: np.ndarray, gains: np.ndarray, k: int) -> np.ndarray:
    """Linear nDCG@k of every query; candidates of equal similarity share the mean of their places.

    Args:
        similarities: (B, N), higher is better.
        gains: (B, N), not negative; linear gains, as in MMEB-v2's ``ndcg_linear``.
        k: Cut-off.

    Returns:
        (B,) float64 in 0..1; 0 if no candidate answers a query.
    """
    largest = np.abs(similarities).max(initial=1e-12)
    rounded = np.round(similarities / largest, _DIGITS)
    return np.array([ndcg_score([gain], [row], k=k) for gain, row in zip(gains, rounded, strict=True)])


def chance(gains: np.ndarray, k: int) -> np.ndarray:
    """The exact expected score of a random ranking, computed as one in which all candidates are tied.  (B, N) → (B,)."""
    return ndcg(np.zeros(gains.shape), gains, k)


def prior_only(gains: np.ndarray, k: int) -> np.ndarray:
    """The score of the best ranking that is the same for all queries over these candidates.  (B, N) → (B,).

    No system that ignores the query can reach more. Candidates are ranked by mean gain, with the gains of each query
    divided by its ideal discounted gain; no fixed ranking has a higher mean score.
    """
    best = -np.sort(-gains, axis=1)[:, :k]  # (B, k)
    ideal = best @ (1 / np.log2(np.arange(best.shape[1]) + 2))  # (B,)
    ideal[ideal == 0] = 1.0  # no candidate answers the query
    shares = (gains / ideal[:, None]).mean(0)  # (N,)
    return ndcg(np.broadcast_to(shares, gains.shape), gains, k)


def interval(values: np.ndarray, resamples: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval (percentiles) of the mean over queries.  ``values`` is (B,)."""
    drawn = np.random.default_rng(0).integers(len(values), size=(resamples, len(values)))
    low, high = np.percentile(values[drawn].mean(1), (2.5, 97.5))
    return float(low), float(high)
