from __future__ import annotations

import importlib
import importlib.resources
import subprocess
import sys

import pytest

import tte_retriever

# Names that users import. Renaming or moving one is a breaking change.
PROMISED = {
    "tte_retriever": ["TTEEncoder", "build", "model_path", "MediaLimits", "MediaError", "TTEError"],
    "tte_retriever.training": ["train", "read_config", "TTELoss"],
    "tte_retriever_qdrant": ["open_store", "ingest", "search"],
    "llama_index.embeddings.tte": ["TTEEmbedding", "TTEMediaReader", "TTERetriever"],
}


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in PROMISED.items() for name in names])
def test_promised_names_can_be_imported(module, name):
    package = importlib.import_module(module)
    assert name in package.__all__
    assert getattr(package, name).__name__ == name


@pytest.mark.parametrize("module", PROMISED)
def test_whatever_a_package_lists_it_has(module):
    package = importlib.import_module(module)
    missing = [name for name in package.__all__ if getattr(package, name, None) is None]
    assert not missing
    assert set(package.__all__) <= set(dir(package))


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(AttributeError, match=r"no attribute 'TTEEncodr'; it has .*TTEEncoder"):
        tte_retriever.TTEEncodr  # noqa: B018


MODELS = {"torch", "torchvision", "transformers", "sentence_transformers"}
HEAVY = {  # what a module must not import, in an order in which one process imports them all
    "tte_retriever": MODELS | {"PIL", "av"},
    "tte_retriever.cli.main": MODELS,
    "tte_retriever.methods.table": MODELS,
    "tte_retriever.media": MODELS,
    "tte_retriever.training": MODELS,
    "llama_index.embeddings.tte": MODELS,
}


def test_importing_stays_light():
    code = f"""
import importlib, sys
for module, heavy in {HEAVY}.items():
    importlib.import_module(module)
    if found := heavy & set(sys.modules):
        print(module, "imports", *sorted(found))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout == ""


def test_type_information_is_shipped():
    for module in set(PROMISED) - {"tte_retriever.training"}:  # its package has the file
        folder = importlib.resources.files(module)
        assert folder.joinpath("py.typed").is_file(), module
