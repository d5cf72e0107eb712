"""How well clips that are merged of moments fit what was looked for, by the share of the best score that joins them.

Videos of the small world, in which every six seconds are a scene of their own, are indexed in shorter windows; each scene
is searched for by its description. Run it from the repository's root:

    python integrations/qdrant/benchmarks/moments.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import typer

from tte_retriever import TTEEncoder
from tte_retriever.small_world import CLIP_S, draw_pairs
from tte_retriever.small_world.files import write_mp4
from tte_retriever_qdrant import ingest, moments, open_store

VIDEOS, SCENES = 16, 4
SHARES = (1.01, 0.95, 0.9, 0.85, 0.8, 0.7, 0.5)


def main() -> None:
    """Print, for each length of windows and each share, what became of the best clip."""
    encoder = TTEEncoder("tte-flash-tiny", device="cpu")
    pairs = draw_pairs("moment", VIDEOS * SCENES, seed="clips", split="test")
    queries = encoder.encode_query([{"text": pair.query["text"]} for pair in pairs], show_progress_bar=False)
    with tempfile.TemporaryDirectory() as folder:
        for video in range(VIDEOS):
            scenes = pairs[video * SCENES : (video + 1) * SCENES]
            states = np.concatenate([scene.positive["video"][::2] for scene in scenes])
            write_mp4(Path(folder, f"{video:02d}.mp4"), states)
        for window_s in (2.0, 3.0):
            with open_store("memory://") as store:
                ingest(Path(folder), store, encoder, window_s=window_s, workers=1)
                found = store.query_batch(queries, 100)
            for share in SHARES:
                moments.JOIN_FROM = share
                best = [moments.merge_moments(hits)[0].payload for hits in found]
                overlaps = [_overlap(payload, number) for number, payload in enumerate(best)]
                fits = [overlap for overlap in overlaps if overlap]
                length_s = np.mean([payload["end_s"] - payload["start_s"] for payload in best])
                typer.echo(
                    f"windows of {window_s:g} s, joined from {share:.2f}: {len(fits)} of {len(best)} touch the scene, "
                    f"with {np.mean(fits):.2f} intersection over union; {length_s:.1f} s long"
                )


def _overlap(payload: dict[str, float | str], number: int) -> float:
    """Intersection over union of a clip with the scene of that number."""
    video, scene = divmod(number, SCENES)
    start_s, end_s = float(payload["start_s"]), float(payload["end_s"])
    if payload["uri"] != f"{video:02d}.mp4":
        return 0.0
    shared = min(end_s, (scene + 1) * CLIP_S) - max(start_s, scene * CLIP_S)
    return max(0.0, shared) / (max(end_s, (scene + 1) * CLIP_S) - min(start_s, scene * CLIP_S))


if __name__ == "__main__":
    main()
