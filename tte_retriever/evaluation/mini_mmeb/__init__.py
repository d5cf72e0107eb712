"""Mini-MMEB: the meta-tasks of MMEB-v2 in miniature, on the small drawn world."""

from __future__ import annotations

from .report import Report, Score
from .running import evaluate
from .tasks import SPLITS, TASKS

__all__ = ["SPLITS", "TASKS", "Report", "Score", "evaluate"]
