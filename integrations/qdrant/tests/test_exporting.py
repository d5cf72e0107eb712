from __future__ import annotations

import json
import sys
import uuid

import numpy as np
import pyarrow.dataset
import pytest
from pyarrow import parquet

from tte_retriever.cli.main import main
from tte_retriever.errors import InputError
from tte_retriever_qdrant import exporting, ingest, open_store
from tte_retriever_qdrant.errors import StoreError, StoreNotFound
from tte_retriever_qdrant.exporting import export_parquet
from tte_retriever_qdrant.records import CollectionSpec, Point

pytestmark = pytest.mark.usefixtures("decode_here")


def test_every_point_with_its_payload_and_vector(small_folder, tmp_path, store, encoder, contents):
    (small_folder / "long.md").write_text("stripes and hooves, " * 300, encoding="utf-8")
    ingest(small_folder, store, encoder, model_name="some-model")
    out = tmp_path / "points.parquet"
    assert export_parquet(store, out) == store.count()

    table = parquet.read_table(out)
    directions = [np.linspace(1, 2, store.spec.dim), np.linspace(-1, 3, store.spec.dim)]
    expected = contents(store)
    assert sorted(table["id"].to_pylist()) == sorted(expected)
    for row in table.to_pylist():
        payload, *scores = expected[row["id"]]
        columns = {key: value for key, value in row.items() if key not in ("id", "vector") and value is not None}
        assert columns == payload
        vector = np.array(row["vector"])
        assert [vector @ each / np.linalg.norm(each) for each in directions] == pytest.approx(scores, abs=2e-5)
    assert {b"model": b"some-model", b"fingerprint": b"standin-1"}.items() <= table.schema.metadata.items()
    pages = pyarrow.dataset.dataset(out).to_table(filter=pyarrow.dataset.field("page") >= 2)
    assert set(pages["uri"].to_pylist()) == {"doc.pdf"}
    assert [path.name for path in tmp_path.glob("points*")] == ["points.parquet"]


def test_group_by_group_so_that_memory_does_not_grow(tmp_path, store, monkeypatch):
    store.ensure(CollectionSpec(4, "aaaa"))
    vectors = np.random.default_rng(0).normal(size=(1000, 4)).astype(np.float32)
    store.upsert([Point(str(uuid.UUID(int=i)), vectors[i], {"uri": str(i)}) for i in range(1000)])
    monkeypatch.setattr(exporting, "_GROUP_BYTES", 300 * 4 * 4)
    assert export_parquet(store, tmp_path / "out") == 1000
    file = parquet.ParquetFile(tmp_path / "out")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [300, 300, 300, 100]
    assert len(set(file.read()["uri"].to_pylist())) == 1000


def test_payloads_of_others_are_kept(tmp_path, store):
    store.ensure(CollectionSpec(2, "aaaa"))
    store.upsert([Point(str(uuid.uuid4()), np.ones(2, np.float32), {"uri": "a", "tags": ["ü", {"deep": 1}]})])
    export_parquet(store, tmp_path / "out")
    (row,) = parquet.read_table(tmp_path / "out").to_pylist()
    assert (row["uri"], row["page"], json.loads(row["other"])) == ("a", None, {"tags": ["ü", {"deep": 1}]})


def test_what_cannot_be_exported(tmp_path, store, monkeypatch):
    with pytest.raises(StoreNotFound, match="nothing yet"):
        export_parquet(store, tmp_path / "out")
    store.ensure(CollectionSpec(2, "aaaa"))
    assert export_parquet(store, tmp_path / "empty") == 0
    assert parquet.read_table(tmp_path / "empty").num_rows == 0
    (tmp_path / "mine").write_text("precious")
    for out, said in ((tmp_path / "mine", "exists"), (tmp_path / "none" / "out", "folder that does not")):
        with pytest.raises(InputError, match=said):
            export_parquet(store, out)
    assert (tmp_path / "mine").read_text() == "precious"

    def fails():
        yield Point(str(uuid.uuid4()), np.ones(2, np.float32), {})
        raise StoreError("of the engine")

    monkeypatch.setattr(store, "scroll", fails)
    with pytest.raises(StoreError, match="of the engine"):
        export_parquet(store, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))  # nothing that looks like an export


def test_the_command(small_folder, tmp_path, encoder, capsys, monkeypatch):
    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            main(["export", *map(str, arguments)])
        return caught.value.code or 0, *capsys.readouterr()

    uri, out = f"edge://{tmp_path}/store", tmp_path / "points.parquet"
    code, _, err = run("--store", uri, "--parquet", out)
    assert (code, "there is no store" in err) == (2, True)
    assert not (tmp_path / "store").exists()
    with open_store(uri) as store:
        ingest(small_folder, store, encoder)
    assert run("--store", uri, "--parquet", out) == (0, f"9 points of {uri} are in {out}\n", "")
    assert parquet.read_table(out).num_rows == 9
    monkeypatch.delitem(sys.modules, "tte_retriever_qdrant.exporting")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, _, err = run("--store", uri, "--parquet", tmp_path / "other")
    assert (code, "tte-retriever-qdrant[parquet]" in err) == (2, True)
