"""Re-embedding, which every engine does in the same steps."""

from __future__ import annotations

import uuid

import numpy as np
import pytest

from tte_retriever.errors import InputError
from tte_retriever_qdrant import ingest, open_store, search
from tte_retriever_qdrant.errors import ModelMismatch, StoreError, StoreNotFound
from tte_retriever_qdrant.records import CollectionSpec, Point
from tte_retriever_qdrant.stores import open_generations, updating

pytestmark = pytest.mark.usefixtures("decode_here")
OLD = CollectionSpec(dim=4, fingerprint="aaaa", model="old-model")
NEW = CollectionSpec(dim=3, fingerprint="bbbb", model="new-model")


def points(spec, n):
    return [
        Point(str(uuid.UUID(int=i)), np.eye(spec.dim)[i % spec.dim] + 0.1, {"uri": f"{i}", "modality": spec.model})
        for i in range(n)
    ]


@pytest.fixture
def filled(store):
    store.ensure(OLD)
    store.upsert(points(OLD, 3))
    return store


@pytest.fixture
def reopen(uri, store):
    """Open the store again as another process would; one in memory has no other process, one on disk a lock."""
    opened = []

    def again():
        if uri == "memory://":
            return type(store)(store._connection, store._connection.name)
        store.close()
        opened.append(open_store(uri))
        return opened[-1]

    yield again
    for each in opened:
        each.close()


def test_the_next_generation_is_filled_unseen_and_swapped_in(filled, reopen):
    with filled.begin_generation(NEW) as new:
        assert (new.spec, new.count()) == (NEW, 0)
        new.upsert(points(NEW, 7))
        assert (filled.spec, filled.count()) == (OLD, 3)
        assert new.state_dir != filled.state_dir
        new.commit()
        assert (new.spec, new.count()) == (NEW, 7)
        # Who has the store open stays with the model that it was opened for.
        assert len(filled.search(np.ones(4), 10)) == 3
    after = reopen()
    assert (after.spec, after.count()) == (NEW, 7)
    assert {hit.payload["modality"] for hit in after.search(np.ones(3), 10)} == {"new-model"}


def test_rollback_and_back_again(filled, reopen):
    with filled.begin_generation(NEW) as new:
        new.upsert(points(NEW, 7))
        new.commit()
    filled.rollback()
    store = reopen()
    assert (store.spec, store.count()) == (OLD, 3)
    store.rollback()
    store.close()
    assert reopen().count() == 7


def test_a_rollback_keeps_what_is_being_filled(filled):
    with filled.begin_generation(NEW) as new:
        new.commit()
    with filled.begin_generation(NEW) as new:
        new.upsert(points(NEW, 5))
        filled.rollback()
    with filled.begin_generation(NEW) as new:
        assert new.count() == 5


def test_an_interrupted_one_is_resumed(filled):
    with filled.begin_generation(NEW) as new:
        new.upsert(points(NEW, 2))
        (new.state_dir / "ledger").write_text("half")
    with filled.begin_generation(NEW) as new:
        assert new.count() == 2
        assert (new.state_dir / "ledger").read_text() == "half"


def test_one_for_another_model_is_dropped(filled):
    with filled.begin_generation(NEW) as new:
        new.upsert(points(NEW, 2))
        (new.state_dir / "ledger").write_text("half")
        folder = new.state_dir
    third = CollectionSpec(3, "cccc")
    with filled.begin_generation(third) as new:
        assert (new.spec, new.count()) == (third, 0)
    assert not (folder / "ledger").exists()
    assert filled.count() == 3


def test_only_the_generation_before_is_kept(filled, reopen):
    folders = [filled.state_dir]
    for n in (1, 2):
        with filled.begin_generation(NEW) as new:
            new.upsert(points(NEW, n))
            folders.append(new.state_dir)
            new.commit()
    store = reopen()
    assert store.count() == 2
    store.rollback()
    store.close()
    store = reopen()
    assert store.count() == 1
    with store.begin_generation(OLD) as new:
        new.commit()
    assert [folder.exists() for folder in folders] == [False, True, False]


def test_what_cannot_be_committed_or_rolled_back(filled):
    with pytest.raises(InputError, match="not the next generation"):
        filled.commit()
    with pytest.raises(InputError, match="no generation to go back to"):
        filled.rollback()
    with filled.begin_generation(NEW) as new:
        new.commit()
        with pytest.raises(InputError, match="not the next generation"):
            new.commit()
    new.close()
    for call in (new.commit, new.rollback, lambda: new.begin_generation(OLD)):
        with pytest.raises(StoreError, match="closed"):
            call()


def test_a_first_generation_can_be_filled_before_it_is_seen(store, reopen):
    with store.begin_generation(NEW) as new:
        new.upsert(points(NEW, 4))
        assert store.spec is None
        with pytest.raises(StoreNotFound):
            store.count()
        new.commit()
    assert reopen().count() == 4


def test_re_embedding_a_folder(small_folder, store, standin, reopen):
    """The whole of it, as a user has it: the ledger goes with the vectors, so all is embedded anew, and back again."""
    old, new = standin("old"), standin("new")
    ingest(small_folder, store, old, model_name="old")
    with pytest.raises(ModelMismatch, match=r"old.*new.*new generation"):
        ingest(small_folder, store, new, model_name="new")
    with store.begin_generation(CollectionSpec(new.get_embedding_dimension(), "new", "new")) as generation:
        report = ingest(small_folder, generation, new, model_name="new")
        assert (report.indexed, report.points) == (5, 9)
        assert len(new.encoded) == 9
        generation.commit()
    after = reopen()
    assert search(after, new, text="zebra", top_k=1)[0].uri == "notes.md"
    assert ingest(small_folder, after, new).unchanged == 5
    with pytest.raises(ModelMismatch):
        search(after, old, text="zebra")
    after.rollback()
    after.close()
    assert ingest(small_folder, reopen(), old).unchanged == 5


# from outside, by URI


@pytest.fixture
def outside(uri):
    """A function that does something with the generations of the store, opened by nobody."""
    if uri == "memory://":
        pytest.skip("one in memory has no generations for others")

    def call(name="listed", *arguments):
        with open_generations(uri) as generations:
            return getattr(generations, name)(*arguments)

    return call


def roles(generations):
    return [(each.role, each.spec) for each in generations]


def test_generations_are_told_whoever_has_one_open(filled, outside):
    assert roles(outside()) == [("current", OLD)]
    assert outside()[0].state_dir == filled.state_dir
    with filled.begin_generation(NEW) as new:
        assert roles(outside()) == [("current", OLD), ("next", NEW)]
        assert outside()[1].state_dir == new.state_dir
        new.commit()
        assert roles(outside()) == [("current", NEW), ("previous", OLD)]
    outside("rollback")
    assert roles(outside()) == [("current", OLD), ("previous", NEW)]
    assert filled.count() == 3


def test_committed_from_outside(filled, outside, reopen):
    with pytest.raises(InputError, match="no next generation"):
        outside("commit")
    with filled.begin_generation(NEW) as new:
        new.upsert(points(NEW, 7))
    outside("commit")
    assert roles(outside()) == [("current", NEW), ("previous", OLD)]
    assert reopen().count() == 7


def test_dropped_from_outside(filled, outside):
    for role in ("current", "previous", "next", "update"):
        with pytest.raises(InputError, match=f"cannot drop its {role} generation.*it has no other"):
            outside("drop", role)
    with filled.begin_generation(NEW) as new:
        new.upsert(points(NEW, 2))
        (new.state_dir / "ledger").write_text("half")
        folder = new.state_dir
    outside("drop", "next")
    assert roles(outside()) == [("current", OLD)]
    assert not folder.exists()
    with filled.begin_generation(NEW) as new:
        assert new.count() == 0
        new.commit()
    with pytest.raises(InputError, match="it has previous"):
        outside("drop", "current")
    filled.close()
    outside("drop", "previous")
    with pytest.raises(InputError, match="no generation to go back to"):
        outside("rollback")
    assert roles(outside()) == [("current", NEW)]


def test_there_are_no_generations_of_nothing(outside):
    with pytest.raises(StoreNotFound, match="tte-retriever index"):
        outside()


def test_a_prefix_stays_what_it_is(filled, uri):
    staged = CollectionSpec(4, "cccc", "m", prefix=2)
    with pytest.raises(InputError, match="prefix of 0 dimensions, and 2"):
        filled.ensure(CollectionSpec(4, OLD.fingerprint, prefix=2))
    with filled.begin_generation(staged) as new:
        assert new.spec == staged
        new.upsert(points(staged, 3))
    for other in (0, 3):
        with pytest.raises(InputError, match=r"next generation.*prefix of 2.*generations drop next"):
            filled.begin_generation(CollectionSpec(4, "cccc", "m", prefix=other))
    with filled.begin_generation(staged) as new:
        assert new.count() == 3
        new.commit()
        with pytest.raises(InputError, match="prefix of 2 dimensions, and 0"):
            new.ensure(CollectionSpec(4, "cccc", "m"))
        if uri != "memory://":
            with pytest.raises(InputError, match="prefix of 2"), updating(uri, CollectionSpec(4, "cccc", "m")):
                pass


def test_a_store_is_made_and_brought_up_to_date(uri):
    if uri == "memory://":
        pytest.skip("one in memory is gone when it is closed")
    for n in (3, 5):
        with updating(uri, NEW) as store:
            store.ensure(NEW)
            store.upsert(points(NEW, n))
        with open_store(uri, create=False) as store:
            assert store.count() == n
    with pytest.raises(ModelMismatch, match="--reembed"), updating(uri, OLD):
        pass
    with open_generations(uri) as generations:
        assert roles(generations.listed()) == [("current", NEW)]
