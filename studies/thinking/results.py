"""What the study found under one condition: scores with intervals over queries and training seeds."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from studies.thinking.comparison import Estimate, Scores, mean_over_tasks, paired_difference
from studies.thinking.records import IDENTITY, Record, ResultsFile
from tte_retriever.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from studies.thinking.study import StudyConfig

MODALITIES = ("image", "video", "document")
"""Modalities of mini-MMEB's tasks."""

SAME_TIME = "-same-time"
"""Suffix of the arms that have as many steps as take the time of another arm."""


@dataclass(frozen=True)
class Results:
    """The results of one condition.

    Attributes:
        study: The config, whose ``condition`` it is.
        runs: Arm, or arm@budget → training seed → record.
        tasks: Name → task of mini-MMEB: modality, kind of every query, scores of a chance and of a prior-only ranking.
        cost: Arm → batch → cost of a query, as ``cost.py`` measured it.
        probes: Arm → training seed → record.
        records: All records of the file, those of other conditions included.
    """

    study: StudyConfig
    runs: dict[str, dict[int, Record]]
    tasks: dict[str, Record]
    cost: dict[str, dict[str, dict[str, float]]]
    probes: dict[str, dict[int, Record]]
    records: list[Record]

    @classmethod
    def read(cls, study: StudyConfig, records: list[Record] | None = None) -> Results:
        """Select the records of the study's condition.

        Args:
            study: The config.
            records: The records of its results file, where they have been read already.

        Raises:
            InputError: There is no run of this condition.
        """
        records = ResultsFile(study.results_file).read() if records is None else records
        of_type: defaultdict[str, list[Record]] = defaultdict(list)
        for record in records:
            if record.get("condition", study.condition) == study.condition:
                of_type[record["record"]].append(record)
        if not of_type["run"]:
            wanted = f"condition {study.condition!r} in {study.results_file!r}"
            raise InputError(f"There are no results of {wanted}; run studies.thinking.run first.")
        setting = [of_type["run"][0][key] for key in IDENTITY["tasks"]]
        tasks = [each["tasks"] for each in of_type["tasks"] if [each[key] for key in IDENTITY["tasks"]] == setting]
        return cls(
            study,
            _by_arm(of_type["run"]),
            {task["name"]: task for each in tasks for task in each},
            {arm: cost for each in of_type["cost"] for arm, cost in each["arms"].items()},
            _by_arm(of_type["probe"]),
            records,
        )

    def conditions(self, pattern: str) -> dict[str, Results]:
        """The results of other conditions: last part of the name → results, for the names that match ``pattern``."""
        names = sorted({each["condition"] for each in self.records if each["record"] == "run"})
        found = [name for name in names if fnmatchcase(name, pattern)]
        return {
            name.rpartition("/")[2]: Results.read(replace(self.study, condition=name), self.records) for name in found
        }

    @cached_property
    def arms(self) -> list[str]:
        """Arms that have results and the same number of steps, in the order of the config."""
        return [arm for arm in self.study.arms if arm in self.runs and not arm.endswith(SAME_TIME)]

    def scores(
        self, arm: str, seeds: Sequence[int], *, modality: str | None = None, kinds: Collection[str] | None = None
    ) -> Scores:
        """The metric of every query, or of those of one modality or some kinds only."""
        runs = [self.runs[arm][seed]["per_query"] for seed in seeds]
        found = {}
        for name, task in self.tasks.items():
            rows = [kinds is None or kind in kinds for kind in task["kinds"]]
            if any(rows) and modality in (None, task["modality"]):
                found[name] = np.array([run[name] for run in runs])[:, rows]  # (S, B)
        return found

    def seeds(self, *arms: str) -> list[int]:
        """Training seeds that all of these arms have."""
        return sorted(set.intersection(*(set(self.runs.get(arm, ())) for arm in arms)))

    def mean(self, arm: str, **only: Any) -> Estimate:
        """The mean over tasks; ``only`` is passed to :meth:`scores`."""
        return mean_over_tasks(self.scores(arm, self.seeds(arm), **only))

    def difference(self, one: str, other: str, **only: Any) -> Estimate | None:
        """The difference of one arm from another, over the seeds that both have; ``None`` if there are none."""
        seeds = self.seeds(one, other)
        if not seeds:
            return None
        return paired_difference(self.scores(one, seeds, **only), self.scores(other, seeds, **only))

    def differences(self, one: str, other: str) -> list[float]:
        """The difference of one arm from another for each seed that both have."""
        seeds = self.seeds(one, other)
        if not seeds:
            return []
        ours, theirs = self.scores(one, seeds), self.scores(other, seeds)
        return [float(each) for each in np.mean([(ours[task] - theirs[task]).mean(1) for task in ours], axis=0)]

    @cached_property
    def budgets(self) -> dict[int, dict[str, str]]:
        """Think budget → ``trained`` or ``nested`` → the arm, or arm@budget, that has results."""
        found: dict[int, dict[str, str]] = {}
        # The arm with K = 0 has the rationale loss too; it decodes from the query.
        separate = {0: "auxiliary", 8: "tte-flash"} | {k: f"k{k}" for k in (1, 2, 4, 16, 32)}
        for budget in sorted(separate):
            names = {"trained": separate[budget], "nested": "nested" if budget == 32 else f"nested@{budget}"}
            there = {how: name for how, name in names.items() if name in self.runs}
            if there:
                found[budget] = there
        return found

    def probed(self, arm: str, section: str) -> dict[tuple[str, ...], dict[str, float]]:
        """Rows of one section of the probes: the texts of a row → its figures, as means over training seeds."""
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


def _by_arm(records: list[Record]) -> dict[str, dict[int, Record]]:
    """Arm → training seed → record."""
    found: defaultdict[str, dict[int, Record]] = defaultdict(dict)
    for record in records:
        found[record["arm"]][record["training_seed"]] = record
    return dict(found)
