"""Make the tables and pictures of docs/study.md of what study_methods.py and its companions have found.

    python recipes/report_study.py recipes/configs/study_methods/tiny.yaml --document docs/study.md

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``, and is replaced as a whole; words around it stay. The
pictures go to the folder that results_dir is in. Needs ``pip install 'tte-retriever[study]'``.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tte_retriever.errors import InputError
from tte_retriever.evaluation.comparison import Estimate, Scores, mean_over_tasks, paired_difference
from tte_retriever.training.config import read_values
from tte_retriever.training.parsing import from_mapping
from tte_retriever.training.study import StudyConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

LOOK_UPS: dict[str, tuple[str, ...]] = {
    "none": ("full", "partial", "placed", "unplaced", "title-fact", "two-facts", "title-running-fact"),
    "one": (
        *("shape-at", "color-at", "color-of", "size-of", "place-of", "place", "big-thing"),
        *("make", "add", "move", "remove", "first"),
    ),
    "two": ("beside", "count-color", "count-shape", "swap", "second", "order"),
}
"""Reasoning depth → kinds of queries: how many things have to be looked up one after the other, counting among them."""

MODALITIES = ("image", "video", "document")

PAIRS = (
    ("tte-flash", "direct"),
    ("tte-flash", "auxiliary"),
    ("tte-flash", "explicit-cot"),
    ("explicit-cot", "direct"),
    ("plume", "direct"),
    ("lame", "direct"),
    ("lame", "contrastive-only"),
    ("auxiliary", "direct"),
    ("k32", "k1"),
    ("nested", "k32"),
)
"""Comparisons that claims rest on, beside those of neighbours."""


@dataclass(frozen=True)
class Results:
    """What a study has found so far.

    Attributes:
        study: Its config.
        records: Arm, or arm@budget → training seed → what was written.
        kinds: Task → kind of every query.
        cost: Arm → batch → what a query costs, as cost_of_methods.py has measured it.
    """

    study: StudyConfig
    records: dict[str, dict[int, dict[str, Any]]]
    kinds: dict[str, list[str]]
    cost: dict[str, dict[str, dict[str, float]]]

    @classmethod
    def read(cls, study: StudyConfig) -> Results:
        """Read ``results_dir``.

        Raises:
            InputError: If nothing is there.
        """
        folder = Path(study.results_dir)
        records: defaultdict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
        for file in sorted(folder.glob("*-*.json")):
            record = json.loads(file.read_text())
            records[file.stem.rpartition("-")[0]][record["training_seed"]] = record
        if not records:
            raise InputError(f"There are no results in {str(folder)!r}; run recipes/study_methods.py first.")
        cost = folder / "cost.json"
        return cls(
            study,
            dict(records),
            json.loads((folder / "kinds.json").read_text()),
            json.loads(cost.read_text())["arms"] if cost.exists() else {},
        )

    @cached_property
    def arms(self) -> list[str]:
        """Arms with results, in the order of the config."""
        return [arm for arm in self.study.arms if arm in self.records]

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


def _number(value: float) -> str:
    return f"{value:.3f}".replace("0.", ".", 1)


def _cell(found: Estimate) -> str:
    return f"{_number(found.value)} ({_number(found.low)} to {_number(found.high)})"


def _signed(found: Estimate | None) -> str:
    if found is None:
        return "–"
    low, value, high = (f"{each:+.3f}".replace("0.", ".", 1) for each in (found.low, found.value, found.high))
    mark = "**" if found.is_positive or found.is_negative else ""
    return f"{mark}{value}{mark} ({low} to {high})"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _median(results: Results, arm: str, key: str) -> str:
    return str(round(float(np.median([record[key] for record in results.records[arm].values()]))))


def arms_table(results: Results) -> str:
    """Every arm, with its difference from its neighbour."""
    rows = []
    for name in results.arms:
        arm = results.study.arm(name)
        beside = [results.mean(name, modality=each) for each in MODALITIES]
        difference = _signed(results.difference(name, arm.like)) if arm.like else ""
        rows.append(
            [
                f"`{name}`",
                str(len(results.records[name])),
                _cell(results.mean(name)),
                *(_number(each.value) for each in beside),
                f"`{arm.like}`" if arm.like else "",
                difference,
                _median(results, name, "training_cpu_s"),
            ]
        )
    head = ["arm", "seeds", "mean over tasks", *MODALITIES, "neighbour", "difference", "training, CPU s"]
    return _table(head, rows)


def pairs_table(results: Results) -> str:
    """The comparisons that claims rest on, by modality."""
    rows = [
        [
            f"`{one}` − `{other}`",
            str(len(results.seeds(one, other))),
            _signed(results.difference(one, other)),
            *(_signed(results.difference(one, other, modality=each)) for each in MODALITIES),
        ]
        for one, other in PAIRS
    ]
    return _table(["difference", "seeds", "all", *MODALITIES], rows)


def families_table(results: Results) -> str:
    """Every arm on every task."""
    tasks = list(results.modality)
    record = next(iter(results.records[results.arms[0]].values()))
    known = [
        [f"*{key.removesuffix('_only')}*", *(_number(task[key]) for task in record["tasks"])]
        for key in ("chance", "prior_only")
    ]
    rows = []
    for name in results.arms:
        scores = results.scores(name, results.seeds(name))
        rows.append([f"`{name}`", *(_number(scores[task].mean()) for task in tasks)])
    return _table(["arm", *(task.removesuffix("-retrieval") for task in tasks)], [*rows, *known])


def depths_table(results: Results) -> str:
    """Every arm by reasoning depth."""
    rows = []
    for name in results.arms:
        cells = [_cell(results.mean(name, kinds=kinds)) for kinds in LOOK_UPS.values()]
        rows.append([f"`{name}`", *cells])
    return _table(["arm", *(f"{depth} look-up{'s' * (depth != 'one')}" for depth in LOOK_UPS)], rows)


def budgets(results: Results) -> dict[int, dict[str, str]]:
    """Think budget → ``trained`` and ``nested`` → the name under which there are results."""
    found: dict[int, dict[str, str]] = {}
    separate = {0: "direct", 8: "tte-flash"} | {k: f"k{k}" for k in (1, 2, 4, 16, 32)}
    for budget in sorted(separate):
        names = {"trained": separate[budget], "nested": "nested" if budget == 32 else f"nested@{budget}"}
        there = {how: name for how, name in names.items() if name in results.records}
        if there:
            found[budget] = there
    return found


def budgets_table(results: Results) -> str:
    """Every think budget, trained for it or nested in one checkpoint."""
    rows = []
    for budget, names in budgets(results).items():
        cells = []
        for how in ("trained", "nested"):
            for kind in ("image", "video"):
                cells.append(_cell(results.mean(names[how], modality=kind)) if how in names else "–")
        rows.append([str(budget), *cells])
    head = ["K", "image, trained", "video, trained", "image, nested", "video, nested"]
    return _table(head, rows)


def cost_table(results: Results) -> str:
    """What a query costs alone and in a batch, in units of the first arm."""
    first = next(iter(results.cost), "none")
    rows = []
    for name, batches in results.cost.items():
        cells = [
            f"{cost['cpu_ms']:.1f} | {cost['ratio']:.2f} ({cost['low']:.2f} to {cost['high']:.2f})"
            for cost in batches.values()
        ]
        rows.append([f"`{name}`", *cells])
    head = [f"batch {batch}, CPU ms | batch {batch}, over `{first}`" for batch in (1, 32)]
    return _table(["arm", *" | ".join(head).split(" | ")], rows)


TABLES: dict[str, Callable[[Results], str]] = {
    "arms": arms_table,
    "pairs": pairs_table,
    "families": families_table,
    "depths": depths_table,
    "budgets": budgets_table,
    "cost": cost_table,
}


def filled(document: str, results: Results) -> str:
    """The document with its tables made anew."""

    def fill(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in TABLES:
            raise InputError(f"The document asks for a table {name!r}; there are {', '.join(TABLES)}.")
        return f"<!-- table: {name} -->\n{TABLES[name](results)}\n<!-- end -->"

    return re.sub(r"<!-- table: (?P<name>[\w-]+) -->\n.*?<!-- end -->", fill, document, flags=re.DOTALL)


def draw(results: Results, folder: Path) -> None:
    """The pictures: differences from neighbours, quality by think budget, quality by cost."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update(
        {"svg.hashsalt": "study", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    )
    from matplotlib import pyplot as plt

    pictures = {"differences": _draw_differences, "budgets": _draw_budgets, "cost": _draw_cost}
    for name, picture in pictures.items():
        figure = picture(results, plt)
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None}, bbox_inches="tight")
        plt.close(figure)


def _draw_differences(results: Results, plt: Any) -> Any:
    compared = [(name, results.study.arm(name).like) for name in reversed(results.arms)]
    found = {f"{one} − {other}": results.difference(one, other) for one, other in compared if other is not None}
    figure, axes = plt.subplots(figsize=(6, 0.28 * len(found) + 0.8))
    for row, estimate in enumerate(found.values()):
        if estimate is not None:
            axes.plot([estimate.low, estimate.high], [row, row], color="tab:blue")
            axes.plot(estimate.value, row, "o", color="tab:blue")
    axes.axvline(0, color="gray", linewidth=0.8)
    axes.set(
        yticks=range(len(found)), yticklabels=list(found), xlabel="difference of the mean over tasks, 95 % interval"
    )
    return figure


def _draw_budgets(results: Results, plt: Any) -> Any:
    figure, panels = plt.subplots(1, 2, figsize=(7, 2.6))
    shown = budgets(results)
    for axes, kind in zip(panels, ("image", "video"), strict=True):
        for how, style, label in (
            ("trained", "o-", "one checkpoint for each K"),
            ("nested", "s--", "one nested checkpoint"),
        ):
            points = {budget: names[how] for budget, names in shown.items() if how in names}
            means = [results.mean(name, modality=kind) for name in points.values()]
            if means:
                error = [[mean.value - mean.low for mean in means], [mean.high - mean.value for mean in means]]
                axes.errorbar(list(points), [mean.value for mean in means], error, fmt=style, label=label, capsize=2)
        axes.set_xscale("symlog", base=2, linthresh=1)
        axes.set(title=kind, xlabel="think budget K", xticks=list(shown), xticklabels=list(shown))
    panels[0].set_ylabel("mean over tasks")
    panels[0].legend(frameon=False)
    return figure


def _draw_cost(results: Results, plt: Any) -> Any:
    figure, panels = plt.subplots(1, 2, figsize=(7, 3), sharey=True)
    for axes, batch in zip(panels, (1, 32), strict=True):
        for name in (name for name in results.cost if name in results.records):
            cost, mean = results.cost[name][f"batch-{batch}"]["cpu_ms"], results.mean(name)
            axes.errorbar(cost, mean.value, [[mean.value - mean.low], [mean.high - mean.value]], fmt="o", capsize=2)
            axes.annotate(name, (cost, mean.value), xytext=(4, 3), textcoords="offset points", fontsize=7)
        axes.set(xscale="log", xlabel=f"CPU ms a query, batch {batch}")
    panels[0].set_ylabel("mean over tasks")
    return figure


def main() -> None:
    """Read the results, fill the document, draw the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a value")
    parser.add_argument("--document", type=Path, help="fill its tables; without it they are printed")
    arguments = parser.parse_args()
    results = Results.read(from_mapping(StudyConfig, read_values(arguments.config, arguments.set)))
    draw(results, Path(results.study.results_dir).parent)
    if arguments.document is None:
        for name, table in TABLES.items():
            print(f"{name}\n\n{table(results)}\n")
    else:
        arguments.document.write_text(filled(arguments.document.read_text(), results))


if __name__ == "__main__":
    main()
