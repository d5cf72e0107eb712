"""The benchmark of inference. Figures are ratios between two ways to do the same work on the same machine."""

from __future__ import annotations

from tte_retriever.bench.measurement import Measurement
from tte_retriever.bench.suite import run

__all__ = ["Measurement", "run"]
