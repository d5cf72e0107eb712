"""Neighbouring moments of a video, merged into clips: what happens does not end where a window does."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tte_retriever_qdrant.records import Hit

JOIN_FROM = 0.8
"""Share of a clip's best score that a moment must have to become part of the clip (``benchmarks/moments.py``)."""

_SLACK_S = 0.002  # windows are stored in milliseconds


def merge_moments(hits: Sequence[Hit]) -> list[Hit]:
    """Merge moments of one video that follow each other or overlap, and are about as good.

    The best moment starts a clip. One that touches it joins it if its score is at least :data:`JOIN_FROM` of the clip's,
    so that a clip ends where what was looked for ends, and not where the list of hits does.

    Args:
        hits: Best first.

    Returns:
        Hits, best first: of a clip its best moment, with the clip's ``start_s`` and ``end_s``; all others as they were.
    """
    merged: list[Hit] = []
    for hit in hits:
        touched = [clip for clip in merged if _joins(hit, clip)]
        if not touched:
            merged.append(hit)
            continue
        parts = [hit, *touched]  # it may close the gap between two clips
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
