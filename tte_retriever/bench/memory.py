"""Memory of a stream, which must not grow with the number of items."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from tte_retriever.bench.measurement import Measurement
from tte_retriever.bench.models import described, load, settle
from tte_retriever.bench.workloads import draw

if TYPE_CHECKING:
    from collections.abc import Iterator


def growth(model: str, few: int, many: int) -> Iterator[Measurement]:
    """Growth of peak memory, in per cent, from a process that streams ``few`` mixed items to one that streams ``many``.

    Linux only: other systems do not have the peak in ``/proc``, and nothing is measured there.
    """
    if not Path("/proc/self/status").exists():
        return
    peaks = []
    for count in (few, many):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            peaks.append(process.submit(_peak_memory, model, count).result())
    value = 100 * (peaks[1] / peaks[0] - 1)
    yield Measurement(
        "memory",
        described(model, load(model)),
        f"mixed, {few} → {many} items, {peaks[0] / 2**10:.0f} MiB at {few}",
        "growth of peak memory, %",
        *(value, value, value),
        "≤ 5",
    )


def _peak_memory(model: str, count: int) -> int:
    """Peak resident memory of this process after streaming, in KiB; the vectors are dropped."""
    settle()
    for _ in load(model).embed(draw("mixed", count)):
        pass
    # On Linux, the peak of getrusage is inherited from the parent process.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0])
