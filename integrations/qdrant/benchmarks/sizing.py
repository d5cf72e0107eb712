"""What a collection costs by its size: time to write and to index, disk, memory, and how searches do; run by hand.

Vectors are clustered (one centre per thousand, noise around it), written through the edge store in batches as ingestion
writes them. Every size is measured in a process of its own; one JSON object per line.

    python integrations/qdrant/benchmarks/sizing.py 100000x256 1000000x256 100000x2048
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
import uuid
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from tte_retriever_qdrant import open_store
from tte_retriever_qdrant.records import CollectionSpec, Point

if TYPE_CHECKING:
    from collections.abc import Iterator

_BATCH, _PER_CLUSTER = 256, 1000
_QUERIES, _TOP = 200, 10


def clustered(count: int, dim: int, clusters: int, seed: int) -> Iterator[np.ndarray]:
    """``count`` unit vectors in batches (N, D), float32, around centres that do not depend on ``seed``."""
    centres = np.random.default_rng(0).normal(size=(clusters, dim)).astype(np.float32)
    rng = np.random.default_rng(seed)
    for start in range(0, count, _BATCH):
        size = min(_BATCH, count - start)
        chosen = centres[rng.integers(clusters, size=size)]  # (N, D)
        noisy = chosen + rng.normal(size=(size, dim)).astype(np.float32)
        yield noisy / np.linalg.norm(noisy, axis=1, keepdims=True)


def memory() -> dict[str, int]:
    """This process's memory in MB: all that is resident, the peak of that, and the part that no file backs."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    keys = {"resident_mb": "VmRSS", "peak_mb": "VmHWM", "unbacked_mb": "RssAnon"}
    return {name: int(lines[key].split()[0]) // 1000 for name, key in keys.items()}


def write(folder: Path, count: int, dim: int) -> dict[str, Any]:
    """Write and index ``count`` points that have the payload of a picture."""
    done = 0
    with open_store(f"edge://{folder}/store") as store:
        store.ensure(CollectionSpec(dim, "sizing"))
        start = time.perf_counter()
        for batch in clustered(count, dim, max(1, count // _PER_CLUSTER), seed=1):
            points = []
            for vector in batch:
                payload = {"uri": f"folder/{done:08d}.jpg", "modality": "image", "asset_id": f"{done:064x}"}
                points.append(Point(str(uuid.uuid5(uuid.NAMESPACE_URL, payload["uri"])), vector, payload))
                done += 1
            store.upsert(points)
        written = time.perf_counter()
        store.finalize()
        indexed = time.perf_counter()
    disk = sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())
    return {"write_s": round(written - start, 1), "index_s": round(indexed - written, 1), "disk_mb": disk // 10**6}


def search(folder: Path, count: int, dim: int) -> dict[str, Any]:
    """Open what :func:`write` has made, and search: times in milliseconds, and the top 10 against exact search."""
    before = memory()
    start = time.perf_counter()
    with open_store(f"edge://{folder}/store") as store:
        opened = time.perf_counter() - start
        queries = next(clustered(_QUERIES, dim, max(1, count // _PER_CLUSTER), seed=2))
        answers, times = [], []
        for query in queries:
            start = time.perf_counter()
            answers.append({hit.id for hit in store.search(query, _TOP)})
            times.append(1000 * (time.perf_counter() - start))
        after = memory()
        exact = [{hit.id for hit in store.search(query, _TOP, exact=True)} for query in queries]
    found = sum(len(ours & theirs) for ours, theirs in zip(answers, exact, strict=True))
    return {
        "open_s": round(opened, 2),
        **{name: after[name] - before[name] for name in after},
        "search_ms_median": round(statistics.median(times), 2),
        "search_ms_p95": round(statistics.quantiles(times, n=20)[-1], 2),
        "recall_at_10": round(found / (_TOP * len(queries)), 4),
    }


def main(sizes: Annotated[list[str], typer.Argument(help="Points and dimensions, as 100000x256.")]) -> None:
    """Measure, each part in a process of its own."""
    for size in sizes:
        count, dim = map(int, size.split("x"))
        measured: dict[str, Any] = {"points": count, "dim": dim}
        with tempfile.TemporaryDirectory() as folder:
            for part in (write, search):
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                    measured |= process.submit(part, Path(folder), count, dim).result()
        typer.echo(json.dumps(measured))


if __name__ == "__main__":
    typer.run(main)
