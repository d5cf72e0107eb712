"""Fixtures of several packages of tests: files, and checkpoints that are built once per session.

Every process of pytest loads this plugin, so that what takes seconds to import is imported by the fixtures.
"""

from __future__ import annotations

import functools
import io
import itertools

import pytest
from PIL import Image


@pytest.fixture(scope="session")
def pdf_bytes():
    """Three pages: red, green, blue."""
    pages = [Image.new("RGB", (200, 280), colour) for colour in ("red", "lime", "blue")]
    buffer = io.BytesIO()
    pages[0].save(buffer, "PDF", save_all=True, append_images=pages[1:])
    return buffer.getvalue()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """``checkpoint(family, rows=320, tied=True, head_dim=16)`` is the folder of a raw checkpoint; do not write to it."""
    from tests.checkpoints import save_checkpoint

    counter = itertools.count()

    @functools.cache
    def make(family, rows=320, tied=True, head_dim=16):
        folder = tmp_path_factory.mktemp("backbones") / f"{family}-{next(counter)}"
        save_checkpoint(folder, family, rows, tied, head_dim)
        return folder

    return make


@pytest.fixture(scope="session")
def built(checkpoint, tmp_path_factory):
    """``built(method, family="qwen3_vl", think_tokens=4)`` is the folder of a checkpoint, one per session; do not write to it."""
    from tte_retriever import build

    @functools.cache
    def make(method, family="qwen3_vl", think_tokens=4):
        folder = tmp_path_factory.mktemp("built") / f"{method}-{family}"
        return build(folder, backbone=checkpoint(family), method=method, think_tokens=think_tokens)

    return make


@pytest.fixture(scope="session")
def untrained(built):
    """``untrained(method, family, think_tokens)`` is the encoder of :func:`built`, shared: do not change it."""
    from tte_retriever import TTEEncoder

    @functools.cache
    def load(method, family="qwen3_vl", think_tokens=4):
        return TTEEncoder(str(built(method, family, think_tokens)), device="cpu").eval()

    return load


@pytest.fixture(scope="session")
def language_model(tmp_path_factory):
    """The folder of a causal language model like Qwen3-0.6B; do not write to it."""
    from tests.checkpoints import save_language_model

    folder = tmp_path_factory.mktemp("language-model") / "Qwen3-0.6B"
    save_language_model(folder)
    return folder


@pytest.fixture(scope="session")
def plume_original(checkpoint, tmp_path_factory):
    """``plume_original()`` is a folder as PLUME's trainer saves it; ``edit`` may change its weights before that."""
    from tests.checkpoints import MARKS, save_plume_original

    def make(edit=lambda weights: weights, marks=MARKS):
        folder = tmp_path_factory.mktemp("plume") / "original"
        save_plume_original(folder, checkpoint("qwen2_vl"), edit, marks)
        return folder

    return make


@pytest.fixture(scope="session")
def embedding_model(checkpoint, tmp_path_factory):
    """``embedding_model(family, added)`` is a backbone like Qwen3-VL-Embedding, whose tokenizer adds tokens by itself."""
    from tests.checkpoints import save_embedding_model

    @functools.cache
    def make(family, added="appended", tied=True):
        folder = tmp_path_factory.mktemp("embedding") / f"{family}-{added}"
        save_embedding_model(folder, checkpoint(family, tied=tied), added, tied=tied)
        return folder

    return make
