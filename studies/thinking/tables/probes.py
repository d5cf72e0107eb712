"""Tables of the probes: interventions, decoded rationales, answers, geometry."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from studies.thinking.comparison import Estimate
from studies.thinking.tables.markdown import difference, number, table

if TYPE_CHECKING:
    from studies.thinking.results import Results


def dependence_table(results: Results) -> str:
    """The embedding after each intervention on the thought; means over the families of the small world."""
    lines = []
    for name in (arm for arm in results.study.arms if arm in results.probes):
        runs = results.probes[name].values()
        apart = np.mean([row["embeddings"] for run in runs for row in run["similarity"]])
        found = [row for run in runs for row in run["interventions"]]
        for kind in dict.fromkeys(row["intervention"] for row in found):
            rows = [row for row in found if row["intervention"] == kind]
            cosine, hit, change = (float(np.mean([row[key] for row in rows])) for key in ("cosine", "hit@1", "change"))
            # Families have different queries, so the variances of their means add up. Training seeds share their queries.
            widths = [
                np.mean([row["change_ci95"][1] - row["change_ci95"][0] for row in rows if row["family"] == family])
                for family in dict.fromkeys(row["family"] for row in rows)
            ]
            half = float(np.linalg.norm(widths)) / len(widths) / 2
            changed = "" if kind == "none" else difference(Estimate(change, change - half, change + half))
            lines.append([f"`{name}`", kind, number(cosine), number(apart), number(hit), changed])
    head = ["arm", "thought", "cosine to its own", "cosine between queries", "hit@1", "change"]
    return table(head, lines)


def decoding_table(results: Results) -> str:
    """Accuracy of the decoded rationales: exact / words, written freely / words, after the true words before them."""
    rows: list[list[str]] = []
    families: dict[str, None] = {}
    for name in (arm for arm in results.study.arms if arm in results.probes):
        found = {family: row for (family,), row in results.probed(name, "decoding").items()}
        families |= dict.fromkeys(found)
        if found:
            cells = [" / ".join(number(row[key]) for key in ("exact", "free", "forced")) for row in found.values()]
            rows.append([f"`{name}`", *cells])
    return table(["arm", *families], rows)


def answers_table(results: Results) -> str:
    """The answer at the end of the decoded rationale beside the answer that the embedding retrieves."""
    rows = []
    for name in (arm for arm in results.study.arms if arm in results.probes):
        for (family,), row in results.probed(name, "answers").items():
            keys = ("written", "retrieved", "agree", "agree_by_chance", "agree_given_gold")
            rows.append([f"`{name}`", family, *(number(row[key]) for key in keys)])
    return table(
        ["arm", "family", "said right", "retrieved right", "the same", "by chance", "given the right one"], rows
    )


def geometry_table(results: Results) -> str:
    """Effective rank of embeddings and thoughts, and cosine similarity of the steps of a thought."""
    rows = []
    for name in (arm for arm in results.study.arms if arm in results.probes):
        runs = results.probes[name].values()
        figures = [[run[f"effective_rank_{what}"] for run in runs] for what in ("embeddings", "thought")]
        figures += [[row[key] for run in runs for row in run["similarity"]] for key in ("within", "between")]
        rows.append([f"`{name}`", *("–" if None in each else f"{np.mean(each):.2f}" for each in figures)])
    head = ["arm", "rank of embeddings", "rank of thoughts", "cosine of steps, one query", "of queries, one step"]
    return table(head, rows)
