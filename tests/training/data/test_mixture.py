"""How long each data set of a run is, and what it is called."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from tte_retriever.errors import InputError
from tte_retriever.training.config import DataConfig
from tte_retriever.training.data.mixture import load_data
from tte_retriever.training.data.small_world import small_world


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "pairs.jsonl"
    rows = [{"anchor": f"q{i}", "positive": f"p{i}", "source": ("A.1", "B")[i % 2]} for i in range(10)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + "broken\n")
    return file


@pytest.mark.parametrize(("rows", "fewest", "most"), [(None, 1, 1), (4, 0, 1), (10, 1, 1), (25, 2, 3)])
def test_rows_are_a_weight(path, tmp_path, rows, fewest, most):
    configs = [DataConfig("mine", str(path), rows=rows)]
    loaded, again = (load_data(configs, seed=0, quarantine=tmp_path / "q.jsonl")["mine"] for _ in range(2))
    counts = Counter(loaded["origin"])
    assert len(loaded) == (rows or 10)
    assert {counts[f"{path}:{line}"] for line in range(1, 11)} <= {fewest, most}
    assert loaded["origin"] == again["origin"]
    if rows == 4:
        other = load_data(configs, seed=1, quarantine=tmp_path / "q.jsonl")["mine"]
        assert other["origin"] != loaded["origin"]
    assert len((tmp_path / "q.jsonl").read_text().splitlines()) == 1


def test_sources_become_data_sets_with_names_that_the_trainer_takes(path, tmp_path):
    loaded = load_data([DataConfig("mine", str(path), split=True)], seed=0, quarantine=tmp_path / "q.jsonl")
    assert {name: len(dataset) for name, dataset in loaded.items()} == {"mine-A_1": 5, "mine-B": 5}


@pytest.mark.parametrize("family", ["caption", "edit", "moment"])
def test_the_small_world_is_drawn_the_same_every_time(family):
    dataset = small_world(family, 8, seed=3)
    row, again, other = dataset[5], dataset[[5, 6]], small_world(family, 8, seed=4)[5]
    assert set(row) == {"anchor", "positive", "anchor_rationale", "positive_rationale"}
    for column in ("anchor_rationale", "positive_rationale"):
        assert row[column] == again[column][0]
    assert row["anchor_rationale"] not in (other["anchor_rationale"], dataset[6]["anchor_rationale"])
    if family != "moment":
        assert np.array_equal(np.asarray(row["positive"]["image"]), np.asarray(again["positive"][0]["image"]))
    else:
        assert row["positive"]["video"] == again["positive"][0]["video"]


def test_edits_of_one_picture_stand_together():
    sources = [np.asarray(row["image"]) for row in small_world("edit", 8, seed=0)[:]["anchor"]]
    assert all(np.array_equal(sources[0], source) for source in sources[:4])
    assert not np.array_equal(sources[0], sources[4])


def test_an_unknown_family_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"'captions'.*caption, question"):
        small_world("captions", 8, seed=0)
