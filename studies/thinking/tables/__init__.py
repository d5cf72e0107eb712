"""The tables of the study's page, by the name that the page gives them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from studies.thinking.tables import probes, scores

if TYPE_CHECKING:
    from collections.abc import Callable

    from studies.thinking.results import Results

TABLES: dict[str, Callable[[Results], str]] = {
    "arms": scores.arms_table,
    "pairs": scores.pairs_table,
    "time": scores.time_table,
    "held-out": partial(scores.condition_table, condition="held-out"),
    "backbone": partial(scores.condition_table, condition="backbone"),
    "longer": partial(scores.condition_table, condition="2400-steps"),
    "tries": scores.tries_table,
    "families": scores.families_table,
    "depths": scores.depths_table,
    "budgets": scores.budgets_table,
    "cost": scores.cost_table,
    "dependence": probes.dependence_table,
    "decoding": probes.decoding_table,
    "answers": probes.answers_table,
    "geometry": probes.geometry_table,
}
