"""What a study has found: its records, and scores with intervals over queries and training seeds."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from studies.thinking.comparison import Estimate, Scores, mean_over_tasks, paired_difference
from tte_retriever.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from studies.thinking.study import StudyConfig

MODALITIES = ("image", "video", "document")
"""Of mini-MMEB's tasks."""

SAME_TIME = "-same-time"
"""How the names of arms end that have as many steps as cost what another arm's do."""


@dataclass(frozen=True)
class Results:
    """What a study has found so far.

    Attributes:
        study: Its config.
        records: Arm, or arm@budget → training seed → what was written.
        kinds: Task → kind of every query.
        cost: Arm → batch → what a query costs, as cost.py has measured it.
        probes: Arm → training seed → what probe.py has seen.
    """

    study: StudyConfig
    records: dict[str, dict[int, dict[str, Any]]]
    kinds: dict[str, list[str]]
    cost: dict[str, dict[str, dict[str, float]]]
    probes: dict[str, dict[int, dict[str, Any]]]

    @classmethod
    def read(cls, study: StudyConfig) -> Results:
        """Read ``results_dir``.

        Raises:
            InputError: If nothing is there.
        """
        folder = Path(study.results_dir)
        records = _runs(folder)
        if not records:
            raise InputError(f"There are no results in {str(folder)!r}; run studies/thinking/run.py first.")
        cost = folder / "cost.json"
        return cls(
            study,
            records,
            json.loads((folder / "kinds.json").read_text()),
            json.loads(cost.read_text())["arms"] if cost.exists() else {},
            _runs(folder / "probes"),
        )

    def inner(self, pattern: str) -> dict[str, Results]:
        """What folders of ``results_dir`` hold, by their names: the same arms on another split or with another setting."""
        folders = sorted(Path(self.study.results_dir).glob(pattern))
        return {each.name: Results.read(replace(self.study, results_dir=str(each))) for each in folders}

    @cached_property
    def arms(self) -> list[str]:
        """Arms with results that had the same steps, in the order of the config."""
        return [arm for arm in self.study.arms if arm in self.records and not arm.endswith(SAME_TIME)]

    @cached_property
    def modality(self) -> dict[str, str]:
        """Of each task."""
        record = next(iter(next(iter(self.records.values())).values()))
        return {task["name"]: task["modality"] for task in record["tasks"]}

    def scores(
        self, arm: str, seeds: Sequence[int], *, modality: str | None = None, kinds: Collection[str] | None = None
    ) -> Scores:
        """The metric of every query, of one modality or of some kinds only."""
        runs = [self.records[arm][seed]["per_query"] for seed in seeds]
        found = {}
        for task, its_kinds in self.kinds.items():
            rows = [kinds is None or kind in kinds for kind in its_kinds]
            if any(rows) and modality in (None, self.modality[task]):
                found[task] = np.array([run[task] for run in runs])[:, rows]  # (S, B)
        return found

    def seeds(self, *arms: str) -> list[int]:
        """Training seeds that all of these arms have."""
        return sorted(set.intersection(*(set(self.records.get(arm, ())) for arm in arms)))

    def mean(self, arm: str, **only: Any) -> Estimate:
        """Mean over tasks; ``only`` is for :meth:`scores`."""
        return mean_over_tasks(self.scores(arm, self.seeds(arm), **only))

    def difference(self, one: str, other: str, **only: Any) -> Estimate | None:
        """How much better one arm is, over the seeds that both have; ``None`` if there are none."""
        seeds = self.seeds(one, other)
        if not seeds:
            return None
        return paired_difference(self.scores(one, seeds, **only), self.scores(other, seeds, **only))

    def differences(self, one: str, other: str) -> list[float]:
        """How much better one arm is, for each seed that both have."""
        seeds = self.seeds(one, other)
        if not seeds:
            return []
        ours, theirs = self.scores(one, seeds), self.scores(other, seeds)
        return [float(each) for each in np.mean([(ours[task] - theirs[task]).mean(1) for task in ours], axis=0)]

    @cached_property
    def budgets(self) -> dict[int, dict[str, str]]:
        """Think budget → ``trained`` and ``nested`` → the name under which there are results."""
        found: dict[int, dict[str, str]] = {}
        # Without a token the rationale is decoded from the query: only the tokens are missing, not the loss.
        separate = {0: "auxiliary", 8: "tte-flash"} | {k: f"k{k}" for k in (1, 2, 4, 16, 32)}
        for budget in sorted(separate):
            names = {"trained": separate[budget], "nested": "nested" if budget == 32 else f"nested@{budget}"}
            there = {how: name for how, name in names.items() if name in self.records}
            if there:
                found[budget] = there
        return found

    def probed(self, arm: str, section: str) -> dict[tuple[str, ...], dict[str, float]]:
        """The rows of a section of the probes, by what names them; figures are means over training seeds."""
        found: defaultdict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
        for record in self.probes[arm].values():
            for row in record[section]:
                found[tuple(value for value in row.values() if isinstance(value, str))].append(row)
        return {
            names: {
                key: float(np.mean([row[key] for row in rows]))
                for key, value in rows[0].items()
                if isinstance(value, (int, float))
            }
            for names, rows in found.items()
        }


def _runs(folder: Path) -> dict[str, dict[int, dict[str, Any]]]:
    """Arm → training seed → what was written of that run."""
    runs: defaultdict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for file in sorted(folder.glob("*-*.json")):
        record = json.loads(file.read_text())
        runs[file.stem.rpartition("-")[0]][record["training_seed"]] = record
    return dict(runs)
