"""Draw the pictures of studies/thinking/README.md: differences between neighbours, quality by think budget, quality by cost.

    python -m studies.thinking.draw studies/thinking/config.yaml

The pictures are SVG files beside the results file. Needs ``pip install 'tte-retriever[study]'``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

from studies.thinking.results import Results
from studies.thinking.study import read_study, study_parser


def draw_differences(results: Results) -> Any:
    """The difference of every arm from its neighbour."""
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


def draw_budgets(results: Results) -> Any:
    """Scores by think budget, for images and for videos."""
    figure, panels = plt.subplots(1, 2, figsize=(7, 2.6))
    shown = results.budgets
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


def draw_cost(results: Results) -> Any:
    """Scores by the cost of a query."""
    figure, panels = plt.subplots(1, 2, figsize=(7, 3), sharey=True)
    for axes, batch in zip(panels, (1, 32), strict=True):
        for name in (name for name in results.cost if name in results.runs):
            cost, mean = results.cost[name][f"batch-{batch}"]["cpu_ms"], results.mean(name)
            axes.errorbar(cost, mean.value, [[mean.value - mean.low], [mean.high - mean.value]], fmt="o", capsize=2)
            axes.annotate(name, (cost, mean.value), xytext=(4, 3), textcoords="offset points", fontsize=7)
        axes.set(xscale="log", xlabel=f"CPU ms a query, batch {batch}")
    panels[0].set_ylabel("mean over tasks")
    return figure


PICTURES = {"differences": draw_differences, "budgets": draw_budgets, "cost": draw_cost}


def main() -> None:
    """Read the results and draw."""
    results = Results.read(read_study(study_parser(__doc__).parse_args()))
    mpl.use("svg")
    mpl.rcParams.update(
        {"svg.hashsalt": "study", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    )
    for name, draw in PICTURES.items():
        file = Path(results.study.results_file).with_name(f"{name}.svg")
        draw(results).savefig(file, metadata={"Date": None}, bbox_inches="tight")
        print(file)


if __name__ == "__main__":
    main()
