"""The file of results: what is written is read, records are replaced by identity, and processes can share the file."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from studies.thinking.records import ResultsFile, pack, unpack

COMMITTED = ResultsFile(Path(__file__).parents[1] / "results.jsonl")


@pytest.fixture
def file(tmp_path):
    return ResultsFile(tmp_path / "new/results.jsonl")


def a_run(arm, seed, value=0.5, condition=""):
    record = {"record": "run", "condition": condition, "arm": arm, "training_seed": seed}
    return record | {"scores": {"page": [value, 0, 1]}, "per_query": {"page": np.array([value, 0.6309, 1, 0])}}


@given(st.lists(st.integers(0, 10_000), max_size=50))
def test_packing_keeps_four_decimals(numbers):
    assert unpack(pack(np.array(numbers) / 10_000)).tolist() == [number / 10_000 for number in numbers]


def test_what_is_put_is_read(file):
    assert file.read() == []
    kinds = ["full", "partial", "full"]
    tasks = {"record": "tasks", "split": "iid", "seed": 0, "queries": 3, "tasks": [{"name": "page", "kinds": kinds}]}
    rows = [{"family": "page", "n": 3, "within": None}, {"family": "edit", "n": 4, "within": 0.5}]
    probe = {"record": "probe", "condition": "", "arm": "k1", "training_seed": 0, "similarity": rows, "decoding": []}
    file.put(tasks, probe, a_run("k1", 0))
    assert file.find("tasks", split="iid", seed=0, queries=3) == tasks
    assert file.find("probe", condition="", arm="k1", training_seed=0) == probe
    assert file.find("run", condition="", arm="k1", training_seed=0)["per_query"]["page"].tolist() == [
        0.5,
        0.6309,
        1,
        0,
    ]
    assert file.find("run", condition="held-out", arm="k1", training_seed=0) is None


def test_a_record_takes_the_place_of_the_one_with_its_identity(file):
    file.put(a_run("k1", 1), a_run("k1", 0), a_run("direct", 0), a_run("k1", 0, condition="held-out"))
    before = file.path.read_text().splitlines()
    file.put(a_run("k1", 0, value=0.25))
    after = file.path.read_text().splitlines()
    assert len(before) == len(after) == 4
    assert sum(one != other for one, other in zip(before, after, strict=True)) == 1
    assert [(each["condition"], each["arm"], each["training_seed"]) for each in file.read()] == [
        *(("", "direct", 0), ("", "k1", 0), ("", "k1", 1)),
        ("held-out", "k1", 0),
    ]


def test_records_that_are_put_at_the_same_time_are_all_kept(file):
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda seed: ResultsFile(file.path).put(a_run("k1", seed)), range(12)))
    assert [record["training_seed"] for record in file.read()] == list(range(12))


def test_the_committed_file_is_as_it_would_be_written(file):
    file.put(*COMMITTED.read())
    assert file.path.read_bytes() == COMMITTED.path.read_bytes()
    assert file.path.stat().st_size < 700_000
