"""A collection remembers how its vectors were made, and a query may be encoded in another way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tte_retriever import TTEEncoder
from tte_retriever.errors import InputError
from tte_retriever_qdrant import ingest, open_store, search
from tte_retriever_qdrant.encoder import spec_of
from tte_retriever_qdrant.errors import ModelMismatch
from tte_retriever_qdrant.stores.checks import check_same_model, check_same_spec

MODEL = "tte-flash-tiny"


@pytest.fixture(scope="module")
def encoder():
    return TTEEncoder(MODEL, device="cpu")


@pytest.fixture
def notes(tmp_path):
    (tmp_path / "notes").mkdir()
    for name in ("red", "blue"):
        (tmp_path / "notes" / f"{name}.txt").write_text(f"a {name} circle")
    return tmp_path / "notes"


def test_what_is_written_has_the_budget_and_the_pixel_limit_of_the_collection(notes, encoder):
    short = TTEEncoder(modules=list(encoder), device="cpu", think_budget=2, max_pixels=4096)
    with open_store("memory://") as store:
        ingest(notes, store, short)
        assert (store.spec.think_budget, store.spec.max_pixels) == (2, 4096)
        with pytest.raises(InputError, match=r"think_budget 2, and what would be written has all think tokens"):
            ingest(notes, store, encoder)
        short.max_pixels = 8192
        with pytest.raises(InputError, match="max_pixels 4096, and what would be written has 8192"):
            ingest(notes, store, short)


def test_all_tokens_are_the_same_as_no_budget(encoder):
    full = TTEEncoder(modules=list(encoder), device="cpu", think_budget=encoder.max_budget)
    assert spec_of(full) == spec_of(encoder)


@pytest.mark.parametrize(("own", "used"), [(None, 2), (5, 5)])
def test_a_query_has_its_own_budget_or_that_of_the_collection(notes, encoder, own, used):
    with open_store("memory://") as store:
        ingest(notes, store, TTEEncoder(modules=list(encoder), device="cpu", think_budget=2))
        asking = TTEEncoder(modules=list(encoder), device="cpu", think_budget=own)
        hits = search(store, asking, text="a red square")
        vector = encoder.encode_query([{"text": "a red square"}], think_budget=used)[0]
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in store.search(vector, 10)], abs=1e-6)


def test_an_instruction_is_the_system_message_of_the_query(notes, encoder):
    with open_store("memory://") as store:
        ingest(notes, store, encoder)
        told = search(store, encoder, text="a red square", instruction="find the picture")
        vector = encoder.encode([{"text": "a red square"}], prompt="find the picture")[0]
        assert [hit.score for hit in told] == pytest.approx([hit.score for hit in store.search(vector, 10)], abs=1e-6)
        assert told[0].score != pytest.approx(search(store, encoder, text="a red square")[0].score, abs=1e-6)


def test_another_prompt_of_queries_is_the_same_model_and_gives_the_same_points(notes, encoder):
    asking = TTEEncoder(MODEL, device="cpu", prompts={"query": "find the picture"})
    assert asking.fingerprint != encoder.fingerprint
    with open_store("memory://") as store:
        ingest(notes, store, encoder)
        assert search(store, asking, text="a red circle")[0].uri == "red.txt"
        (notes / "red.txt").write_text("a red circle and more")
        (notes / "green.txt").write_text("a green circle")
        ingest(notes, store, asking)
        before = {point.id: point.vector for point in store.scroll()}
        (notes / "copy.txt").write_text("a yellow circle")
        ingest(notes, store, encoder)
        after = {point.id: point.vector for point in store.scroll()}
        assert len(after) == len(before) + 1
        assert all(np.array_equal(after[key], vector) for key, vector in before.items())


def test_a_prompt_of_documents_is_another_model(notes, encoder):
    told = TTEEncoder(MODEL, device="cpu", prompts={"document": "represent it"})
    with open_store("memory://") as store:
        ingest(notes, store, encoder)
        with pytest.raises(ModelMismatch):
            ingest(notes, store, told)


def test_older_collections_compare_whole_fingerprints(encoder):
    asking = TTEEncoder(MODEL, device="cpu", prompts={"query": "find the picture"})
    older = replace(spec_of(encoder), documents="")
    check_same_spec(older, spec_of(encoder), "the store")
    with pytest.raises(ModelMismatch):
        check_same_model(older, spec_of(asking), "the store")


def test_the_command_line_has_the_options_of_the_store(notes, tmp_path, monkeypatch, capsys):
    from tte_retriever.cli import loading
    from tte_retriever.cli.main import main

    loaded = []
    original = loading.load_encoder
    monkeypatch.setattr(loading, "load_encoder", lambda options: loaded.append(options) or original(options))

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            main([*map(str, arguments), "--store", f"edge://{tmp_path / 'store'}"])
        return caught.value.code or 0, capsys.readouterr()

    assert run("index", notes, "--think-budget", "2", "--device", "cpu")[0] == 0
    assert run("index", notes)[0] == 0
    assert run("search", "a red circle", "--instruction", "find it", "--max-pixels", "4096", "--json")[0] == 0
    assert [(each.think_budget, each.max_pixels) for each in loaded] == [(2, None), (2, None), (None, 4096)]
    code, said = run("index", notes, "--think-budget", "3")
    assert (code, "think_budget 2" in said.err) == (2, True)
