from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import uuid
from contextlib import ExitStack

import numpy as np
import pytest

from tte_retriever.errors import InputError
from tte_retriever_qdrant import open_store
from tte_retriever_qdrant.errors import ModelMismatch, StoreError, StoreLocked, StoreNotFound
from tte_retriever_qdrant.records import CollectionSpec, Point

SPEC = CollectionSpec(dim=4, fingerprint="aaaa", model="some-model")


def point(name: str, vector: object, **payload: object) -> Point:
    return Point(str(uuid.uuid5(uuid.NAMESPACE_URL, name)), np.asarray(vector, np.float32), dict(payload))


POINTS = [
    point("a", [1, 0, 0, 0], uri="a.png", modality="image", asset_id="A"),
    point("b", [0.9, 0.1, 0, 0], uri="b.pdf", modality="page", asset_id="B", page=1),
    point("c", [0.5, 0.5, 0, 0], uri="b.pdf", modality="page", asset_id="B", page=2),
    point("d", [0, 1, 0, 0], uri="c.mp4", modality="video", asset_id="C", start_s=0.0, end_s=6.0),
    point("e", [0, 0, 1, 0], uri="c.mp4", modality="video", asset_id="C", start_s=6.0, end_s=7.5),
]
QUERY = np.array([1, 0, 0, 0], np.float32)


class TestContract:
    """What every engine must do; the fixture ``store`` is each of them in turn."""

    @pytest.fixture(autouse=True)
    def _filled(self, store):
        store.ensure(SPEC)
        store.upsert(POINTS)

    def test_best_first_with_cosine_scores(self, store):
        hits = store.search(QUERY * 7, limit=3)
        assert [hit.payload["uri"] for hit in hits] == ["a.png", "b.pdf", "b.pdf"]
        assert [hit.payload.get("page") for hit in hits] == [None, 1, 2]
        np.testing.assert_allclose([hit.score for hit in hits], [1, 0.9 / np.hypot(0.9, 0.1), 0.5**0.5], atol=1e-5)
        assert hits[0].id == POINTS[0].id
        assert hits[0].payload == POINTS[0].payload

    @pytest.mark.parametrize(
        ("filter", "names"),
        [
            ({"modality": "page"}, "bc"),
            ({"modality": ["page", "image"]}, "abc"),
            ({"page": 2}, "c"),
            ({"page": 2.0}, "c"),
            ({"page": [1, 2]}, "bc"),
            ({"start_s": 6.0}, "e"),
            ({"start_s": 6}, "e"),
            ({"end_s": 7.5, "modality": "video"}, "e"),
            ({"end_s": 7.5, "modality": "page"}, ""),
            ({"asset_id": ["A", "C"]}, "ade"),
            ({}, "abcde"),
            (None, "abcde"),
        ],
    )
    def test_filters(self, store, filter, names):
        wanted = {POINTS["abcde".index(name)].id for name in names}
        assert {hit.id for hit in store.search(QUERY, limit=10, filter=filter)} == wanted
        assert store.count(filter) == len(wanted)

    @pytest.mark.parametrize("value", [True, None, [], [True], ["a", 1], float("nan"), {"a": 1}])
    def test_a_filter_that_no_engine_applies_alike_is_refused(self, store, value):
        for call in (lambda f: store.search(QUERY, 3, f), store.count, lambda f: store.delete(filter=f)):
            with pytest.raises((InputError, TypeError)):
                call({"page": value})
        assert store.count() == 5

    def test_same_id_replaces(self, store):
        store.upsert([Point(POINTS[0].id, np.array([0, 0, 0, 1], np.float32), {"uri": "new.png"})])
        assert store.count() == 5
        assert store.search(np.array([0, 0, 0, 1]), limit=1)[0].payload == {"uri": "new.png"}

    @pytest.mark.parametrize(
        ("bad", "said"),
        [
            (point("x", [np.nan, 0, 0, 0], uri="x.png"), "x.png"),
            (point("x", [np.inf, 0, 0, 0]), "infinite"),
            (point("x", [0, 0, 0, 0]), "zeros"),
            (point("x", [1, 0, 0]), r"\(3,\)"),
            (point("x", [[1, 0, 0, 0]]), r"\(1, 4\)"),
            (Point("x.png", np.ones(4, np.float32), {}), "UUID"),
        ],
    )
    def test_bad_points_are_refused_with_their_whole_batch(self, store, bad, said):
        good = point("good", [1, 1, 1, 1])
        with pytest.raises(InputError, match=said):
            store.upsert([good, bad])
        assert store.count() == 5
        assert store.exists([good.id]) == set()

    @pytest.mark.parametrize("query", [[np.nan, 0, 0, 0], [0, 0, 0, 0], [1, 0]])
    def test_bad_queries_are_refused(self, store, query):
        with pytest.raises(InputError, match="query"):
            store.search(np.array(query), limit=1)
        with pytest.raises(InputError, match="1 or more"):
            store.search(QUERY, limit=0)

    def test_exists_and_delete(self, store):
        absent = str(uuid.uuid4())
        assert store.exists([POINTS[0].id, absent]) == {POINTS[0].id}
        store.delete([POINTS[0].id, absent])
        assert store.exists([POINTS[0].id]) == set()
        store.delete(filter={"asset_id": "B"})
        assert store.count() == 2
        store.delete([])
        assert store.count() == 2

    def test_delete_without_saying_what_deletes_nothing(self, store):
        for arguments in ({}, {"filter": {}}, {"ids": [POINTS[0].id], "filter": {"page": 1}}):
            with pytest.raises(InputError, match="exactly one"):
                store.delete(**arguments)
        assert store.count() == 5

    def test_finalize_changes_nothing_that_is_found(self, store):
        before = [hit.id for hit in store.search(QUERY, 5)]
        store.finalize()
        assert [hit.id for hit in store.search(QUERY, 5)] == before

    def test_another_model_is_refused_with_both_fingerprints(self, store):
        store.ensure(CollectionSpec(dim=4, fingerprint="aaaa", model="the same, elsewhere"))
        with pytest.raises(ModelMismatch, match=r"aaaa.*bbbb.*new store") as caught:
            store.ensure(CollectionSpec(dim=4, fingerprint="bbbb"))
        assert caught.value.exit_code == 2
        assert store.spec == SPEC

    def test_after_close(self, store):
        store.close()
        store.close()
        for call in (lambda: store.search(QUERY, 1), store.count, lambda: store.ensure(SPEC)):
            with pytest.raises(StoreError, match="closed"):
                call()


def test_nothing_is_found_before_anything_was_stored(store):
    assert store.spec is None
    with pytest.raises(StoreNotFound, match="index something first"):
        store.search(QUERY, 1)


def test_edge_survives_closing(tmp_path):
    uri = f"edge://{tmp_path}/deep/er"
    with open_store(uri) as store:
        store.ensure(SPEC)
        store.upsert(POINTS)
    with open_store(uri, create=False) as store:
        assert store.spec == SPEC
        assert store.count() == 5
        assert store.search(QUERY, 1)[0].payload == POINTS[0].payload


def test_relative_edge_uri_stays_where_it_was_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_store("edge://here/x") as store:
        monkeypatch.chdir("/")
        store.ensure(SPEC)
    assert (tmp_path / "here" / "x" / "tte-store.json").is_file()


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("edge://", "no directory"),
        ("some/dir", "edge://relative/dir"),
        ("/some/dir", "edge:///absolute/dir"),
        ("ftp://x", "no known kind"),
        ("edge:x", "edge://relative/dir"),
        ("memory://x", "memory:// alone"),
        ("https://host:6333/c", "cannot use yet"),
        ("", "edge://"),
    ],
)
def test_unknown_uris_say_what_is_allowed(uri, said):
    with pytest.raises(InputError, match=said):
        open_store(uri)


def test_missing_store_is_not_made_by_a_reader(tmp_path):
    with pytest.raises(StoreNotFound, match="tte-retriever index"):
        open_store(f"edge://{tmp_path / 'none'}", create=False)
    assert not (tmp_path / "none").exists()


def test_a_folder_with_other_files_is_no_store(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(StoreError, match="holiday"):
        open_store(f"edge://{tmp_path}")
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(StoreError, match="cannot be used"):
        open_store(f"edge://{tmp_path / 'file'}")


def test_interrupted_creation_is_made_good(tmp_path):
    """A process that died before the manifest was there has stored nothing."""
    with open_store(f"edge://{tmp_path}") as store:
        store.ensure(SPEC)
    (tmp_path / "tte-store.json").unlink()
    with open_store(f"edge://{tmp_path}") as store:
        assert store.spec is None
        store.ensure(SPEC)
        store.upsert(POINTS)
        assert store.count() == 5


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"format": 1}', '{"format": 1, "collection": {"x": 1}, "shard": "s"}']
)
def test_broken_manifest(tmp_path, content):
    with open_store(f"edge://{tmp_path}") as store:
        store.ensure(SPEC)
    (tmp_path / "tte-store.json").write_text(content)
    with pytest.raises(StoreError, match="broken"):
        open_store(f"edge://{tmp_path}")


def test_manifest_of_a_newer_version(tmp_path):
    with open_store(f"edge://{tmp_path}") as store:
        store.ensure(SPEC)
    manifest = tmp_path / "tte-store.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 99}))
    with pytest.raises(StoreError, match="newer version"):
        open_store(f"edge://{tmp_path}")


def test_broken_engine_files_are_a_store_error(tmp_path):
    with open_store(f"edge://{tmp_path}") as store:
        store.ensure(SPEC)
    (config,) = tmp_path.glob("shards/*/edge_config.json")
    config.write_text("rubbish")
    with pytest.raises(StoreError, match="failed"):
        open_store(f"edge://{tmp_path}")
    # and the failed attempt has let go of the lock
    with pytest.raises(StoreError, match="failed"):
        open_store(f"edge://{tmp_path}")


HOLDER = """
    import sys
    from tte_retriever_qdrant import open_store
    with open_store(sys.argv[1]):
        print("open", flush=True)
        sys.stdin.readline()
"""


def test_store_of_another_process_is_locked_until_that_ends(tmp_path):
    uri = f"edge://{tmp_path}"
    with open_store(uri) as store:
        store.ensure(SPEC)
    with ExitStack() as stack:
        holder = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(HOLDER), uri],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        stack.callback(holder.kill)
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(StoreLocked, match=str(tmp_path)) as caught:
            open_store(uri)
        assert "wait for it to end or stop it" in str(caught.value)
        holder.kill()
        holder.wait()
    with open_store(uri) as store:
        assert store.spec == SPEC


def test_engine_lock_is_a_store_locked_error(tmp_path):
    """Another program may use the engine's files without knowing of our lock."""
    import qdrant_edge

    with open_store(f"edge://{tmp_path}") as store:
        store.ensure(SPEC)
    (shard,) = (tmp_path / "shards").iterdir()
    other = qdrant_edge.EdgeShard.load(str(shard))
    try:
        with pytest.raises(StoreLocked, match="in use"):
            open_store(f"edge://{tmp_path}")
    finally:
        other.close()


def test_acknowledged_points_survive_kill(tmp_path):
    program = """
        import os, signal, sys, uuid
        import numpy as np
        from tte_retriever_qdrant import open_store
        from tte_retriever_qdrant.records import CollectionSpec, Point
        store = open_store(sys.argv[1])
        store.ensure(CollectionSpec(4, "aaaa"))
        for i in range(30):
            store.upsert([Point(str(uuid.UUID(int=i)), np.array([1, i, 0, 0], np.float32), {"page": i})])
        os.kill(os.getpid(), signal.SIGKILL)
    """
    uri = f"edge://{tmp_path}"
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program), uri], timeout=60, check=False)
    assert done.returncode == -9
    with open_store(uri) as store:
        assert store.count() == 30
        assert store.count({"page": 29}) == 1
