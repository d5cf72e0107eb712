"""The study's page: its tables are what its committed results give, and what is not there is said."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tte_retriever import model_path

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / "studies/thinking/config.yaml"
TASKS = {"composed-image-retrieval": "image", "video-retrieval": "video", "page-retrieval": "document"}


def run(script, *arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"studies.thinking.{script}", str(CONFIG), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, cwd=ROOT)


def cells_of(page):
    return [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in page.read_text().splitlines() if "| `" in line
    ]


@pytest.fixture
def results(tmp_path):
    """Three arms of two seeds, of which one is better than its neighbour on every second query of videos."""
    folder = tmp_path / "study/results"
    folder.mkdir(parents=True)
    kinds = {"composed-image-retrieval": "swap", "video-retrieval": "placed", "page-retrieval": "two-facts"}
    (folder / "kinds.json").write_text(json.dumps({task: [kind] * 40 for task, kind in kinds.items()}))
    for arm in ("tte-flash", "contrastive-only", "direct"):
        for seed in (0, 1):
            hits = {task: np.zeros(40) for task in TASKS}
            if arm == "tte-flash":
                hits["video-retrieval"][seed::2] = 1
            tasks = [
                {"name": task, "modality": kind, "score": hits[task].mean(), "chance": 0.1, "prior_only": 0.2}
                for task, kind in TASKS.items()
            ]
            record = {"tasks": tasks, "training_seed": seed, "training_cpu_s": 5, "steps": {"joint": 1}}
            record["per_query"] = {task: values.tolist() for task, values in hits.items()}
            (folder / f"{arm}-{seed}.json").write_text(json.dumps(record))
    return folder


def test_a_table_is_filled_and_the_words_around_it_stay(results, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- table: arms -->\nold\n<!-- end -->\nafter\n")
    done = run("report", "--set", f"results_dir={results}", "--document", page)
    assert done.returncode == 0, done.stderr
    first, *table, last = page.read_text().splitlines()
    assert (first, last) == ("before", "after")
    rows = {cells[1].strip(): cells for cells in (line.split("|") for line in table if line.startswith("| `"))}
    assert rows.keys() == {"`tte-flash`", "`contrastive-only`", "`direct`"}
    assert "**-.167**" in rows["`contrastive-only`"][8]  # half of one task of three
    assert "**" not in rows["`direct`"][8]
    assert "old" not in page.read_text()


def test_the_time_of_a_run_that_was_resumed_is_not_known(results, tmp_path):
    for arm, seeds in (("direct", (0,)), ("tte-flash", (0, 1))):
        for seed in seeds:
            file = results / f"{arm}-{seed}.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | {"training_cpu_s": None}))
    page = tmp_path / "page.md"
    page.write_text("<!-- table: arms -->\n<!-- end -->\n")
    done = run("report", "--set", f"results_dir={results}", "--document", page)
    assert done.returncode == 0, done.stderr
    assert {row[0]: row[-1] for row in cells_of(page)} == {
        "`tte-flash`": "–",
        "`contrastive-only`": "5",
        "`direct`": "5",
    }


def test_what_there_is_not_is_said(results, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- table: weather -->\n<!-- end -->\n")
    done = run("report", "--set", f"results_dir={results}", "--document", page)
    assert "no table 'weather'" in done.stderr or "a table 'weather'" in done.stderr
    done = run("report", "--set", f"results_dir={tmp_path}/none")
    assert "run studies/thinking/run.py first" in done.stderr


def test_arms_that_were_given_the_same_time_are_set_against_the_one_whose_time_it_is(results, tmp_path):
    for seed in (0, 1):
        record = json.loads((results / f"tte-flash-{seed}.json").read_text()) | {"steps": {"joint": 3}}
        (results / f"tte-flash-same-time-{seed}.json").write_text(json.dumps(record))
    page = tmp_path / "page.md"
    page.write_text("<!-- table: time -->\n<!-- end -->\n")
    arm = "arms.tte-flash-same-time={like: tte-flash, what: fewer steps, set: {stages.0.steps: 3}}"
    done = run("report", "--set", f"results_dir={results}", "--set", arm, "--document", page)
    assert done.returncode == 0, done.stderr
    rows = cells_of(page)
    assert [row[:3] for row in rows] == [["`direct`", "1", "5"], ["`tte-flash`", "3", "5"]]
    assert rows[0][-1] == ""
    assert rows[1][-1].startswith("**+.167**")  # every second query of one task of three
    page.write_text("<!-- table: arms -->\n<!-- end -->\n")
    assert run("report", "--set", f"results_dir={results}", "--set", arm, "--document", page).returncode == 0
    assert [row[0] for row in cells_of(page)] == ["`tte-flash`", "`contrastive-only`", "`direct`"]  # of the same steps


def test_other_splits_and_settings_stand_in_folders_of_the_results(results, tmp_path):
    for folder in ("held-out", "tries/1.0e-3", "tries/2.0e-3"):
        shutil.copytree(results, tmp_path / "copy")
        (results / folder).parent.mkdir(exist_ok=True)
        (tmp_path / "copy").rename(results / folder)
    (results / "held-out/direct-0.json").unlink()
    better = results / "tries/2.0e-3/direct-0.json"
    record = json.loads(better.read_text())
    record["per_query"]["video-retrieval"] = [1.0] * 40
    better.write_text(json.dumps(record))
    (results / "tries/2.0e-3/contrastive-only-0.json").unlink()
    (results / "tries/2.0e-3/contrastive-only-1.json").unlink()
    shutil.copy(results / "direct-0.json", results / "tries/1.0e-3/k1-0.json")
    for file in (results / "tries/2.0e-3/k1-0.json", results / "k1-faster-0.json"):
        shutil.copy(better, file)
    page = tmp_path / "page.md"
    for table, expected in {
        "held-out": [["`tte-flash`", "2", ".167"], ["`contrastive-only`", "2", ".000"], ["`direct`", "1", ".000"]],
        "tries": [
            ["`tte-flash`", "**.167**", "**.167**", "`tte-flash`", "2"],
            ["`contrastive-only`", "**.000**", "–", "`contrastive-only`", "2"],
            ["`direct`", ".000", "**.167**", "–", "–"],  # nothing here was trained at that rate
            ["`k1`", ".000", "**.333**", "`k1-faster`", "1"],
        ],
    }.items():
        page.write_text(f"<!-- table: {table} -->\n<!-- end -->\n")
        done = run("report", "--set", f"results_dir={results}", "--document", page)
        assert done.returncode == 0, done.stderr
        assert [row[: len(expected[0])] for row in cells_of(page)] == expected


def test_pictures_are_drawn_the_same_each_time(results):
    drawn = []
    for _ in range(2):
        done = run("draw", "--set", f"results_dir={results}")
        assert done.returncode == 0, done.stderr
        drawn.append([Path(line).read_bytes() for line in done.stdout.split()])
    assert len(drawn[0]) == 3
    assert drawn[0] == drawn[1]


def test_what_a_query_costs(results, tmp_path):
    for arm in ("direct", "tte-flash"):
        shutil.copytree(model_path("tte-flash-tiny"), tmp_path / f"runs/{arm}-0/model")
    folders = ("--set", f"results_dir={results}", "--set", f"output_dir={tmp_path}/runs")
    done = run("cost", *folders, "--arms", "direct", "tte-flash", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    cost = json.loads((results / "cost.json").read_text())["arms"]
    assert list(cost) == ["direct", "tte-flash"]
    for batch in ("batch-1", "batch-32"):
        assert cost["direct"][batch]["ratio"] == 1
        assert all(arm[batch]["cpu_ms"] > 0 for arm in cost.values())
    page = tmp_path / "page.md"
    page.write_text("<!-- table: cost -->\n<!-- end -->\n")
    done = run("report", *folders, "--document", page)
    assert done.returncode == 0, done.stderr
    assert "| `tte-flash` |" in page.read_text()
    done = run("cost", *folders, "--arms", "telepathy")
    assert "no arm 'telepathy'" in done.stderr


@pytest.mark.slow
def test_the_page_says_what_the_results_say(tmp_path):
    page = tmp_path / "study.md"
    committed = (ROOT / "studies/thinking/README.md").read_text()
    page.write_text(committed)
    done = run("report", "--document", page)
    assert done.returncode == 0, done.stderr
    assert page.read_text() == committed
