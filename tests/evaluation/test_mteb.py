"""mteb's own mock tasks of retrieval, through the encoder and mteb's own wrapper for sentence-transformers."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch

from tte_retriever import TTEEncoder
from tte_retriever.media import typed_input


class Recording(TTEEncoder):
    """Remembers what was encoded and to what."""

    def encode(self, inputs, **kwargs):
        vectors = super().encode(inputs, **kwargs)
        self.seen.append((list(inputs), vectors))
        return vectors


@pytest.fixture(scope="module")
def mteb():
    """The package, imported when a test runs: it takes seconds, in every process that collects."""
    pytest.importorskip("mteb.mocks", reason="pip install tte-retriever[eval]")
    return importlib.import_module("mteb")


@pytest.fixture(scope="module")
def wrapper(mteb):
    class Wrapper(mteb.SentenceTransformerEncoderWrapper):
        """mteb's wrapper, which reads videos through torchcodec, made to hand their bytes to the encoder."""

        def encode(self, inputs, *, prompt_type=None, **kwargs):
            from datasets import Video

            if "video" not in inputs.dataset.features:
                return super().encode(inputs, prompt_type=prompt_type, **kwargs)
            rows = inputs.dataset.cast_column("video", Video(decode=False))
            items = [{"video": row["video"]["bytes"]} for row in rows]
            return self.model.encode_query(items) if prompt_type == "query" else self.model.encode_document(items)

    model = Recording("tte-flash-tiny", device="cpu")
    wrapped = Wrapper(model)
    modalities = [name for name in model.modalities if name != "message"]
    wrapped.mteb_model_meta = wrapped.mteb_model_meta.model_copy(update={"modalities": modalities})
    return wrapped


def kinds(items):
    return {kind for item in items for kind in typed_input(item)}


@pytest.mark.parametrize(
    ("task", "queries", "documents"),
    [
        ("MockRetrievalTask", "text", "text"),
        ("MockAny2AnyRetrievalT2ITask", "text", "image"),
        ("MockAny2AnyRetrievalI2TTask", "image", "text"),
        ("MockVideoRetrievalT2V", "text", "video"),
        ("MockVideoRetrievalV2T", "video", "text"),
    ],
)
def test_scores_of_mock_tasks_agree_with_the_vectors(mteb, wrapper, task, queries, documents):
    wrapper.model.seen = seen = []
    results = mteb.evaluate(wrapper, getattr(mteb.mocks, task)(), cache=None, show_progress_bar=False)
    assert not results.exceptions
    scores = results.task_results[0].scores
    assert len(seen) == 2 * len(scores) > 0
    for split, (asked, question), (given, answer) in zip(scores, seen[::2], seen[1::2], strict=True):
        assert (kinds(asked), kinds(given)) == ({queries}, {documents})
        # In each of these tasks, question i is answered by document i alone, out of two.
        best = wrapper.model.similarity(torch.as_tensor(question), torch.as_tensor(answer)).argmax(1).tolist()
        assert scores[split][0]["ndcg_at_1"] == pytest.approx(np.mean([best[0] == 0, best[1] == 1]))
