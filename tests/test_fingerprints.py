"""Fingerprints: hashed in pieces, remembered for weights from the same files, and with or without the prompts of queries."""

from __future__ import annotations

import hashlib
import os
import shutil

import pytest

from tte_retriever import TTEEncoder, fingerprints, model_path

BUNDLED = "tte-flash-tiny"


def whole(model):
    """The definition: every tensor as one piece of float32."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().contiguous().numpy().tobytes())
    digest.update(fingerprints.settings(model).encode())
    return digest.hexdigest()[:16]


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(model_path(BUNDLED), tmp_path / "model")


@pytest.fixture
def hashed(monkeypatch, tmp_path):
    """The models that were hashed; the cache is empty and remembers small models too."""
    calls = []
    original = fingerprints.fingerprints
    monkeypatch.setattr(fingerprints, "fingerprints", lambda model: calls.append(model) or original(model))
    monkeypatch.setattr(fingerprints, "_REMEMBERED_FROM", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return calls


@pytest.mark.parametrize("piece", [1000, 1 << 20])
def test_pieces_give_the_hash_of_the_whole(monkeypatch, piece):
    monkeypatch.setattr(fingerprints, "_PIECE", piece)
    model = TTEEncoder(BUNDLED, device="cpu")
    assert fingerprints.fingerprint(model) == model.fingerprint == whole(model)


def test_a_checkpoint_is_hashed_once(folder, hashed):
    values = [TTEEncoder(str(folder), device="cpu").fingerprint for _ in range(3)]
    assert len(set(values)) == 1
    assert len(hashed) == 1


def test_changed_files_are_hashed_again(folder, hashed):
    before = TTEEncoder(str(folder), device="cpu").fingerprint
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert TTEEncoder(str(folder), device="cpu").fingerprint == before
    assert len(hashed) == 2


@pytest.mark.parametrize("in_place", [True, False])
def test_changed_weights_are_hashed_again(folder, hashed, in_place):
    before = TTEEncoder(str(folder), device="cpu").fingerprint
    model = TTEEncoder(str(folder), device="cpu")
    weight = model.transformer.model.get_input_embeddings().weight
    if in_place:
        weight.detach()[5, 7] += 1
    else:
        weight.data = weight.data + 1e-3
    assert model.fingerprint == whole(model) != before


def test_writes_that_torch_does_not_report_show_in_the_sample(folder, hashed):
    before = TTEEncoder(str(folder), device="cpu").fingerprint
    model = TTEEncoder(str(folder), device="cpu")
    model.transformer.model.get_input_embeddings().weight.data *= 1.01  # as merging an adapter does
    assert model.fingerprint == whole(model) != before


def test_a_lossy_dtype_has_its_own_fingerprint(folder, hashed):
    values = {
        TTEEncoder(str(folder), device="cpu", model_kwargs={"dtype": dtype}).fingerprint
        for dtype in ("float32", "bfloat16")
    }
    assert len(values) == 2


def test_settings_count_for_a_remembered_model(folder, hashed):
    model = TTEEncoder(str(folder), device="cpu")
    before = model.fingerprint
    model.prompts["query"] = "Find the picture."
    assert model.fingerprint != before


@pytest.mark.parametrize("content", ["", "not JSON", "3"])
def test_a_broken_cache_is_written_again(folder, hashed, tmp_path, content):
    value = TTEEncoder(str(folder), device="cpu").fingerprint
    [entry] = (tmp_path / "cache" / "tte-retriever" / "fingerprints").iterdir()
    entry.write_text(content)
    assert [TTEEncoder(str(folder), device="cpu").fingerprint for _ in range(2)] == [value, value]
    assert len(hashed) == 2


def test_a_cache_that_cannot_be_written_only_costs_time(folder, hashed, monkeypatch, tmp_path):
    (tmp_path / "a file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a file"))
    assert [TTEEncoder(str(folder), device="cpu").fingerprint for _ in range(2)] == [whole(hashed[0])] * 2


def test_the_prompt_of_queries_does_not_change_the_vectors_of_documents():
    def both(**prompts):
        model = TTEEncoder(BUNDLED, device="cpu", prompts=prompts)
        return model.fingerprint, model.document_fingerprint

    plain, asking, told = both(), both(query="Find the picture."), both(document="Represent it.")
    assert plain[0] != asking[0]
    assert plain[1] == asking[1]
    assert told[1] != plain[1]
