from __future__ import annotations

import json

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from tte_retriever.cli import loading
from tte_retriever_qdrant import ingest, open_store
from tte_retriever_qdrant.cli.doctor import doctor
from tte_retriever_qdrant.doctor import examine
from tte_retriever_qdrant.stores.edge import EdgeStore

pytestmark = pytest.mark.usefixtures("decode_here")


@pytest.fixture
def uri(tmp_path, small_folder, standin):
    """A store of the model named standin-1."""
    uri = f"edge://{tmp_path / 'store'}"
    with open_store(uri) as store:
        ingest(small_folder, store, standin(), model_name="standin-1")
    return uri


@pytest.fixture
def wrong(uri, standin):
    """A function that examines the store and returns what is wrong with it, by name."""
    return lambda **arguments: {
        finding.name: finding.detail for finding in examine(uri, standin, **arguments) if not finding.ok
    }


def test_all_is_well(uri, standin):
    findings = list(examine(uri, standin))
    assert [(finding.name, finding.ok) for finding in findings] == [
        ("environment", True),
        ("store", True),
        ("model", True),
        ("recall", True),
    ]
    assert "9 points" in findings[1].detail
    assert "fingerprint standin-1" in findings[2].detail
    assert findings[3].detail.startswith("1.000 ")


def test_another_model(wrong):
    assert list(wrong(model="other")) == ["model"]
    assert "standin-1" in wrong(model="other")["model"]
    assert "fingerprint other" in wrong(model="other")["model"]


def test_a_model_that_fails(uri, standin, monkeypatch, wrong):
    monkeypatch.setattr(standin, "encode_query", lambda self, inputs, **_: np.full((1, 112), np.nan))
    assert "NaN" in wrong()["model"]


def test_no_store(tmp_path, standin):
    *_, last = examine(f"edge://{tmp_path / 'none'}", standin)
    assert (last.name, last.ok) == ("store", False)
    assert "no store" in last.detail
    assert not (tmp_path / "none").exists()


def test_a_store_in_use(uri, wrong):
    with open_store(uri):
        assert "in use" in wrong()["store"]


def test_an_emptied_store(uri, wrong):
    with open_store(uri) as store:
        store.delete([hit.id for hit in store.search(store.sample(1)[0], 100)])
    assert list(wrong()) == ["store"]
    assert "index something" in wrong()["store"]


def test_an_index_that_misses_points(wrong, monkeypatch):
    search = EdgeStore.query_batch

    def misses_the_best(self, vectors, limit, filter=None, *, exact=False):
        answers = search(self, vectors, limit + 1, filter, exact=exact)
        return [answer[:limit] if exact else answer[1:] for answer in answers]

    monkeypatch.setattr(EdgeStore, "query_batch", misses_the_best)
    assert "new generation" in wrong()["recall"]


def test_on_the_command_line(uri, standin, monkeypatch):
    app = typer.Typer()
    app.command()(doctor)
    monkeypatch.setattr(loading, "load_encoder", lambda options: standin(options.model))
    result = CliRunner().invoke(app, ["--store", uri, "--json"])
    assert result.exit_code == 0
    assert [json.loads(line)["name"] for line in result.output.splitlines()] == [
        "environment",
        "store",
        "model",
        "recall",
    ]
    result = CliRunner().invoke(app, ["--store", uri, "--model", "other"])
    assert result.exit_code == 1
    assert "WRONG model: the store holds vectors of the model standin-1" in " ".join(result.output.split())
