"""Count how often the same work was begun, in all processes: a process that died of it cannot report it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import ray


class Attempts:
    """The counts of a run, shared by its processes."""

    def __init__(self) -> None:
        # If it is lost with its machine, counting starts again.
        self._counts: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Counts).remote()

    def begin(self, work: str) -> int:
        """How often that work was begun and not ended, this time included."""
        return ray.get(self._counts.begin.remote(work))

    def end(self, work: str) -> None:
        """Forget work that is done."""
        ray.get(self._counts.end.remote(work))


class _Counts:
    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()

    def begin(self, work: str) -> int:
        self._begun[work] += 1
        return self._begun[work]

    def end(self, work: str) -> None:
        del self._begun[work]
