"""The training of the bundled model: its data, its loss, and all of its stages with two steps each."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from models.tte_flash_tiny import build
from models.tte_flash_tiny.config import WorldConfig
from models.tte_flash_tiny.data import WorldCollator, mixture
from models.tte_flash_tiny.loss import WorldLoss
from tte_retriever import TTEEncoder
from tte_retriever.errors import InputError
from tte_retriever.small_world import ANSWERS, FAMILIES, draw_pairs
from tte_retriever.training.config_files import read_config_as
from tte_retriever.training.contrastive import distinct_candidates

ROOT = Path(__file__).parents[3]
CONFIG = Path(build.__file__).with_name("config.yaml")
STAGES = ["transcription", "warm-up", "joint", "finish"]
ROWS = 8


@pytest.fixture(scope="module")
def encoder():
    return TTEEncoder("tte-flash-tiny", device="cpu")


@pytest.fixture
def config():
    def read(*overrides):
        return read_config_as(WorldConfig, CONFIG, ["model.backbone=tte-flash-tiny", *overrides])

    return read


@pytest.fixture
def drawn(encoder, config):
    """``drawn(family, stage)`` is a batch as the loss takes it: its columns."""

    def draw(family, stage="joint", first=0, **changed):
        whole = config()
        chosen = replace(next(each for each in whole.stages if each.name == stage), **changed)
        collate = WorldCollator(encoder, whole, chosen, {family: 800})
        batch = collate([{"index": first + row, "dataset_name": family} for row in range(ROWS)])
        names = [name for name in ("anchor", "positive", "negative") if f"{name}_input_ids" in batch]
        return {
            name: {key.removeprefix(f"{name}_"): value for key, value in batch.items() if key.startswith(f"{name}_")}
            for name in names
        }

    return draw


def same(one, two):
    flat = [
        {f"{name} {key}": value.tolist() for key, value in column.items() if torch.is_tensor(value)}
        for columns in (one, two)
        for name, column in columns.items()
    ]
    return flat[: len(one)] == flat[len(one) :]


def test_the_config(config):
    text = CONFIG.read_text()
    assert all(re.search(rf"^{key}:", text, re.MULTILINE) for key in ("output_dir", "seed", "max_steps"))
    stages = config().stages
    assert [stage.name for stage in stages] == STAGES
    assert [stage.contrastive_weight for stage in stages] == [0, 0, 1, 1]
    assert set(stages[-1].mixture) == set(FAMILIES)
    assert all(set(stage.mixture) <= set(FAMILIES) for stage in stages)


def test_families_are_drawn_by_their_shares(config):
    stage = config().stages[0]  # caption and page once, moment twice
    lengths = {name: len(rows) // 48 for name, rows in mixture(config(), stage).items()}
    assert lengths == {"caption": stage.steps // 4, "page": stage.steps // 4, "moment": stage.steps // 2}


def test_a_mixture_of_unknown_families_is_refused(config):
    stage = replace(config().stages[0], mixture={"captions": 1.0})
    with pytest.raises(InputError, match=r"transcription.*'captions'.*'caption'"):
        mixture(config(), stage)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_depends_on_seed_stage_and_row_alone(drawn, family):
    assert same(drawn(family), drawn(family))
    assert not same(drawn(family), drawn(family, stage="finish"))
    assert not same(drawn(family), drawn(family, first=ROWS))


@pytest.mark.parametrize("family", FAMILIES)
def test_false_negatives_are_excluded(encoder, drawn, config, family, monkeypatch):
    pairs = []
    draw = WorldCollator._draw
    monkeypatch.setattr(WorldCollator, "_draw", lambda *a: pairs.extend(draw(*a)) or pairs)
    columns = drawn(family)
    cells = torch.cat([column["content_id"] for name, column in columns.items() if name != "anchor"])
    contents = [pair.content for pair in pairs]
    if "negative" in columns:
        contents += ANSWERS[family] if family in ANSWERS else [pair.shown for pair in pairs[::4]]
    among = distinct_candidates(columns["anchor"]["content_id"], cells, columns["anchor"]["answer_ids"])
    assert len(among.distinct) == len(set(map(repr, contents)))
    for row, pair in enumerate(pairs):
        for column, cell in enumerate(among.distinct.tolist()):
            right = column == among.positives[row]
            assert (contents[cell] == pair.content) == right
            assert among.excluded[row, column] == (pair.accepts(contents[cell]) and not right)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_visual_token_is_trained_on_the_words_of_its_own_cell(encoder, drawn, family):
    """The bundled model names the content of its visual tokens; with the words of other cells the loss is high."""
    loss = WorldLoss(encoder, visual_weight=1.0, contrastive_weight=0, rationale_weight=1)
    columns = drawn(family)
    with torch.no_grad():
        torch.manual_seed(0)
        right = loss([dict(column) for column in columns.values()])["visual"]
        for column in columns.values():
            column["words"] = column["words"].roll(1, 0)
        torch.manual_seed(0)
        wrong = loss(list(columns.values()))["visual"]
    assert right < 1.2
    assert wrong > right + 2


def test_page_queries_name_fewer_facts_as_training_goes_on(encoder, config):
    collate = WorldCollator(encoder, config(), config().stages[2], {})
    said = [np.mean([len(pair.query["text"]) for pair in collate._draw("page", 40, "s", at)]) for at in (0.0, 1.0)]
    assert said[0] > 1.5 * said[1]


def test_a_share_of_batches_has_fewer_think_tokens(encoder, drawn):
    def budgets(**options):
        lengths = set()
        for step in range(6):
            ids = drawn("caption", first=step * ROWS, **options)["anchor"]["input_ids"]
            lengths |= set(torch.isin(ids, torch.tensor(encoder.thought.think_ids)).sum(1).tolist())
        return lengths

    assert budgets(short_budgets=0.0) == {8}
    assert max(budgets(short_budgets=1.0)) < 8


def test_fast_patches_are_the_same_patches(encoder, config):
    items = [pair.positive for pair in draw_pairs("caption", 4, seed=0, split="train")]
    np.testing.assert_allclose(build.load("tte-flash-tiny", config()).encode(items), encoder.encode(items), atol=1e-5)


@pytest.fixture
def trained(config, tmp_path):
    """``trained()`` trains each stage for two steps, unless it is finished, and returns the folder of the model."""
    small = ("per_device_train_batch_size=4", "logging_steps=1", "save_steps=1")
    words = ("max_steps=2", f"output_dir={tmp_path / 'out'}", *(f"trainer.{each}" for each in small))
    return lambda: build.build(config(*words))


@pytest.mark.slow
def test_all_stages_write_a_plain_model_and_a_stopped_run_resumes_with_the_same(trained, encoder, tmp_path):
    result, out = trained(), tmp_path / "out"
    after = SentenceTransformer(str(result), device="cpu").encode(["a big red circle"])
    assert np.isfinite(after).all()
    assert not np.allclose(after, encoder.encode(["a big red circle"]))
    record = json.loads((result / "training.json").read_text())
    assert list(record["cpu_seconds"]) == STAGES
    assert all(seconds > 0 for seconds in record["cpu_seconds"].values())
    assert str(tmp_path) not in json.dumps(record)
    for stage in STAGES:
        log = json.loads((out / stage / "log.json").read_text())
        assert log["global_step"] == 2
        parts = {key.rpartition("_")[2] for key in log["log_history"][0]} & {"contrastive", "rationale", "visual"}
        assert parts == {"rationale", "visual"} | ({"contrastive"} if stage in ("joint", "finish") else set())

    weights = (result / "model.safetensors").read_bytes()
    for lost in (result, out / "finish/model", out / "finish/checkpoint-2"):
        shutil.rmtree(lost)
    again = trained()
    assert (again / "model.safetensors").read_bytes() == weights
    before, after = record["cpu_seconds"], json.loads((again / "training.json").read_text())["cpu_seconds"]
    assert after["joint"] == before["joint"]
    assert after["finish"] > before["finish"]


@pytest.mark.slow
def test_build_and_score(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for words in (
        ["models.tte_flash_tiny.build", CONFIG, "--set", "max_steps=2", "--set", "output_dir=out"],
        ["models.tte_flash_tiny.score", "out/model", "--queries", 8],
    ):
        command = [sys.executable, "-m", *map(str, words)]
        subprocess.run(command, check=True, cwd=tmp_path, env=environment)
    card = (tmp_path / "out/model/README.md").read_text()
    for promised in ("trained on that world and nothing else", "untrained", "chance", "held-out", "CPU minutes"):
        assert promised in card
