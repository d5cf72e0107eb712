"""What a run of the suite says: one row per task, as JSON and as a table."""

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
    """One task.

    Attributes:
        name: The task.
        modality: ``image``, ``video`` or ``document``.
        family: Its meta-task.
        split: Which content.
        metric: ``hit@1`` or ``ndcg@5``.
        score: Mean over queries, 0..1.
        ci95: 95 % bootstrap interval of the mean over queries.
        chance: What a random ranking is expected to reach.
        prior_only: What the best ranking reaches that is the same for every query.
        n: Number of queries.
        per_query: (n,) the metric of each query, for paired comparisons; not in the JSON.
        kinds: The sub-task of each query; not in the JSON.
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
    """One run.

    Attributes:
        suite: ``mini-mmeb``.
        seed: Which draw of items.
        model: Its name, as it was given.
        fingerprint: Of its embedding space.
        split: Which content.
        think_budget: Think tokens that it used; ``None`` for a model that is no ``TTEEncoder``.
        tasks: A row per task.
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
