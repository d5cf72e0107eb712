"""Tables of scores: arms, comparisons, other conditions, tasks, reasoning depth, think budgets and cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from studies.thinking.results import MODALITIES, SAME_TIME, Results
from studies.thinking.tables.markdown import change, difference, number, table, with_interval

if TYPE_CHECKING:
    from collections.abc import Iterable

LOOK_UPS: dict[str, tuple[str, ...]] = {
    "none": ("full", "partial", "placed", "unplaced", "title-fact", "two-facts", "title-running-fact"),
    "one": (
        *("shape-at", "color-at", "color-of", "size-of", "place-of", "place", "big-thing"),
        *("make", "add", "move", "remove", "first"),
    ),
    "two": ("beside", "count-color", "count-shape", "swap", "second", "order"),
}
"""Number of look-ups that a query needs one after the other → kinds of such queries; a count is a look-up."""

PAIRS = (
    ("tte-flash", "direct"),
    ("tte-flash", "auxiliary"),
    ("k1", "direct"),
    ("k1", "auxiliary"),
    ("k1-faster", "direct"),
    ("k1-faster", "auxiliary-faster"),
    ("auxiliary-faster", "direct"),
    ("tte-flash", "contrastive-only-faster"),
    ("tte-flash", "explicit-cot"),
    ("tte-flash", "explicit-cot-faster"),
    ("explicit-cot", "direct"),
    ("explicit-cot-faster", "direct"),
    ("plume", "direct"),
    ("plume-faster", "direct"),
    ("tte-flash", "plume-faster"),
    ("auxiliary-faster", "plume-faster"),
    ("lame", "direct"),
    ("lame", "contrastive-only"),
    ("lame-k2", "direct"),
    ("auxiliary", "direct"),
    ("k32", "k1"),
    ("nested", "k32"),
)
"""Comparisons that the claims rest on, besides those of neighbours."""

REFERENCE = "direct"
"""The arm that others are compared with where they have no neighbour, and whose training time the same-time arms have."""


def _cpu_seconds(runs: Iterable[dict[str, Any]]) -> str:
    known = [run["training_cpu_s"] for run in runs if run["training_cpu_s"] is not None]  # not resumed
    return f"{np.median(known):.0f}" if known else "–"


def arms_table(results: Results) -> str:
    """Every arm, with its difference from its neighbour."""
    rows = []
    for name in results.arms:
        arm, runs = results.study.arm(name), results.runs[name].values()
        beside = [results.mean(name, modality=each) for each in MODALITIES]
        gain = difference(results.difference(name, arm.like)) if arm.like else ""
        rows.append(
            [
                f"`{name}`",
                str(len(runs)),
                with_interval(results.mean(name)),
                *(number(each.value) for each in beside),
                f"`{arm.like}`" if arm.like else "",
                gain,
                _cpu_seconds(runs),
            ]
        )
    head = ["arm", "seeds", "mean over tasks", *MODALITIES, "neighbour", "difference", "training, CPU s"]
    return table(head, rows)


def pairs_table(results: Results) -> str:
    """The comparisons that the claims rest on, by modality."""
    rows = [
        [
            f"`{one}` − `{other}`",
            " ".join(change(each) for each in results.differences(one, other)) or "–",
            difference(results.difference(one, other)),
            *(difference(results.difference(one, other, modality=each)) for each in MODALITIES),
        ]
        for one, other in PAIRS
    ]
    return table(["difference", "seed by seed", "all", *MODALITIES], rows)


def time_table(results: Results) -> str:
    """Arms whose training takes the time of :data:`REFERENCE`, and their difference from it."""
    rows = []
    of_that_time = (arm for arm in results.study.arms if arm == REFERENCE or arm.endswith(SAME_TIME))
    for name in (arm for arm in of_that_time if arm in results.runs):
        runs = results.runs[name].values()
        rows.append(
            [
                f"`{name.removesuffix(SAME_TIME)}`",
                str(sum(next(iter(runs))["steps"].values())),
                _cpu_seconds(runs),
                str(len(runs)),
                with_interval(results.mean(name)),
                *(number(results.mean(name, modality=each).value) for each in MODALITIES),
                "" if name == REFERENCE else difference(results.difference(name, REFERENCE)),
            ]
        )
    head = ["arm", "steps", "training, CPU s", "seeds", "mean over tasks", *MODALITIES, f"over `{REFERENCE}`"]
    return table(head, rows)


def condition_table(results: Results, condition: str) -> str:
    """Arms under another condition, beside their scores in the main results."""
    rows = []
    for found in results.conditions(condition).values():
        for name in found.arms:
            over = "" if name == REFERENCE else difference(found.difference(name, REFERENCE))
            by_modality = (number(found.mean(name, modality=each).value) for each in MODALITIES)
            above = number(results.mean(name).value) if name in results.runs else "–"
            rows.append(
                [f"`{name}`", str(len(found.seeds(name))), above, with_interval(found.mean(name)), *by_modality, over]
            )
    return table(["arm", "seeds", "above", "here", *MODALITIES, f"over `{REFERENCE}`"], rows)


def tries_table(results: Results) -> str:
    """Validation scores of each arm by learning rate, the best in bold, and the test scores at that rate."""
    tries = results.conditions("tries/*")
    found = {
        name: {rate: tried.mean(name).value for rate, tried in tries.items() if name in tried.arms}
        for name in dict.fromkeys(arm for tried in tries.values() for arm in tried.arms)
    }
    best = {name: _trained_at(results, name, max(scores, key=scores.__getitem__)) for name, scores in found.items()}
    reference = best.get(REFERENCE)
    rows = []
    for name, scores in found.items():
        cells = [number(scores[rate]) if rate in scores else "–" for rate in tries]
        cells = [f"**{cell}**" if cell == number(max(scores.values())) else cell for cell in cells]
        arm = best[name]
        if arm is None:
            cells += ["–"] * 4
        else:
            gain = results.difference(arm, reference) if reference and name != REFERENCE else None
            cells += [f"`{arm}`", str(len(results.seeds(arm))), with_interval(results.mean(arm)), difference(gain)]
        rows.append([f"`{name}`", *cells])
    return table(["arm", *tries, "the best, as", "seeds", "mean over tasks", f"over `{REFERENCE}`"], rows)


def _trained_at(results: Results, name: str, rate: str) -> str | None:
    """The arm with results whose config equals that of ``name`` at this learning rate, if there is one."""
    wanted = results.study.config(name)
    wanted["stages"][0]["learning_rate"] = float(rate)
    return next((arm for arm in results.arms if results.study.config(arm) == wanted), None)


def families_table(results: Results) -> str:
    """Scores of every arm on every task."""
    tasks = list(results.tasks)
    known = [
        [f"*{key.removesuffix('_only')}*", *(number(task[key]) for task in results.tasks.values())]
        for key in ("chance", "prior_only")
    ]
    rows = []
    for name in results.arms:
        scores = results.scores(name, results.seeds(name))
        rows.append([f"`{name}`", *(number(scores[task].mean()) for task in tasks)])
    return table(["arm", *(task.removesuffix("-retrieval") for task in tasks)], [*rows, *known])


def depths_table(results: Results) -> str:
    """Scores of every arm by reasoning depth."""
    rows = []
    for name in results.arms:
        cells = [with_interval(results.mean(name, kinds=kinds)) for kinds in LOOK_UPS.values()]
        rows.append([f"`{name}`", *cells])
    return table(["arm", *(f"{depth} look-up{'s' * (depth != 'one')}" for depth in LOOK_UPS)], rows)


def budgets_table(results: Results) -> str:
    """Scores by think budget: one checkpoint for each budget, and one nested checkpoint for all."""
    rows = []
    for budget, names in results.budgets.items():
        cells = []
        for how in ("trained", "nested"):
            for kind in ("image", "video"):
                cells.append(with_interval(results.mean(names[how], modality=kind)) if how in names else "–")
        rows.append([str(budget), *cells])
    head = ["K", "image, trained", "video, trained", "image, nested", "video, nested"]
    return table(head, rows)


def cost_table(results: Results) -> str:
    """CPU time of a query alone and in a batch, and its ratio to that of the first arm."""
    first = next(iter(results.cost), "none")
    rows = []
    for name, batches in results.cost.items():
        cells = [
            f"{cost['cpu_ms']:.1f} | {cost['ratio']:.2f} ({cost['low']:.2f} to {cost['high']:.2f})"
            for cost in batches.values()
        ]
        rows.append([f"`{name}`", *cells])
    head = [f"batch {batch}, CPU ms | batch {batch}, over `{first}`" for batch in (1, 32)]
    return table(["arm", *" | ".join(head).split(" | ")], rows)
