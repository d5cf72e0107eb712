"""Merge neighbouring moments of a video into clips, since an event may last longer than a window."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tte_retriever_qdrant.records import Hit

JOIN_FROM = 0.8
"""Least score of a moment that joins a clip, as a share of the clip's best score (``benchmarks/moments.py``)."""

_SLACK_S = 0.002  # windows are stored in milliseconds


def merge_moments(hits: Sequence[Hit]) -> list[Hit]:
    """Merge moments of one video that are adjacent or overlap and have similar scores.

    The best moment starts a clip. A moment that touches the clip joins it if its score is at least :data:`JOIN_FROM` of
    the clip's, so that a clip ends where the event ends and not where the list of hits does.

    Args:
        hits: Best first.

    Returns:
        Hits, best first. A clip is its best moment with the clip's ``start_s`` and ``end_s``; other hits are unchanged.
    """
    merged: list[Hit] = []
    for hit in hits:
        touched = [clip for clip in merged if _joins(hit, clip)]
        if not touched:
            merged.append(hit)
            continue
        parts = [hit, *touched]  # the moment may join two clips
        span = {
            "start_s": min(part.payload["start_s"] for part in parts),
            "end_s": max(part.payload["end_s"] for part in parts),
        }
        best = touched[0]
        merged[merged.index(best)] = replace(best, payload={**best.payload, **span})
        merged = [clip for clip in merged if clip not in touched[1:]]
    return merged


def _joins(hit: Hit, clip: Hit) -> bool:
    one, other = hit.payload, clip.payload
    return (
        one["asset_id"] == other["asset_id"]
        and "start_s" in one
        and "start_s" in other
        and one["start_s"] <= other["end_s"] + _SLACK_S
        and one["end_s"] >= other["start_s"] - _SLACK_S
        and hit.score >= JOIN_FROM * clip.score
    )
