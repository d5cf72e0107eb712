"""The benchmark of inference: every figure is a ratio between two ways of doing the same work on the same machine."""

from __future__ import annotations

from tte_retriever.bench.measurement import Measurement
from tte_retriever.bench.suite import run

__all__ = ["Measurement", "run"]
