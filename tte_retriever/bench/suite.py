"""All parts of the benchmark, one after the other."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from tte_retriever.bench import memory, streaming, thinking
from tte_retriever.bench.models import BUNDLED, settle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tte_retriever.bench.measurement import Measurement


def run(*, quick: bool = False) -> Iterator[Measurement]:
    """Measure, in about half an hour of CPU time; figures come as they are taken.

    Args:
        quick: A smaller model, fewer items and rounds, in about a minute: to see that it works, not to quote.
    """
    settle()
    if quick:
        parts: tuple[Iterator[Measurement], ...] = (
            streaming.throughput(BUNDLED, 12, rounds=1),
            streaming.packing(BUNDLED, 32),
            memory.growth(BUNDLED, 16, 32),
            thinking.cost("random-1m", (1,), rounds=1),
            thinking.sharing("random-1m", rounds=1),
        )
    else:
        parts = (
            streaming.throughput(BUNDLED, 64, rounds=7),
            streaming.throughput(BUNDLED, 512, rounds=3),
            streaming.throughput("random-40m", 64, rounds=3),
            streaming.packing(BUNDLED, 1024),
            memory.growth(BUNDLED, 256, 4096),
            thinking.cost("random-40m", (1, 8), rounds=5),
            thinking.sharing("random-1m", rounds=5),
            thinking.sharing("random-40m", rounds=3),
        )
    yield from chain.from_iterable(parts)
