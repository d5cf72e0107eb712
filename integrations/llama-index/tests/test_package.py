from __future__ import annotations

import subprocess
import sys

import llama_index.embeddings.tte as package
import pytest
from llama_index.core import Settings
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.readers.base import BaseReader


@pytest.mark.parametrize(
    ("name", "base"),
    [("TTEEmbedding", BaseEmbedding), ("TTERetriever", BaseRetriever), ("TTEMediaReader", BaseReader)],
)
def test_class(name, base):
    assert base.__name__ in [each.__name__ for each in getattr(package, name).__mro__]


def test_all_that_is_promised_is_there():
    assert set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        assert getattr(package, name).__name__ == name
    with pytest.raises(AttributeError, match="TTEEmbeding"):
        _ = package.TTEEmbeding


def test_the_embedding_is_a_setting_of_llama_index(embedding, monkeypatch):
    monkeypatch.setattr(Settings, "_embed_model", None)
    Settings.embed_model = embedding
    assert Settings.embed_model is embedding


def run(code):
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_settings_alone_load_neither_torch_nor_a_store():
    code = (
        "import sys; from llama_index.embeddings.tte import TTEEmbedding; TTEEmbedding(); print(sorted(sys.modules))"
    )
    loaded = run(code)
    assert "'llama_index.embeddings.tte.base'" in loaded
    assert "'torch'" not in loaded
    assert "'tte_retriever_qdrant'" not in loaded


@pytest.mark.slow
def test_the_retriever_alone_needs_tte_retriever_qdrant(tmp_path):
    (tmp_path / "note.txt").write_text("a red circle")
    code = f"""
import sys
sys.modules["tte_retriever_qdrant"] = None
from llama_index.embeddings.tte import TTEEmbedding, TTEMediaReader
print([node.text for node in TTEMediaReader().load_data({str(tmp_path)!r})])
try:
    from llama_index.embeddings.tte import TTERetriever
except ImportError as error:
    print(error)
"""
    text, message = run(code).splitlines()
    assert text == "['a red circle']"
    assert message == "TTERetriever needs tte-retriever-qdrant: pip install 'llama-index-embeddings-tte[qdrant]'"
