from __future__ import annotations

import json
import threading

import pytest
from PIL import Image

from tte_retriever.errors import InputError
from tte_retriever_qdrant import ingest, open_store
from tte_retriever_qdrant.errors import StoreError, StoreUnavailable
from tte_retriever_qdrant.ingestion import writing

pytestmark = pytest.mark.usefixtures("decode_here")


class Restive:
    """A store whose writes fail as they are told to; all else is the store's own."""

    def __init__(self, store, failures):
        self._store, self._failures, self.attempts = store, iter(failures), 0

    def __getattr__(self, name):
        return getattr(self._store, name)

    def upsert(self, points):
        self.attempts += 1
        if (failure := next(self._failures, None)) is not None:
            raise failure
        self._store.upsert(points)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(writing, "PAUSES_S", (0.01, 0.01, 0.01))


def test_a_store_that_is_not_available_for_a_while(small_folder, store, encoder, quick, uris):
    restive = Restive(store, [StoreUnavailable("busy"), StoreUnavailable("busy"), None, StoreUnavailable("busy")])
    report = ingest(small_folder, restive, encoder, batch_size=4)
    assert (report.points, store.count(), report.failed) == (9, 9, ())
    assert restive.attempts == 3 + 3  # batches of 4, 4 and 1


@pytest.mark.parametrize(
    ("failures", "attempts"), [([StoreUnavailable("busy")] * 99, 4), ([StoreError("disk full")], 1)]
)
def test_a_store_that_fails_ends_the_run_and_the_next_one_finishes(
    small_folder, store, encoder, quick, failures, attempts
):
    restive = Restive(store, failures)
    with pytest.raises(StoreError, match=str(failures[0])):
        ingest(small_folder, restive, encoder)
    assert restive.attempts == attempts
    assert ingest(small_folder, store, encoder).indexed == 5
    assert store.count() == 9


def test_points_that_wait_when_the_model_fails_are_written(small_folder, store, encoder):
    failed = threading.Event()

    class Slow(Restive):
        def upsert(self, points):
            assert failed.wait(30)
            super().upsert(points)

    class Dying(type(encoder)):
        def encode_document(self, inputs, **settings):
            if len(self.encoded) >= 4:
                failed.set()
                raise RuntimeError("out of memory")
            return super().encode_document(inputs, **settings)

    with pytest.raises(RuntimeError, match="out of memory"):
        ingest(small_folder, Slow(store, []), Dying(), batch_size=2)
    assert store.count() == 4


def test_waiting_for_a_store_can_be_interrupted(small_folder, store, encoder, monkeypatch):
    monkeypatch.setattr(writing, "PAUSES_S", (3600.0,))
    busy = threading.Event()

    class Busy(Restive):
        def upsert(self, points):
            busy.set()
            raise StoreUnavailable("busy")

    class Impatient(type(encoder)):
        def encode_document(self, inputs, **settings):
            if self.encoded:
                assert busy.wait(30)
                raise KeyboardInterrupt
            return super().encode_document(inputs, **settings)

    with pytest.raises(KeyboardInterrupt):
        ingest(small_folder, Busy(store, []), Impatient(), batch_size=4)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("tte-")]


@pytest.mark.slow
def test_writes_are_bounded_in_count_and_size(tmp_path, store, encoder, monkeypatch):
    for i in range(10):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"{i}.png")
    sizes = []

    class Counting(Restive):
        def upsert(self, points):
            sizes.append(len(points))
            self._store.upsert(points)

    ingest(tmp_path, Counting(store, []), encoder, batch_size=4)
    assert sizes == [4, 4, 2]
    sizes.clear()
    monkeypatch.setattr(writing, "_MAX_BATCH_BYTES", 3 * 12 * encoder.get_embedding_dimension())
    with open_store("memory://") as other:
        ingest(tmp_path, Counting(other, []), encoder, batch_size=8)
    assert sizes == [3, 3, 3, 1]


def test_the_model_does_not_wait_for_writes(small_folder, store, encoder):
    """The model is called again while the first write has not returned."""
    again = threading.Event()

    class Slow(Restive):
        def upsert(self, points):
            assert again.wait(30)
            self._store.upsert(points)

    class Watched(type(encoder)):
        def encode_document(self, inputs, **settings):
            if self.encoded:
                again.set()
            return super().encode_document(inputs, **settings)

    assert ingest(small_folder, Slow(store, []), Watched(), batch_size=4).points == 9


# near-duplicates


def test_near_duplicates_are_reported_except_chunks_of_one_file(small_folder, store, encoder):
    assert ingest(small_folder, store, encoder).near_duplicates == ()
    Image.new("RGB", (80, 60), (249, 240, 11)).save(small_folder / "almost yellow.webp")
    report = ingest(small_folder, store, encoder, near_duplicate=0.999)
    assert [(pair.uri, pair.of) for pair in report.near_duplicates] == [("almost yellow.webp", "yellow.png")]
    assert 0.999 <= report.near_duplicates[0].score <= 1
    assert store.count() == 10  # reported, not left out


@pytest.mark.parametrize("threshold", [1.1, float("nan")])
def test_similarities_that_make_no_sense(small_folder, store, encoder, threshold):
    with pytest.raises(InputError, match="near_duplicate"):
        ingest(small_folder, store, encoder, near_duplicate=threshold)


# the quarantine


def quarantine(store):
    lines = (store.state_dir / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    return {(entry["uri"], entry["reason"]) for entry in map(json.loads, lines)}


def test_the_quarantine_is_what_cannot_be_indexed_now(small_folder, tmp_path, store, encoder):
    ingest(small_folder, store, encoder)
    assert quarantine(store) == set()
    yellow = (small_folder / "yellow.png").read_bytes()
    (small_folder / "yellow.png").write_bytes(yellow[:50])
    (small_folder / "ünix.png").write_bytes(b"")
    Image.new("RGB", (13, 13)).save(small_folder / "refused.png")
    expected = {("yellow.png", "corrupt"), ("ünix.png", "empty"), ("refused.png", "unsupported")}
    for _ in range(2):
        ingest(small_folder, store, encoder)
        assert quarantine(store) == expected

    other = tmp_path / "other"
    other.mkdir()
    Image.new("RGB", (9, 9)).save(other / "black.png")
    ingest(other, store, encoder)
    assert quarantine(store) == expected  # of the other folder, and still so
    (small_folder / "yellow.png").write_bytes(yellow)
    (small_folder / "ünix.png").unlink()
    ingest(small_folder, store, encoder)
    assert quarantine(store) == {("refused.png", "unsupported")}


def test_the_quarantine_is_written_even_when_nothing_can_be_indexed(tmp_path, store, encoder):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(InputError, match="none of the 1 files"):
        ingest(tmp_path / "src", store, encoder)
    assert quarantine(store) == {("cut.png", "corrupt")}
