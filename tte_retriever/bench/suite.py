"""All parts of the benchmark, one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tte_retriever.bench import memory, streaming, thinking
from tte_retriever.bench.models import BUNDLED, settle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tte_retriever.bench.measurement import Measurement
    from tte_retriever.options import ModelOptions


def run(*, quick: bool = False, model: ModelOptions | None = None) -> Iterator[Measurement]:
    """Run the benchmark, which takes about half an hour of CPU time without a model.

    Args:
        quick: Use a smaller model, fewer items and fewer rounds. This takes about a minute and shows that the benchmark
            works; do not quote its figures.
        model: Measure the speed of this model alone, on its device.

    Yields:
        Figures, as soon as they are measured.

    Example:
        >>> from tte_retriever.bench import run
        >>> first = next(run(quick=True))
        >>> first.part, first.value > 0
        ('streaming', True)
    """
    settle()
    if model is not None:
        count, rounds = (12, 1) if quick else (256, 5)
        yield from streaming.speed(model.load(), model.model or "", count, rounds)
    elif quick:
        yield from streaming.throughput(BUNDLED, 12, rounds=1)
        yield from streaming.packing(BUNDLED, 32)
        yield from memory.growth(BUNDLED, 16, 32)
        yield from thinking.cost("random-1m", (1,), rounds=1)
        yield from thinking.sharing("random-1m", rounds=1)
    else:
        yield from streaming.throughput(BUNDLED, 64, rounds=7)
        yield from streaming.throughput(BUNDLED, 512, rounds=3)
        yield from streaming.throughput("random-40m", 64, rounds=3)
        yield from streaming.packing(BUNDLED, 1024)
        yield from memory.growth(BUNDLED, 256, 4096)
        yield from thinking.cost("random-40m", (1, 8), rounds=5)
        yield from thinking.sharing("random-1m", rounds=5)
        yield from thinking.sharing("random-40m", rounds=3)
