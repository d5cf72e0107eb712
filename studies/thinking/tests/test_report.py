"""The tables of the study's page are computed from its results, and what is missing raises an error."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from studies.thinking import cost, draw, report
from studies.thinking.records import ResultsFile
from studies.thinking.results import Results
from studies.thinking.tables import TABLES
from tte_retriever import TTEEncoder, model_path
from tte_retriever.errors import InputError

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / "studies/thinking/config.yaml"
PAGE = ROOT / "studies/thinking/README.md"
TASKS = {"composed-image-retrieval": "image", "video-retrieval": "video", "page-retrieval": "document"}
KINDS = {"composed-image-retrieval": "swap", "video-retrieval": "placed", "page-retrieval": "two-facts"}
SETTING = {"split": "iid", "seed": 0, "queries": 40}
BOOTSTRAPPED = {"arms", "pairs", "time", "held-out", "backbone", "longer", "tries", "depths", "budgets"}
"""Tables with intervals over queries, which take half a minute together."""


@pytest.fixture
def run(monkeypatch):
    """``run(script, *arguments)`` calls the ``main`` of a script of the study."""

    def call(script, *arguments):
        monkeypatch.setattr(sys, "argv", [script.__name__, str(CONFIG), *map(str, arguments)])
        script.main()

    return call


@pytest.fixture
def fill(run, results, tmp_path):
    """``fill(table, *options)`` is the rows of a table, made from the results."""

    def call(table, *options):
        page = tmp_path / "page.md"
        page.write_text(f"before\n<!-- table: {table} -->\nold\n<!-- end -->\nafter\n")
        run(report, "--set", f"results_file={results.path}", *options, "--document", page)
        return page.read_text()

    return call


def cells_of(text):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "| `" in line]


def a_run(arm, seed, condition="", *, hits=None, **other):
    """The record of a run, whose queries all fail but for those of ``hits``."""
    per_query = {task: np.zeros(40) for task in TASKS} | (hits or {})
    scores = {task: [values.mean(), 0, 1] for task, values in per_query.items()}
    record = {"record": "run", "condition": condition, "arm": arm, "training_seed": seed, **SETTING}
    return record | {"steps": {"joint": 1}, "training_cpu_s": 5, "scores": scores, "per_query": per_query} | other


def half_of_videos(seed):
    return {"video-retrieval": (np.arange(40) % 2 == seed % 2).astype(float)}


@pytest.fixture
def results(tmp_path):
    """Three arms with two seeds; one of them answers every second query of videos, the others none."""
    file = ResultsFile(tmp_path / "results.jsonl")
    tasks = [
        {"name": name, "modality": modality, "chance": 0.1, "prior_only": 0.2, "kinds": [KINDS[name]] * 40}
        for name, modality in TASKS.items()
    ]
    runs = [
        a_run(arm, seed, hits=half_of_videos(seed) if arm == "tte-flash" else None)
        for arm in ("tte-flash", "contrastive-only", "direct")
        for seed in (0, 1)
    ]
    file.put({"record": "tasks", **SETTING, "tasks": tasks}, *runs)
    return file


def test_a_table_is_filled_and_the_text_around_it_is_unchanged(fill):
    page = fill("arms")
    first, *table, last = page.splitlines()
    assert (first, last) == ("before", "after")
    rows = {cells[0]: cells for cells in cells_of("\n".join(table))}
    assert rows.keys() == {"`tte-flash`", "`contrastive-only`", "`direct`"}
    assert "**-.167**" in rows["`contrastive-only`"][7]  # half of one task of three
    assert "**" not in rows["`direct`"][7]
    assert "old" not in page


def test_a_resumed_training_has_no_time(fill, results):
    timeless = {"training_cpu_s": None}
    results.put(
        a_run("direct", 0, **timeless),
        *(a_run("tte-flash", seed, hits=half_of_videos(seed), **timeless) for seed in (0, 1)),
    )
    assert {row[0]: row[-1] for row in cells_of(fill("arms"))} == {
        "`tte-flash`": "–",
        "`contrastive-only`": "5",
        "`direct`": "5",
    }


def test_a_missing_table_or_result_raises(fill, run, tmp_path):
    with pytest.raises(InputError, match="a table 'weather'; the tables are arms"):
        fill("weather")
    with pytest.raises(InputError, match=r"run studies\.thinking\.run first"):
        run(report, "--set", f"results_file={tmp_path}/none.jsonl")
    with pytest.raises(InputError, match="condition 'on-mars'"):
        fill("arms", "--set", "condition=on-mars")


def test_arms_with_the_time_of_direct_have_a_table_of_their_own(fill, results):
    results.put(
        *(a_run("tte-flash-same-time", seed, hits=half_of_videos(seed), steps={"joint": 3}) for seed in (0, 1))
    )
    arm = "arms.tte-flash-same-time={like: tte-flash, what: fewer steps, set: {stages.0.steps: 3}}"
    rows = cells_of(fill("time", "--set", arm))
    assert [row[:3] for row in rows] == [["`direct`", "1", "5"], ["`tte-flash`", "3", "5"]]
    assert "**+.167**" in rows[1][-1]
    rows = cells_of(fill("arms", "--set", arm))
    assert [row[0] for row in rows] == ["`tte-flash`", "`contrastive-only`", "`direct`"]  # of the same steps


def test_other_splits_and_settings_are_conditions_of_the_results(fill, results):
    video = {"video-retrieval": np.ones(40)}
    for condition in ("held-out", "tries/1.0e-3", "tries/2.0e-3"):
        for seed in (0, 1):
            results.put(a_run("tte-flash", seed, condition, hits=half_of_videos(seed)))
            if condition != "tries/2.0e-3":
                results.put(a_run("contrastive-only", seed, condition))
            if (condition, seed) != ("held-out", 0):
                results.put(a_run("direct", seed, condition))
    results.put(
        a_run("direct", 0, "tries/2.0e-3", hits=video),
        a_run("k1", 0, "tries/1.0e-3"),
        a_run("k1", 0, "tries/2.0e-3", hits=video),
        a_run("k1-faster", 0, hits=video),
    )
    for table, expected in {
        "held-out": [["`tte-flash`", "2", ".167"], ["`contrastive-only`", "2", ".000"], ["`direct`", "1", ".000"]],
        "tries": [
            ["`tte-flash`", "**.167**", "**.167**", "`tte-flash`", "2"],
            ["`contrastive-only`", "**.000**", "–", "`contrastive-only`", "2"],
            ["`direct`", ".000", "**.167**", "–", "–"],  # no arm was trained at that rate
            ["`k1`", ".000", "**.333**", "`k1-faster`", "1"],
        ],
    }.items():
        assert [row[: len(expected[0])] for row in cells_of(fill(table))] == expected


@pytest.mark.slow
def test_pictures_are_drawn_the_same_each_time(run, results, capsys):
    drawn = []
    for _ in range(2):
        run(draw, "--set", f"results_file={results.path}")
        drawn.append([Path(line).read_bytes() for line in capsys.readouterr().out.split()])
    assert len(drawn[0]) == 3
    assert drawn[0] == drawn[1]


@pytest.mark.slow
def test_the_cost_of_a_query(run, fill, results, tmp_path, monkeypatch):
    loaded = []
    monkeypatch.setattr(cost, "BATCHES", (1, 2))
    monkeypatch.setattr(
        cost,
        "TTEEncoder",
        lambda folder, **options: loaded.append(folder) or TTEEncoder(model_path("tte-flash-tiny"), **options),
    )
    folders = ("--set", f"results_file={results.path}", "--set", f"output_dir={tmp_path}/runs")
    run(cost, *folders, "--arms", "direct", "tte-flash", "--rounds", "1")
    assert loaded == [f"{tmp_path}/runs/{arm}-0/model" for arm in ("direct", "tte-flash")]
    measured = results.find("cost", condition="")["arms"]
    assert list(measured) == ["direct", "tte-flash"]
    for batch in ("batch-1", "batch-2"):
        assert measured["direct"][batch]["ratio"] == 1
        assert all(arm[batch]["cpu_ms"] > 0 for arm in measured.values())
    assert "| `tte-flash` |" in fill("cost")
    with pytest.raises(InputError, match="no arm 'telepathy'"):
        run(cost, *folders, "--arms", "telepathy")


def tables_of(page):
    return dict(re.findall(r"<!-- table: ([\w-]+) -->\n(.*?)\n<!-- end -->", page, re.DOTALL))


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(TABLES.keys() - BOOTSTRAPPED, id="plain"),
        pytest.param(BOOTSTRAPPED, id="bootstrapped", marks=pytest.mark.slow),
    ],
)
def test_the_tables_of_the_page_equal_the_results(names, committed):
    page = tables_of(PAGE.read_text())
    assert page.keys() == TABLES.keys()
    for name in names:
        assert page[name] == TABLES[name](committed), name


@pytest.fixture(scope="module")
def committed():
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return Results.read(report.read_study(report.study_parser("").parse_args([str(CONFIG)])))


def test_the_page_has_the_pictures_of_the_results():
    page = PAGE.read_text()
    assert all(f"({name}.svg)" in page and PAGE.with_name(f"{name}.svg").exists() for name in draw.PICTURES)
