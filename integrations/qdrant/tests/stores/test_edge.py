from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import threading
import uuid
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest

from tte_retriever.errors import InputError
from tte_retriever_qdrant import open_store
from tte_retriever_qdrant.errors import StoreError, StoreLocked, StoreNotFound
from tte_retriever_qdrant.records import CollectionSpec, Point
from tte_retriever_qdrant.stores import directory, open_generation, open_generations, shards, updating

SPEC = CollectionSpec(dim=4, fingerprint="aaaa", model="some-model")
OTHER = CollectionSpec(dim=3, fingerprint="bbbb", model="another-model")
QUERY = np.array([1, 0, 0, 0], np.float32)


def point(name: str, vector: object, **payload: object) -> Point:
    return Point(str(uuid.uuid5(uuid.NAMESPACE_URL, name)), np.asarray(vector, np.float32), dict(payload))


POINTS = [point(name, vector, uri=f"{name}.png") for name, vector in zip("abcde", np.eye(5, 4) + 0.1, strict=True)]


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


def test_missing_store_is_not_made_by_a_reader(tmp_path):
    with pytest.raises(StoreNotFound, match="tte-retriever index"):
        open_store(f"edge://{tmp_path / 'none'}", create=False)
    assert not (tmp_path / "none").exists()


def test_a_folder_with_other_files_is_no_store(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(StoreError, match="holiday"):
        open_store(f"edge://{tmp_path}")
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]
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
    "content", ["{", "[]", '{"format": 2}', '{"format": 2, "current": {"x": 1}, "previous": null, "next": null}']
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
    (config,) = tmp_path.glob("generations/*/*/edge_config.json")
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
    (shard,) = tmp_path.glob("generations/*/shard-*")
    other = qdrant_edge.EdgeShard.load(str(shard))
    try:
        with pytest.raises(StoreLocked, match="in use"):
            open_store(f"edge://{tmp_path}")
    finally:
        other.close()


@pytest.mark.slow
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


# generations and the index


FILLER = """
    import sys, uuid
    import numpy as np
    from tte_retriever_qdrant.records import CollectionSpec, Point
    from tte_retriever_qdrant.stores import open_generation
    with open_generation(sys.argv[1], CollectionSpec(3, "bbbb")) as new:
        new.upsert([Point(str(uuid.UUID(int=i)), np.ones(3), {}) for i in range(8)])
        print("filled", flush=True)
        if sys.stdin.readline() == "commit\\n":
            new.commit()
            print("committed", flush=True)
"""


@contextmanager
def other_process(script, folder, says):
    """Another process, which has begun to change a store in ``folder`` and waits before it is done."""
    with open_store(f"edge://{folder}") as store:
        store.ensure(SPEC)
        store.upsert(POINTS)
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), f"edge://{folder}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == says
        yield process
        process.kill()


@pytest.fixture
def filler(tmp_path):
    """It has filled the next generation, and commits it if told to."""
    with other_process(FILLER, tmp_path, "filled\n") as process:
        yield process


def test_a_reader_gets_the_last_complete_generation(tmp_path, filler):
    uri = f"edge://{tmp_path}"
    with open_store(uri, create=False) as store:
        assert (store.spec, store.count()) == (SPEC, 5)
        with pytest.raises(StoreLocked):
            store.begin_generation(CollectionSpec(3, "bbbb"))
        with pytest.raises(StoreLocked):
            store.begin_generation(CollectionSpec(3, "cccc"))
    filler.kill()
    filler.wait()
    with open_store(uri, create=False) as store:
        assert store.count() == 5
        with store.begin_generation(CollectionSpec(3, "bbbb")) as resumed:
            assert resumed.count() == 8


def test_another_process_commits_while_this_one_serves(tmp_path, filler):
    uri = f"edge://{tmp_path}"
    with open_store(uri) as store:
        filler.stdin.write("commit\n")
        filler.stdin.flush()
        assert filler.stdout.readline() == "committed\n"
        filler.wait()
        assert len(store.search(QUERY, 10)) == 5
        with open_store(uri) as new:
            assert new.count() == 8
    with open_store(uri) as store:
        assert store.count() == 8


@pytest.mark.slow
def test_a_generation_in_use_is_not_removed(tmp_path):
    uri = f"edge://{tmp_path}"
    with open_store(uri) as first:
        first.ensure(SPEC)
        first.upsert(POINTS)
        for _ in range(2):
            with open_generation(uri, OTHER) as new:
                new.commit()
        assert first.search(QUERY, 1)[0].payload == POINTS[0].payload
        assert len(list(tmp_path.glob("generations/*/shard-*"))) == 3
    with open_generation(uri, OTHER) as new:
        new.commit()
    assert len(list(tmp_path.glob("generations/*/shard-*"))) == 2
    assert len(list(tmp_path.glob("generations/*.lock"))) == 3  # and that of the store when it was empty


def test_a_reader_does_not_see_a_store_before_its_first_commit(tmp_path):
    uri = f"edge://{tmp_path}"
    with open_generation(uri, SPEC) as new:
        new.upsert(POINTS)
        for _ in range(2):  # the failed attempt lets go of the lock
            with pytest.raises(StoreNotFound):
                open_store(uri, create=False)
        new.commit()
    with open_store(uri, create=False) as store:
        assert store.count() == 5


UPDATER = """
    import sys, uuid
    import numpy as np
    from tte_retriever_qdrant.records import CollectionSpec, Point
    from tte_retriever_qdrant.stores import updating
    with updating(sys.argv[1], CollectionSpec(4, "aaaa")) as store:
        store.upsert([Point(str(uuid.UUID(int=i)), np.ones(4), {}) for i in range(8)])
        (store.state_dir / "ledger").write_text("half")
        print("written", flush=True)
        sys.stdin.readline()
"""


@pytest.fixture
def updater(tmp_path):
    """It has brought the store up to date, but for the end."""
    with other_process(UPDATER, tmp_path, "written\n") as process:
        yield process


@pytest.mark.slow
def test_readers_have_the_last_complete_state_while_another_process_writes(tmp_path, updater):
    uri = f"edge://{tmp_path}"
    for _ in range(2):  # readers come and go
        with open_store(uri, create=False) as reader:
            assert (reader.spec, reader.count()) == (SPEC, 5)
            assert reader.search(QUERY, 1)[0].payload == POINTS[0].payload
            with pytest.raises(StoreLocked):  # neither in place, nor in a second copy
                reader.upsert(POINTS)
        with pytest.raises(StoreLocked), updating(uri, SPEC):
            pass
    with open_store(uri, create=False) as reader:
        updater.communicate("\n", timeout=30)
        assert updater.returncode == 0
        assert reader.count() == 5
        with open_store(uri, create=False) as late:
            assert late.count() == 13
            assert (late.state_dir / "ledger").read_text() == "half"
    with open_generations(uri) as generations:
        assert [each.role for each in generations.listed()] == ["current"]


@pytest.mark.slow
def test_an_update_that_was_killed_is_taken_up_again(tmp_path, updater):
    uri = f"edge://{tmp_path}"
    updater.kill()
    updater.wait()
    with open_store(uri, create=False) as reader:
        assert reader.count() == 5
    with updating(uri, SPEC) as store:
        assert store.count() == 13
    with open_store(uri, create=False) as reader:
        assert reader.count() == 13
    assert len(list(tmp_path.glob("generations/*/shard-*"))) == 1


@pytest.mark.slow
def test_an_update_is_dropped_when_its_original_changes(tmp_path, updater):
    """Otherwise what was written to the original would be lost with the update's commit."""
    uri = f"edge://{tmp_path}"
    updater.kill()
    updater.wait()
    with open_store(uri) as store:
        store.delete([POINTS[0].id])
    with updating(uri, SPEC) as store:
        assert store.count() == 4
    with open_store(uri) as store:
        assert store.count() == 4


@pytest.mark.slow
def test_an_update_leaves_the_generation_to_go_back_to(tmp_path):
    uri = f"edge://{tmp_path}"
    with open_store(uri) as store:
        store.ensure(OTHER)
    with open_generation(uri, SPEC) as new:
        new.upsert(POINTS)
        new.commit()
    for _ in range(2):
        with updating(uri, SPEC) as store:
            store.delete([POINTS[0].id])
    with open_store(uri) as store:
        assert (store.spec, store.count()) == (SPEC, 4)
        store.rollback()
    with open_store(uri) as store:
        assert store.spec == OTHER


def test_a_failed_update_changes_nothing(tmp_path):
    uri = f"edge://{tmp_path}"
    with updating(uri, SPEC) as store:
        store.ensure(SPEC)
        store.upsert(POINTS)

    def fail():
        with updating(uri, SPEC) as store:
            store.delete([POINTS[0].id])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with open_store(uri) as store:
        assert store.count() == 5


@pytest.mark.slow
def test_a_reader_waits_while_the_generation_is_copied(tmp_path, monkeypatch):
    uri = f"edge://{tmp_path}"
    with updating(uri, SPEC) as store:
        store.ensure(SPEC)
        store.upsert(POINTS)
    copying, asked, counts = threading.Event(), threading.Event(), []
    copytree = directory.shutil.copytree

    def copy(*arguments):
        copying.set()
        assert asked.wait(30)
        return copytree(*arguments)

    lock = directory.Directory.lock

    def refused(self, name, **patience):
        try:
            return lock(self, name, **patience)
        except StoreLocked:
            asked.set()
            raise

    def read():
        with open_store(uri, create=False) as reader:
            counts.append(reader.count())

    monkeypatch.setattr(directory.shutil, "copytree", copy)
    monkeypatch.setattr(directory.Directory, "lock", refused)
    reading = threading.Thread(target=lambda: copying.wait(30) and read())
    reading.start()
    with updating(uri, SPEC) as store:
        store.delete([POINTS[0].id])
        reading.join(30)
    assert counts == [5]


@pytest.fixture
def planned(tmp_path):
    """A store of five points, and the same opened to be brought up to date; nothing is written or asked for yet."""
    uri = f"edge://{tmp_path}"
    with updating(uri, SPEC) as store:
        store.ensure(SPEC)
        store.upsert(POINTS)
    with updating(uri, SPEC) as store:
        yield uri, store


def test_an_update_that_touches_no_point_copies_nothing(tmp_path, planned):
    _, store = planned
    before = sorted(tmp_path.glob("generations/*/*"))
    store.ensure(SPEC)
    (store.state_dir / "ledger").write_text("whole")
    assert store.spec == SPEC
    assert sorted(tmp_path.glob("generations/*/*")) == sorted([*before, store.state_dir / "ledger"])
    store.begin_update()
    assert (store.state_dir / "ledger").read_text() == "whole"
    assert len(list(tmp_path.glob("generations/*/shard-*"))) == 2


@pytest.mark.slow
def test_an_update_keeps_others_from_writing_before_there_is_a_copy(planned):
    uri, store = planned
    for _ in range(2):
        with pytest.raises(StoreLocked), updating(uri, SPEC):
            pass
        with open_store(uri, create=False) as reader:
            assert reader.count() == 5
            with pytest.raises(StoreLocked):
                reader.upsert(POINTS)
    store.delete([POINTS[0].id])
    with open_store(uri, create=False) as reader:
        assert (reader.count(), store.count()) == (5, 4)


@pytest.mark.slow
def test_the_copy_waits_for_a_reader(planned):
    uri, store = planned
    with open_store(uri, create=False) as reader:
        deleting = threading.Thread(target=lambda: store.delete([POINTS[0].id]))
        deleting.start()
        deleting.join(0.3)
        assert deleting.is_alive()
        assert reader.count() == 5
    deleting.join(30)
    assert store.count() == 4


@pytest.mark.slow
def test_a_reader_that_stays_is_in_the_way_of_the_copy(planned, monkeypatch):
    monkeypatch.setattr(directory, "_PATIENCE_S", 0.1)
    uri, store = planned
    with open_store(uri, create=False) as reader:
        with pytest.raises(StoreLocked):
            store.delete([POINTS[0].id])
        assert reader.count() == 5
    store.delete([POINTS[0].id])
    assert store.count() == 4


def test_what_was_replaced_meanwhile_is_not_brought_up_to_date(planned):
    uri, store = planned
    with open_generation(uri, OTHER) as new:
        new.commit()
    with pytest.raises(StoreError, match="changed by another process"):
        store.upsert(POINTS)


def test_a_store_that_is_open_elsewhere_is_not_copied(tmp_path):
    uri = f"edge://{tmp_path}"
    with updating(uri, SPEC) as store:
        for _ in range(2):
            with pytest.raises(StoreLocked), updating(uri, SPEC):
                pass
            store.ensure(SPEC)
    with open_store(uri), pytest.raises(StoreLocked), updating(uri, SPEC):
        pass
    assert len(list(tmp_path.glob("generations/*/shard-*"))) == 1


@pytest.mark.slow
def test_an_empty_store_is_locked_too(tmp_path):
    with open_store(f"edge://{tmp_path}") as store:
        with pytest.raises(StoreLocked):
            open_store(f"edge://{tmp_path}")
        store.ensure(SPEC)
        with pytest.raises(StoreLocked):
            open_store(f"edge://{tmp_path}")
    with open_store(f"edge://{tmp_path}") as store:
        assert store.spec == SPEC


def test_memory_has_no_generation_from_outside():
    with pytest.raises(InputError, match="begin_generation"):
        open_generation("memory://", SPEC)


@pytest.fixture
def index_early(monkeypatch):
    """Index from a thousand points on: a real index, built by a real child process, of less to build."""
    monkeypatch.setattr(shards, "QUANTIZE_FROM", 1_000)


def many(n: int, dim: int = 16) -> list[Point]:
    vectors = np.random.default_rng(0).normal(size=(n, dim)).astype(np.float32)
    return [Point(str(uuid.UUID(int=i)), vector, {"page": i}) for i, vector in enumerate(vectors)]


@pytest.mark.slow
def test_searches_and_writes_go_on_while_the_index_is_built(tmp_path, monkeypatch, index_early):
    points = many(1_200)
    done, failures, during = threading.Event(), [], []
    build = shards.subprocess.run

    def run(*args, **kwargs):
        """Holds the child's end back until searches were answered and a write has been asked for."""
        result = build(*args, **kwargs)
        assert answered.wait(30)
        return result

    monkeypatch.setattr(shards.subprocess, "run", run)
    answered = threading.Event()
    with open_store(f"edge://{tmp_path}") as store:
        store.ensure(CollectionSpec(16, "aaaa"))
        store.upsert(points)

        def ask():
            while not done.is_set():
                try:
                    during.append(store.search(points[len(during) % 500].vector, 1)[0].payload["page"])
                except Exception as error:
                    failures.append(error)
                    return
                if len(during) > 20:
                    answered.set()

        asker = threading.Thread(target=ask)
        asker.start()
        writer = threading.Timer(0.05, lambda: store.upsert([Point(points[0].id, points[0].vector, {"page": -1})]))
        writer.start()
        store.finalize()
        writer.join()
        done.set()
        asker.join()
        assert not failures
        assert len(during) > 20
        assert store.search(points[0].vector, 1)[0].payload == {"page": -1}
        assert store.count() == 1_200
        assert len(list(tmp_path.glob("generations/*/shard-*"))) == 1
    with open_store(f"edge://{tmp_path}") as store:
        assert store.count() == 1_200
        assert store.count({"page": -1}) == 1


@pytest.mark.slow
def test_an_index_that_cannot_be_built_loses_nothing(tmp_path, monkeypatch, index_early):
    points = many(1_000)
    with open_store(f"edge://{tmp_path}") as store:
        store.ensure(CollectionSpec(16, "aaaa"))
        store.upsert(points)
        monkeypatch.setattr(shards.sys, "executable", "/bin/false")
        with pytest.raises(StoreError, match="nothing is lost"):
            store.finalize()
        assert store.count() == 1_000
        assert len(list(tmp_path.glob("generations/*/shard-*"))) == 1


@pytest.mark.slow
def test_the_index_is_built_once(tmp_path, index_early):
    with open_store(f"edge://{tmp_path}") as store:
        store.ensure(CollectionSpec(16, "aaaa"))
        store.upsert(many(999))
        shard = sorted(tmp_path.glob("generations/*/shard-*"))
        store.finalize()
        assert sorted(tmp_path.glob("generations/*/shard-*")) == shard
        store.upsert(many(1_100))
        store.finalize()
        indexed = sorted(tmp_path.glob("generations/*/shard-*"))
        assert indexed != shard
        assert list(indexed[0].rglob("quantized*"))
        store.finalize()
        assert sorted(tmp_path.glob("generations/*/shard-*")) == indexed


def test_what_a_killed_index_build_left_is_removed(tmp_path):
    with open_store(f"edge://{tmp_path}") as store:
        store.ensure(SPEC)
        left = store.state_dir / "shard-half"
        left.mkdir()
    with open_store(f"edge://{tmp_path}") as store:
        assert not left.exists()
        assert store.count() == 0
