"""How busy ingestion keeps a model, and whether its cost and memory stay flat; run by hand, one JSON object per line.

The model is simulated: it takes ``--forward-ms`` per item, and preparing an item takes half of that in the streaming
encoder's own threads. Files, decoder processes, store and ledger are real.

    python integrations/qdrant/benchmarks/ingestion.py --items 256 --items 1024 --items 4096
"""

from __future__ import annotations

import json
import resource
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image

from tte_retriever.inference.stream import stream
from tte_retriever.media import VideoSampling
from tte_retriever_qdrant import ingest, open_store

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_DIM = 64


class SimulatedModel:
    """Sleeps where a model would compute, through the streaming that ``TTEEncoder.embed`` is made of."""

    fingerprint = "simulated"
    video_sampling = VideoSampling()
    prompts: dict[str, str | None] = {}  # noqa: RUF012

    def __init__(self, forward_s: float) -> None:
        self.forward_s = forward_s
        self.calls: list[tuple[float, float]] = []
        self.resident: list[int] = []

    def get_embedding_dimension(self) -> int:
        """Length of the vectors."""
        return _DIM

    def encode_document(self, inputs: list[Any], *, batch_size: int, show_progress_bar: bool) -> np.ndarray:
        """Not called: it streams."""
        raise TypeError("this model streams; ingestion should have called embed")

    encode_query = encode_document

    def embed(
        self, inputs: Iterable[Any], *, look_ahead: int, prompt_name: str | None, on_error: str
    ) -> Iterator[Any]:
        """Vectors of noise."""
        return stream(inputs, self._prepare, self._encode, batch_tokens=1024, look_ahead=look_ahead)

    def _prepare(self, items: Sequence[Any]) -> list[dict[str, Any]]:
        time.sleep(0.5 * self.forward_s * len(items))
        return [{"input_ids": torch.zeros(1, 32)} for _ in items]

    def _encode(self, items: list[dict[str, Any]]) -> list[np.ndarray]:
        start = time.perf_counter()
        time.sleep(self.forward_s * len(items))
        self.calls.append((start, time.perf_counter()))
        self.resident.append(_resident())
        return [*np.random.default_rng(len(self.calls)).normal(size=(len(items), _DIM)).astype(np.float32)]


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def measure(count: int, forward_s: float, folder: Path) -> dict[str, Any]:
    """Index ``count`` pictures, twice."""
    files = folder / f"files-{count}"
    files.mkdir()
    for i in range(count):
        Image.new("RGB", (320, 240), (i % 256, i // 256, 99)).save(files / f"{i:05d}.png")
    model = SimulatedModel(forward_s)
    with open_store(f"edge://{folder}/store-{count}") as store:
        start = time.perf_counter()
        ingest(files, store, model)
        first = time.perf_counter() - start
        start = time.perf_counter()
        ingest(files, store, model)
        second = time.perf_counter() - start
    busy = sum(end - start for start, end in model.calls)
    flowing = model.calls[-1][1] - model.calls[0][0]
    quarter = model.resident[len(model.resident) // 4]
    return {
        "items": count,
        "wall_s": round(first, 2),
        "busy_share": round(busy / first, 3),
        "busy_share_from_first_to_last_batch": round(busy / flowing, 3),
        "second_run_share": round(second / first, 3),
        "memory_growth_after_first_quarter": round(max(model.resident) / quarter - 1, 3),
    }


def main(
    items: Annotated[list[int], typer.Option(help="Number of pictures; may be given several times.")] = [256, 1024],  # noqa: B006
    forward_ms: Annotated[float, typer.Option(help="What the model takes for an item.")] = 10.0,
) -> None:
    """Measure."""
    with tempfile.TemporaryDirectory() as folder:
        for count in items:
            typer.echo(json.dumps(measure(count, forward_ms / 1000, Path(folder))))


if __name__ == "__main__":
    typer.run(main)
