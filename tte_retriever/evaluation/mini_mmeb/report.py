"""The report of a run: one row for each task, as JSON and as a table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.table import Table

if TYPE_CHECKING:
    from .tasks import SuiteSplit


@dataclass(frozen=True)
class Score:
    """The score of one task.

    Attributes:
        name: The task.
        modality: ``image``, ``video`` or ``document``.
        family: Its meta-task.
        split: Split of mini-MMEB.
        metric: ``hit@1`` or ``ndcg@5``.
        score: Mean over queries, 0..1.
        ci95: 95 % bootstrap interval of the mean over queries.
        chance: Expected score of a random ranking.
        prior_only: Score of the best ranking that is the same for every query.
        n: Number of queries.
        per_query: The metric of each query, for paired comparisons; not in the JSON.  (B,) float64
        kinds: The sub-task of each query; not in the JSON.

    Example:
        >>> from tte_retriever import TTEEncoder
        >>> from tte_retriever.evaluation.mini_mmeb import evaluate
        >>> encoder = TTEEncoder("tte-flash-tiny", device="cpu")
        >>> score = evaluate(encoder, queries=5, tasks=["grounding"]).tasks[0]
        >>> score.metric, score.chance, score.per_query.shape
        ('hit@1', 0.1, (5,))
    """

    name: str
    modality: str
    family: str
    split: SuiteSplit
    metric: str
    score: float
    ci95: tuple[float, float]
    chance: float
    prior_only: float
    n: int
    per_query: np.ndarray = field(repr=False, compare=False)
    kinds: tuple[str, ...] = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """The row of the JSON."""
        row = {key: value for key, value in vars(self).items() if key not in ("per_query", "kinds")}
        return {**row, "ci95": list(self.ci95)}


@dataclass(frozen=True)
class Report:
    """The scores of one model.

    Attributes:
        suite: ``mini-mmeb``.
        seed: Seed of the drawn items.
        model: Name of the model, as it was given.
        fingerprint: Fingerprint of its embedding space.
        split: Split of mini-MMEB.
        think_budget: Number of think tokens; ``None`` for a model that is not a ``TTEEncoder``.
        tasks: Scores, one for each task.

    Example:
        >>> from tte_retriever import TTEEncoder
        >>> from tte_retriever.evaluation.mini_mmeb import evaluate
        >>> encoder = TTEEncoder("tte-flash-tiny", device="cpu")
        >>> report = evaluate(encoder, name="tiny", queries=5, tasks=["grounding"])
        >>> report.model, report.think_budget, list(report.to_dict())[:3]
        ('tiny', 8, ['suite', 'seed', 'model'])
    """

    suite: str
    seed: int
    model: str
    fingerprint: str
    split: SuiteSplit
    think_budget: int | None
    tasks: tuple[Score, ...]

    @property
    def mean(self) -> float:
        """Plain mean over tasks, as MMEB-v2 takes it."""
        return float(np.mean([task.score for task in self.tasks]))

    def to_dict(self) -> dict[str, Any]:
        """The JSON object."""
        return {**vars(self), "tasks": [task.to_dict() for task in self.tasks], "mean": self.mean}

    def to_table(self) -> Table:
        """For a terminal; figures in per cent."""
        budget = "" if self.think_budget is None else f", think budget {self.think_budget}"
        title = f"{self.suite}, {self.split}, seed {self.seed}: {self.model}{budget}"
        table = Table(title=title, box=box.SIMPLE_HEAD, show_footer=True, pad_edge=False)
        rows = self.tasks
        table.add_column("task", "mean over tasks", no_wrap=True)
        table.add_column("metric")
        table.add_column("score", _percent(self.mean), justify="right")
        table.add_column("95 %", justify="right", no_wrap=True)
        table.add_column("chance", _percent(float(np.mean([row.chance for row in rows]))), justify="right")
        table.add_column("prior", _percent(float(np.mean([row.prior_only for row in rows]))), justify="right")
        table.add_column("n", justify="right")
        for row in rows:
            spread = "–".join(map(_percent, row.ci95))
            known = _percent(row.chance), _percent(row.prior_only)
            table.add_row(row.name, row.metric, _percent(row.score), spread, *known, str(row.n))
        return table


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"
