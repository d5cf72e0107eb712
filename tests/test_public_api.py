from __future__ import annotations

import importlib
import importlib.resources
import subprocess
import sys

import pytest

import tte_retriever

# The contract of names, as far as it is due: LlamaIndex's retriever and reader come with their features.
PROMISED = {
    "tte_retriever": ["TTEEncoder", "build", "model_path", "MediaLimits", "MediaError", "TTEError"],
    "tte_retriever.training": ["train", "read_config", "TTELoss"],
    "tte_retriever_qdrant": ["open_store", "ingest", "search"],
    "llama_index.embeddings.tte": ["TTEEmbedding"],
}


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in PROMISED.items() for name in names])
def test_promised_names_can_be_imported(module, name):
    home = importlib.import_module(module)
    assert name in home.__all__
    assert getattr(home, name).__name__ == name


@pytest.mark.parametrize("module", PROMISED)
def test_whatever_a_package_lists_it_has(module):
    home = importlib.import_module(module)
    missing = [name for name in home.__all__ if getattr(home, name, None) is None]
    assert not missing
    assert set(home.__all__) <= set(dir(home))


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(AttributeError, match=r"no attribute 'TTEEncodr'; it has .*TTEEncoder"):
        tte_retriever.TTEEncodr  # noqa: B018


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("tte_retriever", {"torch", "transformers", "sentence_transformers", "PIL", "av"}),
        ("tte_retriever.media", {"torch", "torchvision", "transformers", "sentence_transformers"}),
        ("tte_retriever.training", {"torch", "transformers", "sentence_transformers"}),
        ("tte_retriever.methods.table", {"torch", "transformers", "sentence_transformers"}),
        ("tte_retriever.cli.main", {"torch", "transformers", "sentence_transformers"}),
        ("llama_index.embeddings.tte", {"torch", "transformers", "sentence_transformers"}),
    ],
)
def test_importing_stays_light(module, heavy):
    code = f"import sys, {module}; print(*sorted({heavy!r} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == []


def test_type_information_is_shipped():
    for module in set(PROMISED) - {"tte_retriever.training"}:  # its package has the file
        folder = importlib.resources.files(module)
        assert folder.joinpath("py.typed").is_file(), module
