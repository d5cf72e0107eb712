from __future__ import annotations

import time
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from tte_retriever import TTEEncoder
from tte_retriever.errors import CheckpointError, InputError
from tte_retriever_qdrant import ingest, open_store, search
from tte_retriever_qdrant.encoder import StreamingEncoder
from tte_retriever_qdrant.ingestion import embedding
from tte_retriever_qdrant.ingestion.decoder_pool import DecoderPool


@pytest.fixture
def streaming(standin):
    """A function that makes a stand-in that streams: it takes items ahead, and remembers how many and of which stream."""

    class Streaming(standin):
        def __init__(self):
            super().__init__()
            self.prompts, self.prompt_names, self.streams = {"query": "q", "passage": "p"}, set(), []

        def encode_document(self, *args, **kwargs):
            raise AssertionError("it streams")

        def embed(self, inputs, *, look_ahead, prompt_name, on_error):
            assert on_error == "yield"
            self.prompt_names.add(prompt_name)
            source = iter(inputs)
            self.streams.append(0)
            while window := list(islice(source, look_ahead)):
                self.streams[-1] += len(window)
                for index, item in enumerate(window):
                    yield self._result(index, item)

        def _result(self, index, item):
            if "image" in item and item["image"].size == (13, 13):
                error = InputError(f"Item {index} cannot be encoded: too odd")
                error.__cause__ = InputError("too odd")
                return error
            self.encoded.append(item)
            return self._vector(item)

    return Streaming


@pytest.mark.slow
def test_a_stream_gives_what_batches_give(small_folder, store, encoder, streaming, contents):
    Image.new("RGB", (13, 13), "red").save(small_folder / "refused.png")
    Image.new("RGB", (17, 17), "red").save(small_folder / "nan.png")
    model = streaming()
    assert isinstance(model, StreamingEncoder)
    assert not isinstance(encoder, StreamingEncoder)
    report = ingest(small_folder, store, model, batch_size=2)
    assert {failure.uri for failure in report.failed} == {"refused.png", "nan.png"}
    assert {failure.message for failure in report.failed if failure.uri == "refused.png"} == {"too odd"}
    assert model.prompt_names == {"passage"}  # as encode_document would choose
    with open_store("memory://") as other:
        ingest(small_folder, other, encoder)
        assert contents(store) == contents(other)


def test_pictures_with_the_model_are_bounded_by_their_pixels(tmp_path, store, streaming, monkeypatch):
    monkeypatch.setattr(embedding, "_MAX_PIXELS", 3 * 40 * 30)
    for i in range(10):
        Image.new("RGB", (40, 30), (20 * i, 0, 0)).save(tmp_path / f"{i}.png")
    model = streaming()
    assert ingest(tmp_path, store, model, batch_size=8).points == 10
    assert sum(model.streams) == 10
    assert max(model.streams) == 3


def test_an_error_that_is_no_fault_of_the_item_ends_the_run(small_folder, store, streaming):
    class Broken(streaming):
        def _result(self, index, item):
            return CheckpointError("the processor is broken")

    with pytest.raises(CheckpointError, match="processor"):
        ingest(small_folder, store, Broken())


def test_decoding_goes_on_while_the_model_computes(small_folder, store, standin, monkeypatch):
    pools = []
    start = DecoderPool.__init__
    monkeypatch.setattr(
        DecoderPool, "__init__", lambda self, *args, **kw: (pools.append(self), start(self, *args, **kw))[1]
    )

    class Waiting(standin):
        def encode_document(self, inputs, **settings):
            deadline = time.monotonic() + 30
            while not self.encoded and not pools[0]._done:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            return super().encode_document(inputs, **settings)

    assert ingest(small_folder, store, Waiting(), batch_size=2).points == 9


def test_the_bundled_model_streams_the_vectors_of_encode_document(small_folder, store):
    model = TTEEncoder("tte-flash-tiny")
    ingest(small_folder, store, model)
    picture = Image.open(small_folder / "yellow.png").convert("RGB")
    (vector,) = model.encode_document([{"image": picture}])
    hit = store.search(vector, limit=1)[0]
    assert hit.payload["uri"] == "yellow.png"
    assert hit.score == pytest.approx(1, abs=1e-4)
    assert np.isfinite([hit.score for hit in search(store, model, text="yellow", top_k=9)]).all()


def test_a_file_that_the_bundled_model_makes_nan_of_is_named_and_the_others_are_stored(small_folder, store, uris):
    model = TTEEncoder("tte-flash-tiny", device="cpu")
    (small_folder / "ring.txt").write_text("a blue ring " * 60)
    tokens = int(model.preprocess([(small_folder / "ring.txt").read_text().strip()])["attention_mask"].sum())

    def spoil(_module, inputs, output):
        output["sentence_embedding"][inputs[0]["attention_mask"].sum(1) == tokens] = float("nan")
        return output

    model[1].register_forward_hook(spoil)
    report = ingest(small_folder, store, model)
    assert [(failure.uri, failure.reason) for failure in report.failed] == [("ring.txt", "unsupported")]
    assert report.failed[0].message.startswith("1 of 1 vectors hold NaN or infinity")
    assert sum(uris(store).values()) == report.points == 9
