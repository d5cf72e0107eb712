"""Make the tables of studies/thinking/README.md of what run.py and its companions have found.

    python -m studies.thinking.report studies/thinking/config.yaml --document studies/thinking/README.md

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``, and is replaced as a whole; words around it stay.
Without a document, all tables are printed.
"""

from __future__ import annotations

import argparse
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from studies.thinking.comparison import Estimate
from studies.thinking.results import MODALITIES, SAME_TIME, Results
from studies.thinking.study import StudyConfig
from tte_retriever.errors import InputError
from tte_retriever.training.config_files import read_values
from tte_retriever.training.parsing import from_mapping

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

LOOK_UPS: dict[str, tuple[str, ...]] = {
    "none": ("full", "partial", "placed", "unplaced", "title-fact", "two-facts", "title-running-fact"),
    "one": (
        *("shape-at", "color-at", "color-of", "size-of", "place-of", "place", "big-thing"),
        *("make", "add", "move", "remove", "first"),
    ),
    "two": ("beside", "count-color", "count-shape", "swap", "second", "order"),
}
"""Reasoning depth → kinds of queries: how many things have to be looked up one after the other, counting among them."""

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
"""Comparisons that claims rest on, beside those of neighbours."""

REFERENCE = "direct"
"""The arm that others are set against where they have no neighbour, and whose training time …-same-time arms have."""


def _number(value: float | np.floating[Any]) -> str:
    return f"{value:.3f}".replace("0.", ".", 1)


def _cell(found: Estimate) -> str:
    return f"{_number(found.value)} ({_number(found.low)} to {_number(found.high)})"


def _signed(found: Estimate | None) -> str:
    if found is None:
        return "–"
    low, value, high = map(_change, (found.low, found.value, found.high))
    mark = "**" if found.is_positive or found.is_negative else ""
    return f"{mark}{value}{mark} ({low} to {high})"


def _change(value: float) -> str:
    return f"{value:+.3f}".replace("0.", ".", 1)


def _cpu_seconds(runs: Iterable[dict[str, Any]]) -> str:
    known = [run["training_cpu_s"] for run in runs if run["training_cpu_s"] is not None]  # those not resumed
    return f"{np.median(known):.0f}" if known else "–"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def arms_table(results: Results) -> str:
    """Every arm, with its difference from its neighbour."""
    rows = []
    for name in results.arms:
        arm, runs = results.study.arm(name), results.records[name].values()
        beside = [results.mean(name, modality=each) for each in MODALITIES]
        difference = _signed(results.difference(name, arm.like)) if arm.like else ""
        rows.append(
            [
                f"`{name}`",
                str(len(runs)),
                _cell(results.mean(name)),
                *(_number(each.value) for each in beside),
                f"`{arm.like}`" if arm.like else "",
                difference,
                _cpu_seconds(runs),
            ]
        )
    head = ["arm", "seeds", "mean over tasks", *MODALITIES, "neighbour", "difference", "training, CPU s"]
    return _table(head, rows)


def pairs_table(results: Results) -> str:
    """The comparisons that claims rest on, by modality."""
    rows = [
        [
            f"`{one}` − `{other}`",
            " ".join(_change(each) for each in results.differences(one, other)) or "–",
            _signed(results.difference(one, other)),
            *(_signed(results.difference(one, other, modality=each)) for each in MODALITIES),
        ]
        for one, other in PAIRS
    ]
    return _table(["difference", "seed by seed", "all", *MODALITIES], rows)


def time_table(results: Results) -> str:
    """Arms with as many steps as cost what those of :data:`REFERENCE` do, and what they gain over it."""
    rows = []
    of_that_time = (arm for arm in results.study.arms if arm == REFERENCE or arm.endswith(SAME_TIME))
    for name in (arm for arm in of_that_time if arm in results.records):
        runs = results.records[name].values()
        rows.append(
            [
                f"`{name.removesuffix(SAME_TIME)}`",
                str(sum(next(iter(runs))["steps"].values())),
                _cpu_seconds(runs),
                str(len(runs)),
                _cell(results.mean(name)),
                *(_number(results.mean(name, modality=each).value) for each in MODALITIES),
                "" if name == REFERENCE else _signed(results.difference(name, REFERENCE)),
            ]
        )
    head = ["arm", "steps", "training, CPU s", "seeds", "mean over tasks", *MODALITIES, f"over `{REFERENCE}`"]
    return _table(head, rows)


def elsewhere_table(results: Results, folder: str) -> str:
    """Arms under other conditions, whose scores stand in a folder of ``results_dir``, beside what they reach here."""
    rows = []
    for found in results.inner(folder).values():
        for name in found.arms:
            over = "" if name == REFERENCE else _signed(found.difference(name, REFERENCE))
            by_modality = (_number(found.mean(name, modality=each).value) for each in MODALITIES)
            above = _number(results.mean(name).value) if name in results.records else "–"
            rows.append([f"`{name}`", str(len(found.seeds(name))), above, _cell(found.mean(name)), *by_modality, over])
    return _table(["arm", "seeds", "above", "here", *MODALITIES, f"over `{REFERENCE}`"], rows)


def tries_table(results: Results) -> str:
    """What was tried for every arm, on validation; the best of an arm is bold, and beside it what that reaches here."""
    tries = results.inner("tries/*")
    found = {
        name: {rate: tried.mean(name).value for rate, tried in tries.items() if name in tried.arms}
        for name in dict.fromkeys(arm for tried in tries.values() for arm in tried.arms)
    }
    best = {name: _trained_at(results, name, max(scores, key=scores.__getitem__)) for name, scores in found.items()}
    reference = best.get(REFERENCE)
    rows = []
    for name, scores in found.items():
        cells = [_number(scores[rate]) if rate in scores else "–" for rate in tries]
        cells = [f"**{cell}**" if cell == _number(max(scores.values())) else cell for cell in cells]
        arm = best[name]
        if arm is None:
            cells += ["–"] * 4
        else:
            difference = results.difference(arm, reference) if reference and name != REFERENCE else None
            cells += [f"`{arm}`", str(len(results.seeds(arm))), _cell(results.mean(arm)), _signed(difference)]
        rows.append([f"`{name}`", *cells])
    return _table(["arm", *tries, "the best, as", "seeds", "mean over tasks", f"over `{REFERENCE}`"], rows)


def _trained_at(results: Results, name: str, rate: str) -> str | None:
    """The arm with results whose config is that of another at a learning rate, if there is one."""
    wanted = results.study.config(name)
    wanted["stages"][0]["learning_rate"] = float(rate)
    return next((arm for arm in results.arms if results.study.config(arm) == wanted), None)


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


def budgets_table(results: Results) -> str:
    """Every think budget, trained for it or nested in one checkpoint."""
    rows = []
    for budget, names in results.budgets.items():
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


def dependence_table(results: Results) -> str:
    """What becomes of the embedding when its thought is another; means over the families of the small world."""
    table = []
    for name in (arm for arm in results.study.arms if arm in results.probes):
        runs = results.probes[name].values()
        apart = np.mean([row["embeddings"] for run in runs for row in run["similarity"]])
        found = [row for run in runs for row in run["interventions"]]
        for kind in dict.fromkeys(row["intervention"] for row in found):
            rows = [row for row in found if row["intervention"] == kind]
            cosine, hit, change = (float(np.mean([row[key] for row in rows])) for key in ("cosine", "hit@1", "change"))
            # Families have queries of their own, so that the variances of their means add up; seeds share theirs.
            widths = [
                np.mean([row["change_ci95"][1] - row["change_ci95"][0] for row in rows if row["family"] == family])
                for family in dict.fromkeys(row["family"] for row in rows)
            ]
            half = float(np.linalg.norm(widths)) / len(widths) / 2
            changed = "" if kind == "none" else _signed(Estimate(change, change - half, change + half))
            table.append([f"`{name}`", kind, _number(cosine), _number(apart), _number(hit), changed])
    head = ["arm", "thought", "cosine to its own", "cosine between queries", "hit@1", "change"]
    return _table(head, table)


def decoding_table(results: Results) -> str:
    """What the decoded rationale says: exact / words, freely / words, after the true ones before."""
    rows: list[list[str]] = []
    families: dict[str, None] = {}
    for name in (arm for arm in results.study.arms if arm in results.probes):
        found = {family: row for (family,), row in results.probed(name, "decoding").items()}
        families |= dict.fromkeys(found)
        if found:
            cells = [" / ".join(_number(row[key]) for key in ("exact", "free", "forced")) for row in found.values()]
            rows.append([f"`{name}`", *cells])
    return _table(["arm", *families], rows)


def answers_table(results: Results) -> str:
    """The answer that the decoded rationale ends in beside the one that the embedding retrieves."""
    rows = []
    for name in (arm for arm in results.study.arms if arm in results.probes):
        for (family,), row in results.probed(name, "answers").items():
            keys = ("said", "retrieved", "agree", "agree_by_chance", "agree_given_gold")
            rows.append([f"`{name}`", family, *(_number(row[key]) for key in keys)])
    return _table(
        ["arm", "family", "said right", "retrieved right", "the same", "by chance", "given the right one"], rows
    )


def geometry_table(results: Results) -> str:
    """Effective rank of embeddings and thoughts, and how alike the steps of a thought are."""
    rows = []
    for name in (arm for arm in results.study.arms if arm in results.probes):
        runs = results.probes[name].values()
        figures = [[run[f"effective_rank_{what}"] for run in runs] for what in ("embeddings", "thought")]
        figures += [[row[key] for run in runs for row in run["similarity"]] for key in ("within", "between")]
        rows.append([f"`{name}`", *("–" if None in each else f"{np.mean(each):.2f}" for each in figures)])
    head = ["arm", "rank of embeddings", "rank of thoughts", "cosine of steps, one query", "of queries, one step"]
    return _table(head, rows)


TABLES: dict[str, Callable[[Results], str]] = {
    "arms": arms_table,
    "pairs": pairs_table,
    "time": time_table,
    "held-out": partial(elsewhere_table, folder="held-out"),
    "backbone": partial(elsewhere_table, folder="backbone"),
    "longer": partial(elsewhere_table, folder="2400-steps"),
    "tries": tries_table,
    "families": families_table,
    "depths": depths_table,
    "budgets": budgets_table,
    "cost": cost_table,
    "dependence": dependence_table,
    "decoding": decoding_table,
    "answers": answers_table,
    "geometry": geometry_table,
}


def filled(document: str, results: Results) -> str:
    """The document with its tables made anew."""

    def fill(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in TABLES:
            raise InputError(f"The document asks for a table {name!r}; there are {', '.join(TABLES)}.")
        return f"<!-- table: {name} -->\n{TABLES[name](results)}\n<!-- end -->"

    return re.sub(r"<!-- table: (?P<name>[\w-]+) -->\n.*?<!-- end -->", fill, document, flags=re.DOTALL)


def main() -> None:
    """Read the results, fill the document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a value")
    parser.add_argument("--document", type=Path, help="fill its tables; without it they are printed")
    arguments = parser.parse_args()
    results = Results.read(from_mapping(StudyConfig, read_values(arguments.config, arguments.set)))
    if arguments.document is None:
        for name, table in TABLES.items():
            print(f"{name}\n\n{table(results)}\n")
    else:
        arguments.document.write_text(filled(arguments.document.read_text(), results))


if __name__ == "__main__":
    main()
